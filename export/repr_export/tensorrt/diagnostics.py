"""What TensorRT says when it refuses a graph or a build, in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx

from repr_export.errors import ParserIssue

if TYPE_CHECKING:
    import tensorrt as trt


# what the library says -> what to do; the first that is found in its words holds
_PARSER_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"type UInt8 but must",
        "put a Cast to float32 in front of it: TensorRT takes uint8 as a graph's input or output "
        "alone, and casts it",
    ),
    (
        r"type Int32 but must have type FP8",
        "int32 behind DequantizeLinear, as ONNX Runtime quantizes biases, is not taken: keep the "
        "bias in float (QuantizeBias=False), or let repr-export quantize: --int8",
    ),
    (
        r"[Nn]on-zero zero point",
        "quantize symmetrically, with zero points of 0, or let repr-export quantize: --int8",
    ),
    (
        r"same input types|types Float and Half|types Half and Float|types \w+ and \w+",
        "types are never converted silently: put a Cast on one of the inputs",
    ),
    (
        r"Plugin not found",
        "it is not an operator of the ONNX standard: write it with standard operators, or inline "
        "the function behind it",
    ),
    (
        r"ONNX dat[ae] type",
        "the type is not one that TensorRT has: cast it before the graph",
    ),
    (
        r"Failed to import initializer|WeightsContext",
        "weights must be inside the ONNX file, in a type that TensorRT has",
    ),
    (
        r"no such operator",
        "write it with other operators, see https://github.com/onnx/onnx-tensorrt/blob/main/docs/"
        "operators.md, or run this graph with ONNX Runtime",
    ),
    (
        r"must match|mismatch|dimension|shape",
        "the shapes do not fit each other: check the graph with onnx.checker (full_check=True)",
    ),
)
_ANY_GRAPH = "change the network there, or run this graph with ONNX Runtime"

_BUILD_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"libnvinfer_lean|nvinfer_lean",
        "a version-compatible engine carries TensorRT's lean runtime, which this installation does "
        "not have: leave out --version-compatible",
    ),
    (
        r"for Turing|SM75",
        "GPUs of compute capability 7.5 take half-precision matrix products only: build the fp16 "
        "graph, or for 8.0 and later",
    ),
    (
        r"CUDA error 222",  # CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        "222 is CUDA's word for code (PTX) that is newer than the driver: update NVIDIA's driver",
    ),
    (r"graph_jit", "this step needs a GPU and its driver, which building does not need otherwise"),
    (r"driver version is insufficient", "build where there is a GPU and its driver"),
    (r"[Oo]ut of memory|insufficient memory", "give smaller --shapes, or free the GPU's memory"),
)
_ANY_BUILD = "build with other options, or run the graph with ONNX Runtime"


def parser_issues(
    parser: trt.OnnxParser, model: onnx.ModelProto, fallback: Sequence[str]
) -> tuple[ParserIssue, ...]:
    """The parser's errors, one for each reason; ``fallback`` are the logger's words."""
    issues = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator, number = str(error.node_operator() or ""), int(error.node())
        node = describe_node(str(error.node_name() or ""), number if operator else -1, model)
        reason = plain(str(error.desc()))
        if not reason or reason == "false":
            opset = max(
                (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
            )
            reason = f"TensorRT has no such operator (opset {opset})"
        issues.append(ParserIssue(node, operator, reason, _hint(reason, _PARSER_HINTS, _ANY_GRAPH)))
    if not issues:
        reason = "; ".join(dict.fromkeys(filter(None, map(plain, fallback)))) or "no reason given"
        issues.append(ParserIssue("", "", reason, _hint(reason, _PARSER_HINTS, _ANY_GRAPH)))
    return tuple(dict.fromkeys(issues))


def describe_node(name: str, number: int, model: onnx.ModelProto) -> str:
    """The node's name, or for want of one its number and what it makes; empty for no node."""
    if name:
        return repr(name)
    if not 0 <= number < len(model.graph.node):
        return ""
    return f"{number}, which makes {model.graph.node[number].output[0]!r},"


def build_failure(errors: Sequence[str]) -> str:
    """Why a build failed, from the logger's words, and what to do."""
    reasons = tuple(dict.fromkeys(filter(None, map(plain, errors))))
    hint = _hint("\n".join(errors), _BUILD_HINTS, _ANY_BUILD)
    return f"{'; '.join(reasons) or 'it gave no reason'}; {hint}"


def plain(text: str) -> str:
    """The library's words without its source files, function names and repetitions."""
    lines = []
    for line in text.strip().splitlines():
        # Without a GPU each error is followed by one about the missing driver, whatever it was.
        if "catchCudaError" in line or re.match(r"Invalid Node - ", line):
            continue
        line = re.sub(r"^\S+: Error Code \d+: [\w ]+ ", "", line.strip())
        line = re.sub(r"\.? ?In \w+ at /\S+:\d+", "", line)
        line = re.sub(r"^\w+\.cpp:\d+: ", "", line)
        if line.startswith("(") and line.endswith(")"):
            line = line[1:-1]
        if quoted := re.search(r'&& "([^"]+)"\.?$', line):  # a C++ assertion with its message
            line = quoted[1]
        line = re.sub(r"^Assertion failed: (?:[^:]+: )?", "", line)
        lines.append(line.strip().rstrip("."))
    return " ".join(filter(None, lines))


def _hint(reason: str, hints: tuple[tuple[str, str], ...], otherwise: str) -> str:
    return next((hint for pattern, hint in hints if re.search(pattern, reason)), otherwise)
