"""A run with peers, by a clock that they move: interleaved, checked, ratios that are known."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_queue
import numpy as np
import pytest
from fake_queue import MS

from repr_bench.inputs import EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.peers import run as peer_run
from repr_bench.peers.base import Peer, PeerAbsentError, Prepared
from repr_bench.peers.ours import burst_length, burst_of_callers
from repr_bench.peers.run import run_peers, with_peers
from repr_bench.request import Request
from repr_bench.results.file import from_json, to_json
from repr_bench.results.peers import OURS, SameAnswers, best_ratios, ratios_at
from repr_bench.run import run
from repr_runtime.backends.tuning import Setting

PLAN = Plan(seconds=0.12, samples=12, rounds=12, warmup_seconds=0.01)


pytestmark = pytest.mark.usefixtures("few_images", "cache_folder")


class World(fake_queue.World):
    """A clock that each look moves by a millisecond, and peers that move it further."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[str] = []

    def clock(self) -> int:
        self.now += MS
        return self.now

    def peer(self, name: str, milliseconds: int = 1, *, sign: float = 1.0, **how: Any) -> Peer:
        """One whose call takes so long, on top of the look at the clock.

        ``fails`` is what it cannot be prepared for, ``prepared`` what is otherwise about it then.
        """
        fails, changes = how.pop("fails", None), how.pop("prepared", {})
        call = self.call(name, milliseconds)

        def logits(arrays: Any) -> Any:
            return sign * arrays[0].mean(axis=(1, 2, 3))[:, None] * np.arange(10.0)

        def prepare(arrays: Any) -> Prepared:
            if fails is not None:
                raise fails
            return replace(Prepared(logits, call, f"{name} with {len(arrays[0])}"), **changes)

        runner = SimpleNamespace(prepare=prepare, close=lambda: self.closed.append(name))
        return Peer(name, lambda _: runner, lambda: None, **how)


@pytest.fixture
def world() -> World:
    return World()


def request(folder: Path, **changes: Any) -> Request:
    basic = Request((str(folder),), plan=PLAN, threads=2, device="cpu", batches=(1,))
    return replace(basic, **changes)


def measured(asked: Request, progress: Any) -> Any:
    """The results that peers come beside: of one graph, and for its row alone."""
    quick = Plan(seconds=0.001, samples=12, rounds=12, warmup_seconds=0.001)
    return run(replace(asked, plan=quick, images=EvaluationImages(limit=1)), progress)


@pytest.fixture
def compare(make_artifact: Callable[..., Path], no_progress: Any, world: World) -> Any:
    def compare(*peers: Any, gone: bool = False, stops: bool = False, **changes: Any) -> Any:
        folder = make_artifact()
        asked = request(folder, **changes)
        selected = [peer if isinstance(peer, tuple) else (peer, None) for peer in peers]
        rows = measured(asked, no_progress).rows
        if gone:
            (folder / "model.onnx").unlink()
        found, interrupted = run_peers(asked, selected, rows, no_progress, world.clock)
        assert interrupted is stops
        return found

    return compare


def test_ratios_are_those_of_the_clock(compare: Any, world: World) -> None:
    found = compare(world.peer("slow", 3))
    assert [(r.measure, r.batch, r.peer, r.status, r.reason) for r in found] == [
        (measure, 1, peer, "measured", "")
        for measure in ("latency", "throughput")
        for peer in (OURS, "slow")
    ]
    (latency,) = ratios_at(found, "latency", "slow", 1)
    assert latency.figure.value == pytest.approx(4.0)
    # Ours: two lanes, bursts of 10 images, each 1 ms by this clock. The peer's: 4 images, 13 ms.
    assert (found[2].images, found[3].images) == (10, 4)
    (throughput,) = best_ratios(found, "slow")
    assert throughput.figure.value == pytest.approx((13 / 4) / (1 / 10))
    assert all(len(row.rounds_ns) == PLAN.rounds for row in found)
    assert world.closed == ["slow"]


def test_each_is_checked_and_says_how_it_ran(compare: Any, world: World) -> None:
    found = compare(world.peer("p"), batches=(1, 8))
    assert {row.same_answers for row in found} == {SameAnswers(20, 20)}
    settings = [row.settings for row in found if row.peer == "p"]
    assert settings == ["p with 1", "p with 8"] * 2
    ours = [row for row in found if row.peer == OURS]
    assert "2 instances of 1 thread" in ours[-1].settings
    assert found[-1].images == 4 * 8


def test_another_answer_is_a_failure_with_the_numbers(compare: Any, world: World) -> None:
    found = compare(world.peer("wrong", sign=-1.0), world.peer("right"))
    wrong = [row for row in found if row.peer == "wrong"]
    assert {row.status for row in wrong} == {"failed"}
    assert "another on 20 of 20 images" in wrong[0].reason
    assert wrong[0].rounds_ns == ()
    assert not ratios_at(found, "latency", "wrong", 1)
    assert {row.status for row in found if row.peer == "right"} == {"measured"}


def test_who_cannot_take_part_is_absent_with_the_reason(compare: Any, world: World) -> None:
    found = compare(
        (world.peer("gone"), "gone is not installed: pip install gone"),
        world.peer("other", fails=PeerAbsentError("not this network")),
        world.peer("broken", fails=RuntimeError("no kernel")),
        world.peer("gpu", device="gpu"),
        world.peer("one", measures=("throughput",)),
        world.peer("breaks", prepared={"call": lambda: 1 / 0}, measures=("latency",)),
    )
    reasons = {(row.peer, row.measure): (row.status, row.reason) for row in found}
    for measure in ("latency", "throughput"):
        assert reasons["gone", measure] == ("absent", "gone is not installed: pip install gone")
        assert reasons["other", measure] == ("absent", "not this network")
        assert reasons["broken", measure] == ("failed", "RuntimeError: no kernel")
        assert reasons["gpu", measure][0] == "absent"
    assert "ours runs on cpu" in reasons["gpu", "latency"][1]
    assert reasons["one", "throughput"] == ("measured", "")
    assert ("one", "latency") not in reasons
    # one that breaks while it is timed fails alone
    assert reasons["breaks", "latency"] == ("failed", "ZeroDivisionError: division by zero")
    assert reasons[OURS, "latency"] == ("measured", "")


def test_calls_on_the_gpu_are_a_measure_of_those_that_have_one(compare: Any, world: World) -> None:
    found = compare(
        world.peer("copies", 3, prepared={"on_gpu": world.call("there", 1)}),
        world.peer("breaks", prepared={"on_gpu": lambda: 1 / 0}),
        world.peer("host"),
    )
    there = {row.peer: row for row in found if row.measure == "on-gpu"}
    assert there.keys() == {"copies", "breaks"}
    assert found[-len(there) :] == tuple(there.values())
    assert there["copies"].latency_ms[50].value == pytest.approx(2)
    assert there["copies"].images == 1
    assert (there["breaks"].status, there["breaks"].rounds_ns) == ("failed", ())
    host = {row.peer: row for row in found if row.measure == "latency"}
    assert host["copies"].latency_ms[50].value == pytest.approx(4)
    assert host["breaks"].status == "measured"


def test_times_that_a_peer_took_itself_are_cut_into_rounds(compare: Any, world: World) -> None:
    times = tuple(range(MS, 25 * MS, MS))
    found = compare(world.peer("self", prepared={"samples_ns": times}, measures=("latency",)))
    row = next(row for row in found if row.peer == "self")
    assert row.status == "measured"
    assert row.rounds_ns[0] == (MS, 2 * MS)
    assert len(row.rounds_ns) == PLAN.rounds
    assert "self" not in world.called


def test_what_was_tuned_here_is_used(
    compare: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = {"latency": Setting(threads=1), "throughput": Setting(threads=1, instances=3)}
    monkeypatch.setattr(peer_run, "resolve", lambda which, *_: (tuned[which], ""))
    found = compare(world.peer("p"), threads=None)
    settings = {row.measure: row.settings for row in found if row.peer == OURS}
    assert "with 1 thread" in settings["latency"]
    assert "with 3 instances of 1 thread" in settings["throughput"]
    # threads that were asked for come first
    monkeypatch.setattr(peer_run, "resolve", lambda *_: pytest.fail("not to be looked for"))
    found = compare(world.peer("p"), threads=1)
    assert {row.status for row in found} == {"measured"}


def test_ctrl_c_keeps_what_was_measured(compare: Any, no_progress: Any, world: World) -> None:
    def advance(what: str, done: float, total: float) -> None:
        if what.startswith("throughput") and done > total / 2:
            raise KeyboardInterrupt

    no_progress.advance = advance
    found = compare(world.peer("p"), stops=True)
    assert [row.status for row in found] == ["measured"] * 2 + ["interrupted"] * 2
    assert found[2].rounds_ns
    assert world.closed == ["p"]


def test_an_artifact_that_is_gone_is_a_row(compare: Any, world: World) -> None:
    (row,) = compare(world.peer("p"), gone=True)
    assert (row.peer, row.status) == (OURS, "failed")
    assert "model.onnx" in row.reason


def test_the_rows_stand_in_the_results_and_are_read_back(
    make_artifact: Any, no_progress: Any, world: World
) -> None:
    asked = request(make_artifact())
    results = measured(asked, no_progress)
    tiny = replace(asked, plan=Plan(seconds=1e-9, samples=6, rounds=6, warmup_seconds=1e-9))
    selected = [(world.peer("p"), None)]
    found = with_peers(results, tiny, selected, no_progress)
    assert {row.peer for row in found.peers} == {OURS, "p"}
    assert from_json(to_json(found)) == found
    stopped = replace(results, interrupted=True)
    assert with_peers(stopped, tiny, selected, no_progress) is stopped


def test_a_burst_calls_so_often_from_so_many_threads() -> None:
    lock, threads, count = threading.Lock(), set(), [0]
    meet = threading.Barrier(3)

    def call() -> None:
        with lock:
            count[0] += 1
            first = threading.get_ident() not in threads
            threads.add(threading.get_ident())
        if first:
            meet.wait(10)

    with ThreadPoolExecutor(3) as pool:
        burst_of_callers(pool, 3, call, 50)
        assert (count[0], len(threads)) == (50, 3)

        def fails() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            burst_of_callers(pool, 3, fails, 50)


@pytest.mark.parametrize(("milliseconds", "times"), [(9, 10 * 2), (49, 4 * 2), (1999, 4 * 2)])
def test_a_burst_lasts_long_enough(world: World, milliseconds: int, times: int) -> None:
    def burst(count: int) -> None:
        world.now += milliseconds * MS * count // 2

    prepared = Prepared(lambda a: a[0], lambda: None, "", at_once=burst, lanes=2)
    assert burst_length(prepared, 0.1, world.clock) == times
