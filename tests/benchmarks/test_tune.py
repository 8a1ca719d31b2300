"""The search for the fastest setting: what is tried, who is dropped, what is kept and shown."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import peer_rows
import pytest
from fake_queue import World
from rich.console import Console

from repr_bench import cli
from repr_bench import tune as module
from repr_bench.measuring.measure import Plan
from repr_bench.request import Request
from repr_bench.results.peers import PeerRow
from repr_bench.tune import Candidate, candidates, choose, print_search, search, tune
from repr_runtime import load, read_manifest
from repr_runtime.backends.tuning import Setting, tuning_subject

PLAN = Plan(seconds=0.12, samples=12, rounds=12, warmup_seconds=0.01)
BRIEF = replace(PLAN, seconds=0.012)


pytestmark = pytest.mark.usefixtures("few_images", "cache_folder")


def _peer_row(peer: str, **rest: Any) -> PeerRow:
    return replace(peer_rows.lost("net", peer, "failed", "", 1), **rest)


class Settings(World):
    """Candidates that take as long as they are told, in ms."""

    def candidates(self, *durations: float | Callable[[int], float]) -> list[Candidate]:
        return [
            Candidate(
                Setting(threads=number + 1),
                _peer_row(f"s{number}", images=1),
                self.call(str(number), duration),
            )
            for number, duration in enumerate(durations)
        ]

    def search(self, every: list[Candidate]) -> Candidate:
        return search(every, PLAN, Mock(), "tuning", self.clock)


@pytest.fixture
def world() -> Settings:
    return Settings()


def jitter(milliseconds: float, phase: float = 0) -> Callable[[int], float]:
    """Slow drifts of 10 %, so that rounds differ."""
    return lambda number: milliseconds * (1 + 0.1 * np.sin(phase + number / 7))


class TestCandidates:
    def test_of_latency_the_default_comes_first_and_all_have_one_batch(self) -> None:
        found = candidates("latency", 2, (1, 8))
        assert found[0] == Setting(batch=1)
        assert {(s.batch, s.instances) for s in found} == {(1, 1)}
        assert {s.threads for s in found} == {None, 1, 2}
        assert Setting(threads=2, spinning=False, batch=1) in found
        assert Setting(threads=1, spinning=False, batch=1) not in found  # it has no pool
        assert Setting(threads=1, optimization="extended", batch=1) in found
        assert len(found) == len(set(found)) == 10

    def test_of_throughput_the_cores_are_cut_in_all_ways_at_all_batches(self) -> None:
        found = candidates("throughput", 4, (1, 8))
        ways = {(s.threads, s.instances) for s in found}
        assert ways == {(None, 1), (1, 4), (2, 2)}
        assert {s.batch for s in found} == {1, 8}
        assert found[0] == Setting(batch=1)
        assert len(found) == len(set(found)) <= 16

    @pytest.mark.parametrize("goal", ["latency", "throughput"])
    @pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
    def test_no_more_threads_than_cores(self, goal: str, cores: int) -> None:
        for setting in candidates(goal, cores, (1,)):
            assert (setting.threads or 1) * setting.instances <= cores
        assert len(candidates(goal, cores, (1,))) <= 40


class TestSearch:
    def test_the_fastest_is_chosen_and_the_slow_half_leaves_early(self, world: Settings) -> None:
        every = world.candidates(5, 9, 1, 8, 2, 7, 6, 10)
        chosen = world.search(every)
        assert chosen is every[2]
        assert [each.outcome for each in every] == [
            *("finalist", "dropped", "chosen", "dropped"),
            *("finalist", "dropped", "dropped", "dropped"),
        ]
        assert len(every[2].row.rounds_ns) == PLAN.rounds
        assert len(every[1].row.rounds_ns) == module.STAGE_ROUNDS
        assert {each.row.status for each in every} == {"measured"}

    def test_the_default_is_never_dropped(self, world: Settings) -> None:
        every = world.candidates(50, 1, 2, 3, 4, 5, 6)
        world.search(every)
        assert every[0].outcome == "finalist"

    def test_what_breaks_fails_alone(self, world: Settings) -> None:
        breaks = Mock(side_effect=RuntimeError("no memory"))
        every = world.candidates(5, breaks, 3)
        every.append(Candidate(Setting(threads=9), every[0].row, None, "failed"))
        assert world.search(every) is every[2]
        assert every[1].outcome == "failed"
        assert "no memory" in every[1].row.reason

    def test_where_nothing_can_be_timed_it_says_why(self) -> None:
        row = _peer_row("s", reason="no kernel")
        with pytest.raises(ValueError, match="no setting could be timed: no kernel"):
            search([Candidate(Setting(), row)], PLAN, Mock(), "tuning")

    def test_the_simplest_that_is_not_measurably_slower_is_taken(self, world: Settings) -> None:
        alike = world.candidates(jitter(2.0), jitter(1.998, 1))
        assert world.search(alike) is alike[0]
        better = world.candidates(jitter(2.0), jitter(1.5))
        assert world.search(better) is better[1]
        assert choose(better[1:]) is better[1]

    def test_ctrl_c_is_passed_on(self, world: Settings) -> None:
        world.stop_at = 20
        with pytest.raises(KeyboardInterrupt):
            world.search(world.candidates(1, 2))


@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_a_real_graph_is_tuned_kept_and_loaded(
    make_artifact: Any,
    cache_folder: Path,
    goal: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_artifact()
    few = [Setting(batch=1), Setting(threads=1, instances=2, batch=4)]
    monkeypatch.setattr(module, "candidates", lambda *_: few if goal == "throughput" else few[:1])
    monkeypatch.setattr(module, "choose", lambda alive: alive[-1])
    batches = ["--batch", "1,4"] if goal == "throughput" else []
    command = [str(folder), "--tune", goal, "--threads", "2", *batches]
    assert cli.main([*command, "--seconds", "0.012", "--samples", "12", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("chosen", f"tuned='{goal}'"))
    (path,) = (cache_folder / "tuning").iterdir()
    body = json.loads(path.read_text())
    assert body["subject"] == tuning_subject(read_manifest(folder), "fp32")
    tried = body["goals"][goal]["search"]["candidates"]
    unit = "images/s" if goal == "throughput" else "ms"
    assert (tried[-1]["outcome"], tried[-1]["unit"]) == ("chosen", unit)
    assert tried[-1]["interval"][0] <= tried[-1]["value"] <= tried[-1]["interval"][1]
    with load(folder, device="cpu", tuned=goal) as session:
        assert f"tuned for {goal}: " in session.choice
        assert session.backend.instances == (2 if goal == "throughput" else 1)


def test_a_setting_that_changes_answers_is_not_tried(
    make_artifact: Any, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_artifact()
    every = [Setting(batch=1), Setting(threads=1, batch=1), Setting(threads=1, batch=4)]
    monkeypatch.setattr(module, "candidates", lambda *_: every)
    plain = load

    def other(path: Path, **how: Any) -> Any:
        session = plain(path, **how)
        if how.get("tuned") == Setting(threads=1):
            run = session.run
            session.run = lambda *a: {n: -v for n, v in run(*a).items()}  # type: ignore[method-assign,misc,assignment]
        return session

    monkeypatch.setattr(module, "load", other)
    asked = Request((str(folder),), plan=BRIEF, batches=(1, 4))
    found, _ = module.tune_artifact(asked, folder, "fp32", "latency", no_progress)
    assert [each.outcome for each in found] == ["chosen", "failed", "failed"]
    assert "top-1 is another on 20 of 20" in found[1].row.reason


def test_a_target_that_fails_is_said_and_the_rest_goes_on(no_progress: Any) -> None:
    out = io.StringIO()
    asked = Request(("no/such/folder", "nosuchnetwork"))
    assert tune(asked, "latency", no_progress, Console(file=out, width=200)) == 1
    assert "no/such/folder fp32: " in out.getvalue()
    assert "nosuchnetwork fp32: " in out.getvalue()


def test_the_table_shows_each_setting_and_how_the_default_compares(world: Settings) -> None:
    every = world.candidates(jitter(3.0), jitter(1.5), 9, 8, 7)
    world.search(every)
    out = io.StringIO()
    print_search(every, Console(file=out, width=200))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[-1] for line in lines[1:]] == [e.outcome for e in every]
    chosen = next(line for line in lines if line[-1] == "chosen")
    assert chosen[3] == "s1"
    times = float(chosen[chosen.index("×") - 1])
    assert times == pytest.approx(2.0, rel=0.05)  # the default takes twice the time
