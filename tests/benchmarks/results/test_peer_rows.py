"""Ratios of peers, by hand: paired by round, at the best batch, over networks."""

import math
from dataclasses import replace
from typing import Any

import peer_rows
import pytest

from repr_bench.results.peers import (
    OURS,
    Measure,
    Overall,
    PeerRow,
    best_ratios,
    ratio,
    ratios_at,
)


def row(
    peer: str,
    *rounds: int,
    label: str = "net",
    measure: Measure = "latency",
    batch: int = 1,
    images: int = 1,
) -> PeerRow:
    made = peer_rows.row(label, measure, peer, 1, batch, images)
    return replace(made, rounds_ns=tuple((each,) * 3 for each in rounds))


def one(ours: PeerRow, peer: PeerRow) -> Any:
    found: Any = ratio(ours, peer)
    return found.figure


def test_a_ratio_is_the_geometric_mean_of_the_rounds() -> None:
    # 2, 1 and 4: their product is 8
    found = one(row(OURS, 10, 10, 20), row("p", 20, 10, 80))
    assert found.value == pytest.approx(2.0)
    assert 1.0 <= found.interval.low < 2.0 < found.interval.high <= 4.0
    assert one(row(OURS, 10), row("p", 15)).interval is None  # one round


def test_rounds_are_paired_so_that_drift_cancels() -> None:
    drift = [100, 200, 400, 800, 1600]
    found = one(row(OURS, *drift), row("p", *(3 * each for each in drift)))
    assert (found.value, *found.interval) == pytest.approx((3.0, 3.0, 3.0))


def test_medians_of_rounds_are_compared_by_the_image() -> None:
    noisy = replace(row("p", 20, 20), rounds_ns=((20, 20, 9_000), (20, 20, 9_000)))
    assert one(row(OURS, 10, 10), noisy).value == pytest.approx(2.0)
    ours = row(OURS, 800, 800, measure="throughput", images=80)
    theirs = row("p", 100, 100, measure="throughput", images=5)
    assert one(ours, theirs).value == pytest.approx((100 / 5) / (800 / 80))


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_there_is_no_ratio_to_what_was_not_measured(status: str) -> None:
    broken = replace(row("p", 10), status=status)
    assert ratio(row(OURS, 10), broken) is None
    assert ratio(broken, row("p", 10)) is None
    assert ratio(row(OURS, 10), replace(broken, rounds_ns=())) is None


def test_latencies_are_compared_at_one_batch_and_by_network() -> None:
    rows = [
        row(OURS, 10, 10, label="a"),
        row("p", 20, 20, label="a"),
        row(OURS, 10, 10, label="b"),
        row("p", 80, 80, label="b"),
        row(OURS, 10, 10, label="b", batch=8),
        row("p", 10, 10, label="b", batch=8),
        row("p", 10, 10, label="without ours"),
    ]
    found = ratios_at(rows, "latency", "p", 1)
    assert [one.ours.label for one in found] == ["a", "b"]
    mean = Overall(tuple(found))
    assert mean.mean.value == pytest.approx(4.0)  # of 2 and 8
    assert mean.least.ours.label == "a"
    assert [one.figure.value for one in ratios_at(rows, "latency", "p", 8)] == pytest.approx([1.0])
    assert ratios_at(rows, "latency", "p", 4) == []


def test_each_is_compared_at_its_best_throughput() -> None:
    rows = [
        row(OURS, 100, 100, measure="throughput", batch=1, images=10),  # 10 ns an image
        row(OURS, 100, 100, measure="throughput", batch=8, images=50),  # 2
        row("p", 100, 100, measure="throughput", batch=1, images=20),  # 5
        row("p", 100, 100, measure="throughput", batch=8, images=10),  # 10
        replace(row("p", 1, 1, measure="throughput", batch=32, images=10), status="failed"),
    ]
    (found,) = best_ratios(rows, "p")
    assert (found.ours.batch, found.peer.batch) == (8, 1)
    assert found.figure.value == pytest.approx(2.5)


def test_the_interval_over_networks_is_narrower_than_each() -> None:
    rounds = [90, 95, 100, 105, 110] * 2
    ratios: Any = [
        ratio(row(OURS, *([100] * 10), label=str(n)), row("p", *rounds[n:], *rounds[:n]))
        for n in range(8)
    ]
    together: Any = Overall(tuple(ratios)).mean.interval
    alone = ratios[0].figure.interval
    assert math.log(together.high / together.low) < 0.6 * math.log(alone.high / alone.low)
