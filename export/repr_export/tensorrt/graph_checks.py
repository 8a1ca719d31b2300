"""Is this a graph that TensorRT can be given, and did it understand it as it is written?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from repr_export.errors import GraphError, ParserError, ParserIssue, first_line
from repr_export.tensorrt.diagnostics import describe_node, parser_issues
from repr_runtime.artifact.onnx_file import cost_of
from repr_runtime.backends.tensorrt.library import Library
from repr_runtime.backends.tensorrt.messages import Messages
from repr_runtime.errors import ModelLoadError

if TYPE_CHECKING:
    import tensorrt as trt

_TENSORRT_NAMES = {"FLOAT16": "HALF", "BFLOAT16": "BF16"}  # the others are called as in ONNX


def read_graph(graph: bytes) -> onnx.ModelProto:
    """The graph, if it is whole and its quantization is one that TensorRT does not reinterpret."""
    try:
        if cost_of(graph).external:
            raise GraphError(
                "the graph keeps weights in other files, whose content its SHA-256 would not "
                "cover; save it with the weights inside"
            )
        model = onnx.load_model_from_string(graph)
    except ModelLoadError as error:
        raise GraphError(str(error)) from error
    except Exception as error:  # protobuf's own, which differs between versions
        raise GraphError(f"the graph is not a readable ONNX file ({first_line(error)})") from error
    if not model.graph.node or not model.graph.output:  # TensorRT would parse it all the same
        raise GraphError("the graph has no nodes or no outputs; export it again")
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and _is_unsigned(node, model):
            issue = ParserIssue(
                describe_node(node.name, number, model),
                node.op_type,
                "it is of uint8, which TensorRT would silently take for int8",
                "give it the int8 graph made for TensorRT (repr-export --int8 writes both)",
            )
            raise ParserError(str(issue), (issue,))
    return model


def _is_unsigned(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear stands for uint8 by its zero point's type."""
    if len(node.input) > 2 and node.input[2]:
        for tensor in model.graph.initializer:
            if tensor.name == node.input[2]:
                return bool(tensor.data_type == onnx.TensorProto.UINT8)
        return False
    if node.op_type == "DequantizeLinear":
        return False  # without a zero point its type is that of what it gets
    chosen = [a.i for a in node.attribute if a.name == "output_dtype"]
    return not chosen or chosen[0] in (0, onnx.TensorProto.UINT8)  # uint8 is ONNX's default


def require_accepted(
    library: Library,
    accepted: bool,
    parser: trt.OnnxParser,
    model: onnx.ModelProto,
    messages: Messages,
) -> None:
    """Raise :class:`ParserError` with all that the parser found wrong."""
    if accepted and parser.num_errors == 0:
        return
    issues = parser_issues(parser, model, messages.errors)
    raise ParserError(
        f"{library.title} refuses the graph: " + "\n  ".join(map(str, issues)), issues
    )


def require_types(
    library: Library, network: trt.INetworkDefinition, model: onnx.ModelProto
) -> None:
    """The engine's inputs and outputs have the graph's types: TensorRT makes float of double."""
    expected = {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        for value in (*model.graph.input, *model.graph.output)
    }
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        wanted = expected.get(tensor.name, "")
        if wanted and _TENSORRT_NAMES.get(wanted, wanted) != tensor.dtype.name:
            issue = ParserIssue(
                "",
                "",
                f"{library.title} takes {tensor.name!r}, which is {wanted.lower()} in the graph, for "
                f"{tensor.dtype.name.lower()}",
                "put a Cast to float32 at the graph's edge",
            )
            raise ParserError(str(issue), (issue,))
