"""Turns a MatMul of matrices into a Gemm where that gives a BatchNorm a bias to go into.

    BatchNorm(x·W)      becomes  BatchNorm(Gemm(x, W, 0))
    BatchNorm(x·W + c)  becomes  BatchNorm(Gemm(x, W, c))

TensorFlow and Keras write their dense layers as MatMul and Add. The two are one Gemm if x is
known to be a matrix (MatMul also takes stacks of them, Gemm does not), W and c are constant and
c has one value for each column, or one for all. Elsewhere a MatMul stays a MatMul.
"""

import numpy as np
import onnx_ir as ir

from repr_export.graph.values import (
    Names,
    constant_of,
    graph_nodes,
    is_op,
    node_name,
    set_constant_input,
)
from repr_export.passes.result import PassResult


def matmul_to_gemm(model: ir.Model) -> PassResult:
    """Rewrite every such MatMul, in place."""
    count = 0
    names = Names(model)
    for node in list(graph_nodes(model)):
        if is_op(node, "BatchNormalization"):
            count += _rewrite(node, names)
    return PassResult(count, "MatMuls made Gemms")


def _rewrite(batchnorm: ir.Node, names: Names) -> int:
    result = batchnorm.inputs[0]
    last = _sole_producer(result, batchnorm)
    if result is None or last is None:
        return 0
    matmul, bias = (last, None) if is_op(last, "MatMul") else _split_add(last)
    if matmul is None:
        return 0
    data, weight = matmul.inputs
    tensor = constant_of(weight)
    if data is None or data.shape is None or len(data.shape) != 2:
        return 0
    if tensor is None or len(tensor.shape) != 2:
        return 0
    columns = tensor.numpy().shape[1]
    array = np.zeros(columns, tensor.numpy().dtype) if bias is None else bias.numpy()
    if array.shape not in ((), (1,), (columns,), (1, 1), (1, columns)):
        return 0  # among them a column, of one value for each row
    gemm = ir.Node(
        "", "Gemm", [data, weight, None], name=matmul.name, num_outputs=1, version=matmul.version
    )
    output = gemm.outputs[0]
    output.name, output.type, output.shape = result.name, result.type, result.shape
    graph = last.graph
    assert graph is not None
    graph.insert_before(last, gemm)
    set_constant_input(gemm, 2, array, names, f"{node_name(matmul)}.bias")
    result.replace_all_uses_with(output)
    graph.remove(last, safe=True)
    if matmul is not last:
        graph.remove(matmul, safe=True)
    return 1


def _sole_producer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """The node that computes ``value`` in the reader's graph, if no one else reads it."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    producer = value.producer()
    return producer if producer is not None and producer.graph is reader.graph else None


def _split_add(node: ir.Node) -> tuple[ir.Node | None, ir.TensorProtocol | None]:
    """The MatMul and the constant that an Add adds, in either order."""
    if is_op(node, "Add"):
        for value, other in (node.inputs, reversed(node.inputs)):
            constant = constant_of(other)
            producer = _sole_producer(value, node)
            if constant is not None and producer is not None and is_op(producer, "MatMul"):
                return producer, constant
    return None, None
