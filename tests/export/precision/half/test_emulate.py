"""What a CPU makes of a half-precision graph: the same arithmetic, emulated."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from half_graphs import folded, types_of

from repr_export.precision.half.convert import to_half
from repr_export.precision.half.emulate import emulate_half
from repr_export.precision.half.formats import FORMATS
from repr_export.samples import CpuGraph


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_emulation_is_half_arithmetic(graphs: Any, precision: Any) -> None:
    weight, x = graphs.draw(64, 5), graphs.draw(3, 64, seed=9)
    model = graphs.parse(
        "g (float[N, 64] x) => (float[N, 5] y) { h = Gemm(x, w)  y = Add(h, h) }", w=weight
    )
    to_half(model, precision)
    kind = FORMATS[precision].dtype
    emulated = emulate_half(model)
    half = kind.numpy()
    exact = x.astype(half).astype(np.float64) @ weight.astype(half).astype(np.float64)
    h = exact.astype(np.float32).astype(half).astype(np.float32)
    expected = (h + h).astype(half).astype(np.float32)
    np.testing.assert_array_equal(graphs.run(emulated, {"x": x})[0], expected)
    assert types_of(model, "Gemm") == [kind]  # the original is left


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("optimize", [True, False])
def test_rounding_survives_the_optimizer(graphs: Any, precision: Any, optimize: bool) -> None:
    model = graphs.parse(
        "g (float[N, 64] x) => (float[N, 64] y) { a = Mul(x, k)  b = Add(a, x)  y = Gemm(b, one) }",
        k=np.float32(1.25),
        one=np.eye(64, dtype=np.float32),
    )
    to_half(model, precision)
    x = graphs.draw(1, 64)
    half = FORMATS[precision].dtype.numpy()
    start = x.astype(half).astype(np.float32)
    product = (start * np.float32(1.25)).astype(half).astype(np.float32)
    expected = (product + start).astype(half).astype(np.float32)
    assert (expected != (start * np.float32(2.25)).astype(half).astype(np.float32)).any()
    content = ir.to_proto(emulate_half(model)).SerializeToString()
    (y,) = CpuGraph(content, optimize=optimize)({"x": x}).values()
    np.testing.assert_array_equal(y, expected)


def test_emulation_keeps_half_ends(graphs: Any) -> None:
    model = folded(graphs, "lenet5")
    x = graphs.feeds(model, 2)["input"]
    wide = model.clone()
    to_half(wide, "fp16")
    to_half(model, "fp16", io="half")
    emulated = emulate_half(model)
    assert [v.name for v in emulated.graph.outputs] == [v.name for v in model.graph.outputs]
    (got,) = graphs.run(emulated, {"input": x.astype(np.float16)})
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, graphs.run(emulate_half(wide), {"input": x})[0])
