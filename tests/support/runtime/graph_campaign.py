"""Graphs that nearly are some, each made from its number: loaded and read, answered or refused.

Run as a program: WAY FIRST COUNT FOLDER, where WAY is ``load`` (a sealed artifact around each) or
``read`` (as `repr-export` reads it, passes included). Says in JSON what came of them, and which of
them are wrong; before each, its number stands in FOLDER/at, for whoever finds that it crashed.
"""

import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import costly_graphs as costly
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from peak_memory import peak_memory

from repr_runtime.errors import ReproError

MEMORY = 6 * 2**30  # of addresses, beyond what the libraries take
SECONDS = 60.0
NUMBERS = (-1, 0, 1, 2, 3, 5, 64, 65, 2**16, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
OPERATORS = (
    *("Relu", "Add", "Conv", "Gemm", "MatMul", "Reshape", "Expand", "Tile", "Pad", "Resize"),
    *("ConstantOfShape", "Range", "Concat", "Split", "Gather", "If", "Loop", "Scan", "F0", "F1"),
    *("OneHot", "EyeLike", "NonZero", "Slice", "Transpose", "Cast", "BatchNormalization", "LSTM"),
    *("Einsum", "TopK", "Unique", "SequenceInsert", "QuantizeLinear", "Constant", "Nothing", ""),
)
NAMES = ("", "input", "logits", "w", "k", "c", "s", "a\0b", "\U0001f600", "../x", "n" * 300)


def bases() -> list[bytes]:
    node, generator = costly.node, np.random.default_rng(0)
    k = generator.normal(size=(2, 1, 2, 2)).astype(np.float32)
    w = generator.normal(size=(18, 4)).astype(np.float32)
    conv = [
        node("Reshape", ["input", "s"], ["image"]),
        node("Conv", ["image", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "one", "one", "one", "one"], ["b"]),
        node("Flatten", ["b"], ["f"]),
        node("MatMul", ["f", "w"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [node("Neg", ["input"], ["z"])], "then", [], [value("z", TensorProto.FLOAT, ["n", 4])]
    )
    other = helper.make_graph(
        [node("Abs", ["input"], ["z"])], "else", [], [value("z", TensorProto.FLOAT, ["n", 4])]
    )
    return [
        costly.graph(
            conv, s=np.int64([-1, 1, 2, 2]), k=k, w=w, one=np.ones(2, np.float32)
        ),
        costly.graph(
            [node("If", ["c"], ["logits"], then_branch=branch, else_branch=other)], c=np.array(True)
        ),
        costly.calling(3, 2),
        costly.large_constants(2, 7),
        costly.sparse(9),
    ]  # fmt: skip


def spoilt_bytes(draw: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        place = draw.randrange(len(data) + 1)
        length = draw.choice((1, 2, 5, 40))
        match draw.randrange(6):
            case 0 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place : place + length] = draw.randbytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length] * draw.choice((1, 3, 100))
            case 4:
                data[place:place] = draw.choice((b"\xff" * 10, b"\0", b"\x3a\x00", b"\xff\xff\x7f"))
            case _:
                del data[place:]
    return bytes(data)


def spoilt_tensor(draw: random.Random, tensor: Any) -> None:
    match draw.randrange(5):
        case 0:
            tensor.data_type = draw.randrange(30)
        case 1:
            tensor.dims.append(draw.choice(NUMBERS))
        case 2 if tensor.dims:
            tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
        case 3:
            tensor.raw_data = tensor.raw_data[: draw.randrange(9)]
        case _:
            tensor.name = draw.choice(NAMES)


def spoilt_node(draw: random.Random, node: Any, graph: Any) -> None:
    match draw.randrange(8):
        case 0:
            node.op_type = draw.choice(OPERATORS)
        case 1:
            node.domain = draw.choice(("", "ai.onnx", "own", "com.microsoft", "ai.onnx.ml"))
        case 2:
            node.input.append(draw.choice(NAMES))
        case 3 if node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice(NAMES)
        case 4 if node.output:
            node.output[draw.randrange(len(node.output))] = draw.choice(NAMES)
        case 5 if node.attribute:
            attribute = draw.choice(node.attribute)
            attribute.type = draw.randrange(16)
            attribute.ints.extend(draw.choices(NUMBERS, k=3))
            attribute.i = draw.choice(NUMBERS)
        case 6:
            whole = graph.SerializeToString()  # before it has itself within
            body = node.attribute.add(name=draw.choice(("body", "then_branch", "value")))
            body.type = AttributeProto.GRAPH
            body.g.ParseFromString(whole)
        case _:
            size = numpy_helper.from_array(np.int64([draw.choice(NUMBERS)]))
            node.attribute.add(name="value", type=AttributeProto.TENSOR, t=size)


def spoilt_model(draw: random.Random, content: bytes) -> bytes:
    model = onnx.ModelProto.FromString(content)
    graphs = [model.graph]
    for _ in range(draw.choice((1, 1, 1, 2))):
        graph = draw.choice(graphs)
        nodes = [*graph.node, *(n for f in model.functions for n in f.node)]
        match draw.randrange(9):
            case 0 if graph.initializer:
                spoilt_tensor(draw, draw.choice(graph.initializer))
            case 1 if nodes:
                spoilt_node(draw, draw.choice(nodes), graph)
            case 2:
                value = draw.choice((*graph.input, *graph.output))
                dims = value.type.tensor_type.shape.dim
                dims.add(dim_value=draw.choice(NUMBERS))
                dims[draw.randrange(len(dims))].dim_value = draw.choice(NUMBERS)
            case 3:
                draw.choice(
                    (*graph.input, *graph.output)
                ).type.tensor_type.elem_type = draw.randrange(30)
            case 4:
                draw.choice((*graph.input, *graph.output)).name = draw.choice(NAMES)
            case 5:
                model.opset_import.add(
                    domain=draw.choice(("", "own", "x")), version=draw.choice(NUMBERS)
                )
            case 6:
                size = np.int64(draw.choices(NUMBERS, k=draw.choice((1, 2, 9))))
                graph.initializer.append(numpy_helper.from_array(size, "size"))
                graph.node.add(
                    op_type=draw.choice(OPERATORS), input=["size", "input"], output=["made"]
                )
                graph.node.add(op_type="Add", input=["made", "input"], output=["logits"])
            case 7 if nodes:
                kept = draw.choice(nodes).SerializeToString()
                for _ in range(draw.choice((1, 50))):
                    graph.node.add().ParseFromString(kept)
            case _:
                model.ir_version = draw.choice(NUMBERS[:-2])
    return bytes(model.SerializeToString())


def made(number: int, good: list[bytes]) -> bytes:
    draw = random.Random(number)
    spoilt = spoilt_bytes if draw.random() < 0.4 else spoilt_model
    try:
        return spoilt(draw, draw.choice(good))
    except (ValueError, TypeError):  # what protobuf does not write
        return spoilt_bytes(draw, good[0])


def loader(folder: Path) -> Callable[[bytes], str]:
    """Loads an artifact around a graph and runs it: as ONNX Runtime alone would."""
    import onnxruntime as ort

    from repr_runtime import Limits, load
    from repr_runtime.artifact.manifest import Manifest, NetworkInfo, TensorSpec, WeightsInfo
    from repr_runtime.artifact.reading import describe_file
    from repr_runtime.artifact.writing import write_artifact

    ends = [(TensorSpec(name, "float32", ("n", 4)),) for name in ("input", "logits")]
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)

    def alone(content: bytes) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"input": x})

    def one(content: bytes) -> str:
        files = {"model.onnx": content}
        manifest = Manifest(
            network=NetworkInfo("x", "x", None, 1, 1, "onnx"),
            weights=WeightsInfo("onnx", "x", None, {}),
            inputs=ends[0],
            outputs=ends[1],
            preprocessing=None,
            labels=None,
            files=(describe_file("model.onnx", content, "graph", "fp32"),),
            receipts={},
            versions={},
        )
        write_artifact(folder / "a", manifest, files)
        limits = Limits(run_seconds=5, load_seconds=20)
        with load(
            folder / "a", device="cpu", threads=1, limits=limits, nonfinite="allow"
        ) as session:
            (found,) = session.run(x).values()
        (expected,) = alone(content)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        return "answered"

    return one


def reader(folder: Path) -> Callable[[bytes], str]:
    """Reads the graph as an export does, folds it and writes it."""
    from repr_export.graph.serialize import serialize
    from repr_export.options import ExportOptions
    from repr_export.passes import PassError, run_pipeline
    from repr_export.sources.opening import open_source

    def one(content: bytes) -> str:
        path = folder / "graph.onnx"
        path.write_bytes(content)
        model = open_source(str(path), ExportOptions()).model()
        try:
            run_pipeline(model)
        except PassError:  # which `export` says as GraphError
            return "PassError"
        serialize(model)
        return "read"

    return one


def main(way: str, first: str, count: str, place: str) -> None:
    folder, came, wrong = Path(place), Counter[str](), []
    one = {"load": loader, "read": reader}[way](folder)
    good = bases()
    for content in good:
        one(content)  # the libraries are all there, and the graphs are good
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for number in range(int(first), int(first) + int(count)):
        (folder / "at").write_text(str(number))
        begin = time.monotonic()
        try:
            said = one(made(number, good))
        except ReproError as error:
            said = type(error).__name__
            if len(str(error)) > 1600:
                wrong.append(f"{number}: {len(str(error))} characters")
        except BaseException as error:
            said = "wrong"
            wrong.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
        if time.monotonic() - begin > SECONDS:
            wrong.append(f"{number}: {time.monotonic() - begin:.0f} s")
        came[said] += 1
    peak = peak_memory() // 2**20
    print(json.dumps({"came": came, "wrong": wrong, "MiB": peak}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
