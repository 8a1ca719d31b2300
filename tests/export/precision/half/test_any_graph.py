"""Random graphs of many operators, Ifs and shape arithmetic stay valid and mean the same in half."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repr_export.precision.half.convert import to_half
from repr_export.precision.half.emulate import emulate_half
from repr_export.samples import SampleSet

FP16, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

STATEMENTS = (
    "{v} = Relu({a})",
    "{v} = Softmax <axis = 1> ({a})",
    "{v} = Conv({a}, w, bias)",
    "{v} = InstanceNormalization({a}, bias, bias)",
    "{v} = Transpose <perm = [0, 1, 3, 2]> ({a})",
    "{v} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({a})",
    '{v} = Resize <mode = "nearest"> ({a}, , ones)',
    "{v} = Clip({a}, low, high)",
    "{v}t = Tanh({a})  {v} = Pow({v}t, two)",
    "{v} = Sub({a}, {b})",
    "{v}t = Tanh({a})  {v} = Mul({v}t, {b})",
    "{v}g = Greater({a}, {b})  {v} = Where({v}g, {b}, {a})",
    "{v}c = Concat <axis = 1> ({a}, {b})  {v}p, {v} = Split <axis = 1, num_outputs = 2> ({v}c)",
    "{v}m = GlobalAveragePool({a})  {v} = Add({b}, {v}m)",
    "{v}i = ArgMax <axis = 1> ({a})  {v}f = Cast <to = 1> ({v}i)  {v} = Add({v}f, {b})",
    "{v}s = Shape({a})  {v}f = Cast <to = 1> ({v}s)  {v}r = Reshape({v}f, column)"
    "  {v} = Sub({a}, {v}r)",
    "{v} = If(flag) <"
    " then_branch = t{v} () => (float[N, 4, 3, 3] {v}t) {{ {v}t = Add({a}, {b}) }},"
    " else_branch = e{v} () => (float[N, 4, 3, 3] {v}e) {{ {v}e = Neg({a}) }}>",
)


@st.composite
def programs(draw: Any) -> str:
    """A graph from x to one or two outputs, each statement reading what was made shortly before."""
    values, lines = ["x"], []
    for index in range(draw(st.integers(1, 8))):
        a, b = (draw(st.sampled_from(values[-3:])) for _ in "ab")
        lines.append(draw(st.sampled_from(STATEMENTS)).format(v=f"v{index}", a=a, b=b))
        values.append(f"v{index}")
    outputs = sorted({values[-1], draw(st.sampled_from(values[1:]))})
    declared = ", ".join(f"float[N, 4, 3, 3] {name}" for name in outputs)
    return f"g (float[N, 4, 3, 3] x) => ({declared}) {{ {'  '.join(lines)} }}"


def without_rounding(model: ir.Model) -> ir.Model:
    """A copy with float32 for fp16 and no other change: it must compute what the original did."""
    copy = model.clone()
    for value in (*copy.graph.inputs, *(v for node in copy.graph for v in node.outputs)):
        if value.dtype == FP16:
            value.type = ir.TensorType(FLOAT)
    for value in copy.graph.initializers.values():
        if value.const_value is not None and value.dtype == FP16:
            wide = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.tensor(wide, name=value.name), ir.TensorType(FLOAT)
    for node in copy.graph:
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == FP16.value:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
    return copy


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(programs(), st.sampled_from(["fp32", "half"]), st.booleans(), st.integers(0, 20))
def test_any_graph_keeps_its_meaning(
    graphs: Any, text: str, io: Any, flag: bool, kept: int
) -> None:
    # Constants that fp16 holds exactly: but for the rounding, nothing may change at all.
    model = graphs.parse(
        text,
        w=(graphs.draw(4, 4, 1, 1) / 4).astype(np.float16).astype(np.float32),
        bias=graphs.draw(4, seed=3).astype(np.float16).astype(np.float32),
        ones=np.ones(4, np.float32),
        low=np.float32(-3),
        high=np.float32(3),
        two=np.float32(2),
        column=np.array([1, 4, 1, 1]),
        flag=np.array(flag),
    )
    x = graphs.draw(2, 4, 3, 3, seed=5)
    expected = graphs.run(model, {"x": x})
    nodes = list(model.graph)
    name = nodes[kept % len(nodes)].outputs[0].name
    report = to_half(model, "fp16", io=io, keep=[name], samples=SampleSet("given", "x", {"x": x}))

    content = ir.to_proto(model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    halves = sum(node.outputs[0].dtype == FP16 for node in model.graph)
    assert halves >= report.half
    for want, got in zip(expected, graphs.run(without_rounding(model), {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)
    fed = {"x": x.astype(np.float16) if io == "half" else x}
    for runnable in (model, emulate_half(model)):
        for want, got in zip(expected, graphs.run(runnable, fed), strict=True):
            assert got.shape == want.shape
            assert got.dtype == fed["x"].dtype
    for node in model.graph:  # no Cast undoes another, none changes nothing
        if node.op_type == "Cast":
            source = node.inputs[0]
            assert source is not None
            assert source.dtype != node.outputs[0].dtype
            maker = source.producer()
            if maker is not None and maker.op_type == "Cast":
                assert maker.inputs[0].dtype not in (FP16, FLOAT)
