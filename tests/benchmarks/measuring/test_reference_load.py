"""The reference load: what it times, how often, and that its arrays are what they should be."""

import numpy as np

from repr_bench.measuring.reference_load import COPY_BYTES, REPEATS, ReferenceLoad


def test_each_part_is_timed_by_the_clock_and_kept_raw() -> None:
    ticks = iter(range(0, 10**9, 7))
    load = ReferenceLoad(clock=lambda: next(ticks))
    load.run()
    load.run()
    times = load.times()
    assert times.product_ns == ((7,) * REPEATS,) * 2
    assert times.copy_ns == ((7,) * REPEATS,) * 2


def test_it_works_on_whole_pages_and_does_the_work() -> None:
    load = ReferenceLoad()
    load.run()
    np.testing.assert_allclose(load._product, load._left @ load._right, rtol=1e-4, atol=1e-4)
    assert load._target.size == COPY_BYTES
    assert load._target.all()
    for array in (load._left, load._product, load._source, load._target):
        assert array.ctypes.data % 4096 == 0
