"""A half precision graph rewritten so that a CPU computes what half precision hardware would."""

import numpy as np
import onnx_ir as ir

from repr_export.graph.values import Names, cast_to, is_op

_HALVES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
_FLOAT = ir.DataType.FLOAT


def emulate_half(model: ir.Model) -> ir.Model:
    """A copy of ``model`` with float32 in place of fp16 and bf16, and the same rounding.

    ONNX Runtime's CPU kernels lack bfloat16, and most of them lack float16: there it computes
    in float32 and takes the Casts in between away as "precision free", so that on a CPU an fp16
    graph neither rounds nor overflows behind its weights. An accuracy measured so would be
    too good.

    Here constants keep their half values, and each result that was half is rounded by a Cast
    there and back, which ONNX Runtime leaves alone. So what goes into and out of each node are
    half numbers, and what happens inside is float32, as in tensor cores, which multiply
    exactly and add in float32. Not emulated are the order of those additions, and kernels that
    fuse several nodes and so round less often. Inputs and outputs keep their types. For
    accuracy, never for latency.
    """
    copy = model.clone()
    graph, names = copy.graph, Names(copy)
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in _HALVES and not value.is_graph_input():
            wide = tensor.numpy().astype(np.float32)
            value.const_value = ir.tensor(wide, name=value.name)
            value.type = ir.TensorType(_FLOAT)
    nodes = tuple(graph)
    for value in graph.inputs:
        if value.dtype in _HALVES and nodes:
            graph.insert_before(nodes[0], _read_cast(value, _FLOAT, names))
    for node in nodes:
        for value in tuple(node.outputs):
            if value.dtype not in _HALVES:
                continue
            casts, half = [], value
            if not is_op(node, "Cast"):
                casts.append(_read_cast(value, value.dtype, names))
                half = casts[0].outputs[0]
                value.type = ir.TensorType(_FLOAT)
                if value.is_graph_output():  # ``half`` stands for it, under its name
                    value.name, half.name = half.name, value.name
                    for place, output in enumerate(graph.outputs):
                        if output is value:
                            graph.outputs[place] = half
            graph.insert_after(node, [*casts, _read_cast(half, _FLOAT, names)])
    return copy


def _read_cast(value: ir.Value, dtype: ir.DataType, names: Names) -> ir.Node:
    """A Cast from which all nodes read what they read from ``value`` before."""
    uses = tuple(value.uses())
    cast = cast_to(dtype, value, names.take(f"{value.name}.{_HALVES.get(dtype, 'rounded')}"))
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    return cast
