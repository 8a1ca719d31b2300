"""The small network of the int8 tests, and the ranges of its tensors."""

from typing import Any

import pytest
from int8_graphs import NET, images, weights

from repr_export.precision.int8.ranges import Ranges, measure_ranges


@pytest.fixture(scope="module")
def net(graphs: Any) -> bytes:
    return graphs.content(NET, **weights())


@pytest.fixture(scope="module")
def ranges(net: bytes) -> Ranges:
    return measure_ranges(net, images(), "min-max")
