"""`--roofline` and `--profile` in a whole run: what they add, and that a run without them is as before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from repr_bench import cli
from repr_bench.analysis import gpu_peaks, peaks, profile_session
from repr_bench.analysis import run as analysis
from repr_bench.analysis.run import Analysis, default_threads, work_of
from repr_bench.analysis.timed_graph import TimedGraph
from repr_bench.request import Request
from repr_bench.results.file import read_results
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak, Work

ArtifactMaker = Callable[..., Path]
QUICK = ("--seconds", "0.012", "--samples", "12", "--threads", "1", "--batch", "1,2")
ROOFS = [Peak(kind, "made up", 4, 10**12, (1,)) for kind in ("float32", "memory")]
FOUND = tuple(ROOFS), ("made up",)


pytestmark = pytest.mark.usefixtures("ten_images", "in_tmp_path")


def test_both_end_in_table_and_json(
    make_artifact: ArtifactMaker,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peaks, "measure_peaks", asked := Mock(return_value=FOUND))
    arguments = (str(make_artifact()), *QUICK, "--roofline", "--profile", "--json", "r.json")
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    found: Any = read_results(Path("r.json"))
    memory = found.environment.memory_bytes
    asked.assert_called_once_with(1, memory_bytes=memory, int8=False)
    assert "Peaks with 1 thread: float32 products" in out
    assert "Profile of linear fp32 batch 2" in out
    assert "profiling linear fp32 batch 1" in err
    # a matrix of 3,072 × 10 float32, 3,072 in and 10 out a sample
    assert found.roofline.works == tuple(
        Work("linear", "fp32", batch, 1, batch * 30_720, 4 * 30_720, 4 * batch * 3_082)
        for batch in (1, 2)
    )
    assert [(p.batch, p.multiply_adds, p.reason) for p in found.profiles] == [
        (1, 30_720, ""),
        (2, 61_440, ""),
    ]


def test_a_run_without_them_does_nothing_more(
    make_artifact: ArtifactMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (
        (peaks, "measure_peaks"),
        (profile_session, "profile_session"),
        (analysis, "work_of"),
    ):
        monkeypatch.setattr(*place, Mock(side_effect=AssertionError))
    assert cli.main([str(make_artifact()), *QUICK, "--json", "r.json"]) == 0
    found = read_results(Path("r.json"))
    assert (found.roofline, found.profiles) == (None, ())


def timed(device: str = "cpu", *, emulated: bool = False) -> TimedGraph:
    session: Any = SimpleNamespace(device=device)
    return TimedGraph("n", "fp16", 1, session, emulated=emulated)


def test_rows_that_have_no_work_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_of(timed(emulated=True)).reason == "fp16 is emulated on a CPU"
    on_cpu = work_of(timed(), on_gpu=True)
    assert on_cpu.reason == "runs on the CPU, and the peaks are the GPU's; use --device cpu"
    monkeypatch.setattr(TimedGraph, "onnx", b"no model")
    assert work_of(timed()).reason


def test_rows_on_a_gpu_are_held_against_its_peaks(
    results: Results, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roofs = tuple(Peak(kind, "made up", 4, 10**12, (1,)) for kind in ("float16", "memory"))
    monkeypatch.setattr(gpu_peaks, "measure_gpu_peaks", lambda: (roofs, ("a note",)))
    monkeypatch.setattr(peaks, "measure_peaks", Mock(side_effect=AssertionError))
    work = Work("n", "fp16", 1, 1, 1000, 100, 100)
    monkeypatch.setattr(analysis, "work_of", lambda _, on_gpu: replace(work, layers=int(on_gpu)))
    found: Any = Analysis(Request((), roofline=True), results.environment)
    found.run([timed("cuda:0")], no_progress)
    assert (found.roofline.threads, found.roofline.peaks) == (0, roofs)
    assert found.roofline.works == (work,)
    assert found.roofline.compute_peak("fp16") == roofs[0]
    assert "bf16" in found.roofline.missing(replace(work, precision="bf16"))


def test_an_interrupt_keeps_what_was_found(
    results: Results, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "measure_peaks", lambda *_, **__: FOUND)
    monkeypatch.setattr(profile_session, "profile_session", Mock(side_effect=KeyboardInterrupt))
    found: Any = Analysis(Request((), roofline=True, profile=True), results.environment)
    with pytest.raises(KeyboardInterrupt):
        found.run([timed(emulated=True)], no_progress)
    assert (found.roofline.threads, found.profiles) == (2, [])  # one a core
    assert no_progress.told[-1] == "profiling n fp16 batch 1"


def test_threads_are_one_for_each_core_that_may_be_used(results: Results) -> None:
    machine = results.environment
    assert default_threads(machine) == 2
    assert default_threads(replace(machine, usable_cpus=1)) == 1
    assert default_threads(replace(machine, physical_cores=None, usable_cpus=None)) == 4
