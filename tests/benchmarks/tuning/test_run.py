"""A tuning of real graphs: what is checked, what is kept and loaded, what is shown."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from repr_bench import cli
from repr_bench.measuring.measure import Plan
from repr_bench.request import Request
from repr_bench.tuning import run as module
from repr_bench.tuning import search as search_module
from repr_bench.tuning.run import print_search, tune
from repr_bench.tuning.search import Candidate
from repr_runtime import load, read_manifest
from repr_runtime.backends.tuning import Setting, tuning_subject

BRIEF = Plan(seconds=0.012, samples=12, rounds=12, warmup_seconds=0.01)

pytestmark = pytest.mark.usefixtures("few_images", "cache_folder")


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
    monkeypatch.setattr(search_module, "FAR_BEHIND", 1000)
    monkeypatch.setattr(search_module, "choose", lambda alive: alive[-1])
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
    monkeypatch.setattr(search_module, "FAR_BEHIND", 1000)
    asked = Request((str(folder),), plan=BRIEF, batches=(1,))
    ((found, _),) = module.tune_artifact(asked, folder, "fp32", ("latency",), progress)
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
    monkeypatch.setattr(search_module, "choose", lambda alive: alive[-1])
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
    no_progress: Any, monkeypatch: pytest.MonkeyPatch, world: Any
) -> None:
    every = world.candidates(1.0, 2.0)
    world.search(every)
    monkeypatch.setattr(module, "find_artifact", lambda *_: Path("somewhere"))
    monkeypatch.setattr(module, "tune_artifact", lambda *_: 2 * [(every, Path("kept.json"))])
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


def test_the_table_shows_each_setting_and_how_the_default_compares(world: Any) -> None:
    every = world.candidates(3.0, 1.5, 9)
    world.search(every)
    out = io.StringIO()
    print_search(every, Console(file=out, width=200))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[-1] for line in lines[1:]] == [e.outcome for e in every]
    chosen = next(line for line in lines if line[-1] == "chosen")
    assert chosen[3] == "s1"
