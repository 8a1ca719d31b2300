"""The yardstick: what it times, how often, and that its arrays are what they should be."""

from __future__ import annotations

import numpy as np

from repr_bench.measuring.reference_load import COPY_BYTES, REPEATS, ReferenceLoad


def test_each_part_is_timed_by_the_clock_and_kept_raw() -> None:
    ticks = iter(range(0, 10**9, 7))
    yardstick = ReferenceLoad(clock=lambda: next(ticks))
    yardstick.run()
    yardstick.run()
    times = yardstick.times()
    assert times.product_ns == ((7,) * REPEATS,) * 2
    assert times.copy_ns == ((7,) * REPEATS,) * 2


def test_it_works_on_whole_pages_and_does_the_work() -> None:
    yardstick = ReferenceLoad()
    yardstick.run()
    np.testing.assert_allclose(
        yardstick._product, yardstick._left @ yardstick._right, rtol=1e-4, atol=1e-4
    )
    assert yardstick._target.size == COPY_BYTES
    assert yardstick._target.all()
    for array in (yardstick._left, yardstick._product, yardstick._source, yardstick._target):
        assert array.ctypes.data % 4096 == 0
