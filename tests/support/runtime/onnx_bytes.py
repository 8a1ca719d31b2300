"""A small ONNX file out of nodes, float32 inputs and outputs, and weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Any] | None = None,
) -> bytes:
    """The file's content; ``weights`` are arrays by name."""
    infos = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in kind.items()]
        for kind in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", *infos, initializer=tensors)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
