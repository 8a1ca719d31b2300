"""What the tests of int8 share: a small residual network, its images, and questions to a Q/DQ graph."""

import numpy as np
import onnx
import onnxruntime as ort

from repr_export.precision.int8.calibration import CalibrationSet

# A stem, a residual block with a projection, a grouped, a depthwise and a linear layer, a head.
NET = """net (float[N,3,8,8] input) => (float[N,5] logits) {
    [stem] s = Conv<pads=[1,1,1,1]>(input, w_stem, b_stem)
    [stem_relu] x = Relu(s)
    [left] l = Conv<pads=[1,1,1,1], group=2>(x, w_left, b_left)
    [left_relu] lr = Relu(l)
    [left2] l2 = Conv<pads=[1,1,1,1], group=8>(lr, w_left2, b_left2)
    [right] r = Conv(x, w_right, b_right)
    [sum] t = Add(l2, r)
    [sum_relu] tr = Relu(t)
    [pool] p = GlobalAveragePool(tr)
    [flat] f = Flatten(p)
    [hidden] h = Gemm<transB=1>(f, w_hidden, b_hidden)
    [hidden_relu] hr = Relu(h)
    [head] logits = Gemm(hr, w_head, b_head)
}"""
SHAPES = {
    "stem": (8, 3, 3, 3),
    "left": (8, 4, 3, 3),
    "left2": (8, 1, 3, 3),
    "right": (8, 8, 1, 1),
    "hidden": (6, 8),
    "head": (6, 5),
}
OUTPUTS = {"stem": 8, "left": 8, "left2": 8, "right": 8, "hidden": 6, "head": 5}
INNER = ("left", "left2", "right", "hidden")


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    drawn = {}
    for name, shape in SHAPES.items():
        fan = np.prod(shape[1:]) if len(shape) == 4 else 8
        drawn[f"w_{name}"] = (rng.normal(size=shape) / np.sqrt(fan)).astype(np.float32)
        drawn[f"b_{name}"] = (rng.normal(size=OUTPUTS[name]) / 10).astype(np.float32)
    return drawn


def images(count: int = 24, shape: tuple[int, ...] = (3, 8, 8)) -> CalibrationSet:
    values = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    return CalibrationSet(values, "noise")


def load(graph: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(graph).graph


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def initializers(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(each for each in graph.node if each.name == name)


def dequantized(graph: onnx.GraphProto, name: str, index: int) -> onnx.NodeProto:
    """The DequantizeLinear in front of an input of a node, which must be there."""
    made = producers(graph)[node(graph, name).input[index]]
    assert made.op_type == "DequantizeLinear"
    return made


def run(graph: bytes, feed: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: feed})[0]
    return result
