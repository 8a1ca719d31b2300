"""Whether arrays are finite: every length and dtype of number, whatever way is the fastest."""

import numpy as np
import pytest

from repr_runtime.inputs import all_finite

SIZES = (1, 10, 64, 65, 8192, 8193, 20_000, 2**17 + 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4"])
@pytest.mark.parametrize("size", SIZES)
def test_one_number_that_is_not_finite_is_found_anywhere(size: int, dtype: str) -> None:
    values = np.linspace(-1, 1, size, dtype=dtype)
    assert all_finite(values)
    for place in {0, size // 2, size - 1}:
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            broken = values.copy()
            broken[place] = bad
            assert not all_finite(broken)
    large = np.full(size, np.finfo(dtype).max, dtype)
    assert all_finite(large)  # though their sum is not
    assert all_finite(-large)
    large[-1] = np.inf
    assert not all_finite(large)


def test_opposite_infinities_do_not_cancel() -> None:
    assert not all_finite(np.array([[np.inf, -np.inf]], np.float32))


def test_arrays_with_gaps_and_of_whole_numbers() -> None:
    values = np.ones((100, 100), np.float32)
    values[:, 1::2] = np.nan
    assert all_finite(values[:, ::2])
    assert not all_finite(values.T)
    assert all_finite(np.ones(5, np.int64))
    assert all_finite(np.ones((0, 3), np.float32))
