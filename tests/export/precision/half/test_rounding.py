"""Half precision's weights are rounded once, to the nearest, from the float64 fold."""

from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
from half_graphs import BF16
from hypothesis import given
from hypothesis import strategies as st

from repr_export.graph.values import remember_float64, unrounded
from repr_export.passes import fold_batchnorm
from repr_export.precision.half.convert import to_half
from repr_export.precision.half.formats import FORMATS, Rounding, round_to


def test_fp16_weights_are_rounded_once_from_the_float64_fold(graphs: Any) -> None:
    channels = 96
    weight = graphs.draw(channels, channels, 3, 3, seed=1)
    parameters = graphs.batchnorm(channels, seed=3)
    model = graphs.parse(
        f"g (float[N, {channels}, 4, 4] x) => (float[N, {channels}, 2, 2] y) {{"
        " c = Conv(x, w)  y = BatchNormalization(c, scale, shift, mean, var) }",
        w=weight,
        **parameters,
    )
    fold_batchnorm(model)
    to_half(model, "fp16")
    wide = {name: array.astype(np.float64) for name, array in parameters.items()}
    scale = wide["scale"] / np.sqrt(wide["var"] + float(np.float32(1e-5)))
    exact = weight.astype(np.float64) * scale[:, None, None, None]
    twice = exact.astype(np.float32).astype(np.float16)
    once = exact.astype(np.float16)
    assert (once != twice).any()  # else this test could not fail
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[1] is not None
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), once)


def test_a_chain_of_folds_is_rounded_once(graphs: Any) -> None:
    weight = graphs.draw(96, 96, 1, 1, seed=1)
    before, after = (graphs.batchnorm(96, seed=seed, prefix=f"p{seed}") for seed in (1, 2))
    model = graphs.parse(
        """g (float[N, 96, 4, 4] x) => (float[N, 96, 4, 4] y) {
            b = BatchNormalization(x, p1scale, p1shift, p1mean, p1var)
            c = Conv(b, w)
            y = BatchNormalization(c, p2scale, p2shift, p2mean, p2var)
        }""",
        w=weight,
        **before,
        **after,
    )
    assert len(fold_batchnorm(model).folded) == 2
    wide = {name: array.astype(np.float64) for name, array in {**before, **after}.items()}
    first, second = (
        wide[f"p{n}scale"] / np.sqrt(wide[f"p{n}var"] + float(np.float32(1e-5))) for n in (1, 2)
    )
    exact = weight.astype(np.float64) * first[:, None, None] * second[:, None, None, None]
    (conv,) = model.graph
    assert conv.inputs[1] is not None
    np.testing.assert_allclose(unrounded(conv.inputs[1]), exact, rtol=1e-14)
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), exact.astype(np.float32))


def test_float64_values_that_no_longer_round_to_the_stored_ones_do_not_count() -> None:
    exact = np.array([1 + 2**-11 + 2**-40])
    value = ir.Value(name="w", const_value=ir.tensor(exact.astype(np.float32)))
    remember_float64(value, exact)
    assert unrounded(value) is exact
    assert round_to(unrounded(value), FORMATS["fp16"])[0] == 1 + 2**-10
    value.const_value = ir.tensor(np.array([3.0], np.float32))
    assert unrounded(value).tolist() == [3.0]


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["fp16", "bf16"]))
def test_rounding_is_to_the_nearest_and_to_even(number: float, precision: str) -> None:
    fmt = FORMATS[precision]
    rounded, counts = round_to(np.array([number]), fmt)
    got = float(rounded[0])
    bits = int(rounded.view(np.uint16)[0])
    if np.isinf(got):
        step = Fraction(fmt.largest) / (2**fmt.significant_bits - 1)
        assert abs(Fraction(number)) >= Fraction(fmt.largest) + step / 2
        assert counts.overflowed == 1
        return
    away = np.array([bits - 1, bits + 1], np.int64) & 0xFFFF
    error = abs(Fraction(number) - Fraction(got))
    for neighbour in away.astype(np.uint16).view(rounded.dtype).astype(np.float64):
        if np.isfinite(neighbour):
            other = abs(Fraction(number) - Fraction(float(neighbour)))
            assert error < other or (error == other and bits % 2 == 0)
    assert counts.underflowed == (number != 0 and got == 0)
    assert counts.subnormal == (0 < abs(got) < fmt.smallest_normal)


def test_bf16_rounding_is_not_by_way_of_float32() -> None:
    number = np.float64(1 + 2**-8 + 2**-40)
    assert float(round_to(np.array(number), FORMATS["bf16"])[0]) == 1 + 2**-7
    assert float(number.astype(np.float32).astype(BF16.numpy())) == 1.0


def test_lost_weights_are_counted(graphs: Any) -> None:
    weight = np.array([[1.0, 1e-6], [1e-9, 2.0]], np.float32)
    model = graphs.parse("g (float[N, 2] x) => (float[N, 2] y) { y = Gemm(x, w) }", w=weight)
    report = to_half(model, "fp16")
    assert report.weights == Rounding(values=4, subnormal=1, underflowed=1)
    assert "1 of 4 weights became 0" in str(report)
