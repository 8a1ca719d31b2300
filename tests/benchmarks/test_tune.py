"""The search for the fastest setting: what is tried, who is dropped, what is kept and shown."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from repr_bench.tune import (
    Candidate,
    _gain,
    choose,
    drop_far_behind,
    print_search,
    search,
    tune,
    variants,
    ways,
)
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


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed, and computes every precision."""
    monkeypatch.setattr(module, "why_not", lambda _: None)


@pytest.mark.usefixtures("openvino")
class TestWays:
    def test_of_latency_the_default_comes_first_and_all_have_one_instance(self) -> None:
        found = ways("latency", 2, "fp32", ["cpu"])
        assert found == [
            *(Setting(), Setting(threads=1), Setting(threads=2)),
            *(Setting("openvino", threads=1), Setting("openvino", threads=2)),
        ]

    def test_of_throughput_the_cores_are_cut_in_all_ways(self) -> None:
        found = ways("throughput", 4, "fp32", ["cpu"])
        assert found[0] == Setting()
        cuts = [(s.library, s.threads, s.instances) for s in found[1:]]
        assert cuts == [
            *(("onnxruntime", 1, 4), ("onnxruntime", 2, 2)),
            *(("openvino", 1, 4), ("openvino", 2, 2), ("openvino", 4, 1)),
        ]

    def test_openvino_tries_both_int8_graphs_and_alone_computes_bf16(self) -> None:
        both = ways("latency", 1, "int8", ["cpu", "tensorrt"])
        assert [(s.library, s.target) for s in both] == [
            *(("onnxruntime", "cpu"), ("onnxruntime", "cpu")),
            *(("openvino", "cpu"), ("openvino", "tensorrt")),
        ]
        assert {s.library for s in ways("latency", 2, "bf16", ["cpu"])} == {"openvino"}

    def test_where_it_is_not_there_onnx_runtime_is_tuned_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "why_not", lambda _: "not installed")
        assert {s.library for s in ways("latency", 2, "fp32", ["cpu"])} == {"onnxruntime"}
        assert ways("latency", 2, "bf16", ["cpu"]) == []

    @pytest.mark.parametrize("goal", ["latency", "throughput"])
    @pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
    def test_no_more_threads_than_cores(self, goal: str, cores: int) -> None:
        found = ways(goal, cores, "int8", ["cpu", "tensorrt"])
        assert all((setting.threads or 1) * setting.instances <= cores for setting in found)
        assert len(found) == len(set(found)) <= 20

    def test_options_are_those_of_onnx_runtime(self) -> None:
        assert variants(Setting("openvino")) == []
        assert len(variants(Setting())) == 2
        assert Setting(threads=2, spinning=False) in variants(Setting(threads=2))
        assert Setting(threads=1, spinning=False) not in variants(Setting(threads=1))


class TestFarBehind:
    def test_what_takes_much_longer_gets_no_more_than_a_look(self, world: Settings) -> None:
        every = world.candidates(1.2, 1.0, 5.0)
        drop_far_behind(every, world.clock)
        assert [each.call is not None for each in every] == [True, True, False]
        assert len(every[2].row.rounds_ns) == 1
        assert every[2].row.status == "measured"
        assert world.search(every) is every[1]

    def test_it_is_by_the_image(self, world: Settings) -> None:
        every = world.candidates(8, 1)
        every[0].row = replace(every[0].row, images=8)
        drop_far_behind(every, world.clock)
        assert all(each.call for each in every)

    def test_what_breaks_fails_alone(self, world: Settings) -> None:
        every = world.candidates(Mock(side_effect=RuntimeError("no memory")), 3)
        drop_far_behind(every, world.clock)
        assert (every[0].outcome, every[0].row.reason) == ("failed", "RuntimeError: no memory")
        assert every[1].call


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
    few = [Setting(), Setting(threads=1, instances=2)]
    monkeypatch.setattr(module, "ways", lambda *_: few if goal == "throughput" else few[:1])
    monkeypatch.setattr(module, "variants", lambda _: [])
    monkeypatch.setattr(module, "FAR_BEHIND", 1000)
    monkeypatch.setattr(module, "choose", lambda alive: alive[-1])
    batches = ["--batch", "1,4"] if goal == "throughput" else []
    command = [str(folder), "--tune", goal, "--threads", "2", *batches]
    assert cli.main([*command, "--seconds", "0.012", "--samples", "6", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("chosen", f"tuned='{goal}'"))
    (path,) = (cache_folder / "tuning").iterdir()
    body = json.loads(path.read_text())
    assert body["subject"] == tuning_subject(read_manifest(folder), "fp32")
    tried = body["goals"][goal]["search"]["candidates"]
    unit = "images/s" if goal == "throughput" else "ms"
    assert (tried[-1]["outcome"], tried[-1]["unit"]) == ("chosen", unit)
    assert tried[-1]["interval"][0] <= tried[-1]["value"] <= tried[-1]["interval"][1]
    kept = body["goals"][goal]["settings"]
    assert {each["batch"] for each in kept} == ({1, 4} if goal == "throughput" else {1})
    with load(folder, device="cpu", tuned=goal, batch=4) as session:
        assert f"tuned for {goal}: " in session.choice
        assert session.backend.instances == (2 if goal == "throughput" else 1)


def artifact_tuned(
    folder: Path, every: list[Setting], progress: Any, monkeypatch: pytest.MonkeyPatch
) -> list[Candidate]:
    monkeypatch.setattr(module, "ways", lambda *_: every)
    monkeypatch.setattr(module, "variants", lambda _: [])
    monkeypatch.setattr(module, "FAR_BEHIND", 1000)
    asked = Request((str(folder),), plan=BRIEF, batches=(1,))
    found, _ = module.tune_artifact(asked, folder, "fp32", "latency", progress)
    return found


def _negated(monkeypatch: pytest.MonkeyPatch, wrong: Setting) -> None:
    """Sessions of that setting give the other class."""
    plain = load

    def other(path: Path, **how: Any) -> Any:
        session = plain(path, **how)
        if how.get("tuned") == wrong:
            run = session.run
            session.run = lambda *a: {n: -v for n, v in run(*a).items()}  # type: ignore[method-assign,misc,assignment]
        return session

    monkeypatch.setattr(module, "load", other)


def test_a_graph_that_changes_answers_is_not_tried(
    make_artifact: Any, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended = Setting(optimization="extended")
    _negated(monkeypatch, extended)
    every = [Setting(), extended, Setting(threads=1, optimization="extended")]
    found = artifact_tuned(make_artifact(), every, no_progress, monkeypatch)
    assert [each.outcome for each in found] == ["chosen", "failed", "failed"]
    assert "top-1 is another on 20 of 20" in found[1].row.reason


def test_what_would_be_chosen_must_answer_as_the_reference(
    make_artifact: Any, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _negated(monkeypatch, Setting(threads=1))
    monkeypatch.setattr(module, "choose", lambda alive: alive[-1])
    every = [Setting(), Setting(threads=1)]  # of a library and graph that was right the first time
    found = artifact_tuned(make_artifact(), every, no_progress, monkeypatch)
    assert [each.outcome for each in found] == ["chosen", "failed"]


def test_outputs_beyond_the_tolerance_are_refused(
    make_artifact: Any, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_artifact(golden=True)
    off = SimpleNamespace(within=False, __str__=lambda: "")
    monkeypatch.setattr(module, "compare_golden", lambda *_: (off, None))
    with pytest.raises(ValueError, match="no setting could be timed"):
        artifact_tuned(folder, [Setting()], no_progress, monkeypatch)


def test_a_precision_that_the_cpu_lacks_is_said_and_no_failure(
    no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "why_not", lambda _: "it would be emulated")
    out = io.StringIO()
    asked = Request(("lenet5",), precisions=("bf16",))
    assert tune(asked, "all", no_progress, Console(file=out, width=200)) == 0
    assert "lenet5 bf16: not tuned: it would be emulated" in out.getvalue()
    assert no_progress.told == ["tuning lenet5 in bf16 (1 of 1)"]


def test_all_goals_of_all_targets_end_in_a_table_of_what_was_chosen(
    no_progress: Any, monkeypatch: pytest.MonkeyPatch, world: Settings
) -> None:
    every = world.candidates(1.0, 2.0)
    world.search(every)
    monkeypatch.setattr(module, "find_artifact", lambda *_: Path("somewhere"))
    monkeypatch.setattr(module, "tune_artifact", lambda *_: (every, Path("kept.json")))
    out = io.StringIO()
    assert tune(Request(("a",)), "all", no_progress, Console(file=out, width=200)) == 0
    lines = out.getvalue().split("Chosen:")[1].splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["chosen", "chosen"]


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


def test_how_many_times_as_fast_as_the_default(world: Settings) -> None:
    every = world.candidates(jitter(3.0), jitter(1.5))
    world.search(every)
    first, second = (_gain(every[0], each) for each in every)
    assert first == "-"
    assert second.startswith("1.99 × (1.89–")
    slow = world.candidates(6.0, jitter(1.5))
    drop_far_behind(slow, world.clock)
    world.search(slow)
    assert _gain(slow[0], slow[1]).startswith("4.")  # by the look at the one that is far behind
