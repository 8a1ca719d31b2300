"""Many runs at once give what one after the other gives, and no more is made than is needed."""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from repr_export import collector, cores, samples
from repr_export.cores import on_cores
from repr_export.samples import CpuGraph, SampleSet, run_graph, run_samples


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cores, samples):
        monkeypatch.setattr(module, "usable_cores", lambda: 2)


def test_two_are_computed_at_once_and_come_in_order() -> None:
    meet = threading.Barrier(2, timeout=10)  # broken unless both are there

    def square(value: int) -> int:
        meet.wait()
        return value * value

    assert [*on_cores(square, range(6))] == [0, 1, 4, 9, 16, 25]


def test_values_are_made_when_they_are_needed() -> None:
    made: list[int] = []

    def values() -> Iterator[int]:
        for value in range(50):
            made.append(value)
            yield value

    results = on_cores(lambda value: value, values())
    assert next(results) == 0
    assert len(made) == 4
    assert [*results] == [*range(1, 50)]


def test_the_first_error_is_raised_and_what_is_not_begun_is_left_out() -> None:
    begun: list[int] = []

    def fail(value: int) -> None:
        begun.append(value)
        raise ValueError(f"value {value}")

    with pytest.raises(ValueError, match="value 0"):
        [*on_cores(fail, range(50))]
    assert len(begun) <= 4


@pytest.mark.parametrize("batch", ["N", "4"])
def test_a_graph_on_all_cores_gives_what_it_gives_on_one(graphs: object, batch: str) -> None:
    text = f"g (float[{batch},3] x) => (float[{batch},2] y) {{ y = MatMul(x, w) }}"
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    graph: bytes = graphs.content(text, w=weights)  # type: ignore[attr-defined]
    rows = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    layout = samples.Layout({}, None if batch == "N" else 4)
    images = SampleSet("real", "rows", {"x": rows}, layout)
    expected = run_samples(CpuGraph(graph), images)["y"]
    np.testing.assert_array_equal(run_graph(graph, images)["y"], expected)
    np.testing.assert_allclose(expected, rows @ weights, rtol=1e-5)


def test_a_pause_of_the_collector_ends_with_it() -> None:
    assert gc.isenabled()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_a_command_makes_in_a_pause_is_kept_to_its_end() -> None:
    gc.unfreeze()  # a server that an earlier test ran in this process leaves its objects frozen
    with collector.paused():
        pass
    assert not gc.get_freeze_count()
    with collector.kept():
        with collector.paused():
            pass
        assert gc.get_freeze_count() > 1000
    assert not gc.get_freeze_count()
