"""The page and the JSON file, from recorded inputs, and the command around them by a fake clock."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repr_bench.gpu.__main__ import environment, folder_name, main
from repr_bench.gpu.report import Report, page_lines
from repr_bench.gpu.schedule import Ended, Outcome, Step
from repr_bench.gpu.steps import KINDS, TESTS, Plan, marked_files, planned
from repr_bench.options import parser
from repr_bench.results.file import read_results
from repr_runtime.backends.tensorrt.library import EDITIONS, Edition
from repr_runtime.cuda.driver import CudaStatus, Gpu, cuda_status

ROOT = Path(__file__).resolve().parents[3]
H100 = CudaStatus(1, "", (13, 0), (Gpu("NVIDIA H100 80GB HBM3", "9.0", 85 << 30),))
NONE = CudaStatus(0, "no CUDA driver is installed (libcuda.so.1 not found)")
JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite tests="4">
<testcase classname="a" name="test_runs[rtx]" time="1.5"/>
<testcase classname="a" name="test_graph" time="0.5"><failure message="AssertionError: 1 | 2">…</failure>
</testcase>
<testcase classname="a" name="test_b" time="0"><skipped type="pytest.skip" message="no TensorRT"/></testcase>
<testcase classname="a" name="test_c" time="0"><skipped type="pytest.skip" message="no TensorRT"/></testcase>
<testcase time="0.001" /></testsuite></testsuites>"""
STAGES: dict[str, dict[str, Any]] = {
    "build": {"bytes": 10},
    "load": {"choice": "TensorRT-RTX"},
    "self-test": {"max_abs": 1e-4, "tolerance": 1e-3},
    "answers": {"top1": 1811, "images": 2000, "same": 1999, "of": 2000},
    "time": {"1": 0.1, "32": 0.5},
    "receipt": {"shares": {"fp16": 1.0}},
    "graphs": {"none": {}, "own": {}},
}


def trial(precision: str, target: str, refused: str = "") -> str:
    stages = [
        {"stage": name, "ok": True, "message": "", "found": found} for name, found in STAGES.items()
    ]
    if refused:
        stages = [*stages[:1], {"stage": "load", "ok": False, "message": refused, "found": {}}]
    what = {"network": "resnet20", "precision": precision, "edition": "tensorrt-rtx"}
    return json.dumps({**what, "target": target, "stages": stages})


@pytest.fixture
def found(tmp_path: Path) -> Path:
    for folder in ("logs", "engines", "bench"):
        (tmp_path / folder).mkdir()
    (tmp_path / "logs" / "machine.log").write_text("$ repr-inspect --machine\nGPU 0     an H100\n")
    (tmp_path / "tests.xml").write_text(JUNIT)
    (tmp_path / "engines" / "a.json").write_text(trial("fp16", "current"))
    (tmp_path / "engines" / "b.json").write_text(
        trial("fp16", "portable", "WrongGpuError: no\n  9.0")
    )
    (tmp_path / "engines" / "c.json").write_text(
        trial("int8", "portable", "WrongGpuError: no\n  9.0")
    )
    (tmp_path / "bench" / "small.md").write_text(
        "| network | p50 |\n\n- Peaks of the GPU: many\n- The p-th percentile is explained\n"
    )
    (tmp_path / "notes.md").write_text("A quick look.\n")
    return tmp_path


def test_the_page_has_what_the_steps_wrote(found: Path) -> None:
    step = {"name": "tests", "status": "failed", "reason": "exit\nstatus 1", "seconds": 2.0}
    body = {"gpu": "GPU", "began": "today", "minutes": 12.0, "driver": "CUDA 13.0", "steps": [step]}
    page = "\n".join(page_lines(found, body))
    for line in (
        "| tests | failed | 2.0 | exit status 1 |",
        "GPU 0     an H100",
        "1 of 4 passed, in 2 s.",
        r"- failure: `test_graph`: AssertionError: 1 \| 2",
        "- skipped: `test_b`, `test_c`: no TensorRT",
        "| resnet20 | fp16 | tensorrt-rtx current | yes | 0.0001 off of 0.001 | 90.55% | 99.95% "
        "| 100.0% fp16 | 0.1 | 0.5 | yes (none, own) |",
        "| resnet20 | int8 | tensorrt-rtx portable | **no** | – | – | – | – | – | – | – |",
        "resnet20 fp16 tensorrt-rtx portable, resnet20 int8 tensorrt-rtx portable:",
        "load: WrongGpuError: no\n  9.0",  # the whole of it, as it was said
        "| network | p50 |",
        "- Peaks of the GPU: many",
        "A quick look.",
    ):
        assert f"\n{line}\n" in page + "\n", line
    assert "explained" not in page
    tables = [line.count("|") for line in page.splitlines() if line.startswith("| resnet20 |")]
    assert {*tables} == {next(n.count("|") for n in page.splitlines() if "| graphs |" in n)}


RESULTS = [path.parent for path in (ROOT / "benchmarks/results").glob("*/steps.json")]


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_in_the_tree_are_what_their_page_says(folder: Path) -> None:
    page = "\n".join(page_lines(folder, json.loads((folder / "steps.json").read_text())))
    assert (folder / "README.md").read_text(encoding="utf-8") == f"{page}\n"
    for path in (each for each in folder.rglob("*") if each.is_file()):
        # "/_src" is the library's own.
        assert not re.search(r"/(root|tmp|opt|home|work)/|hostname", path.read_text("utf-8")), path
    for path in (folder / "bench").glob("*.json"):
        results = read_results(path)
        assert path.with_suffix(".md").read_text(encoding="utf-8").startswith("| network |")
        assert all(row.rounds_ns for row in results.rows)  # raw samples, whole


def test_steps_of_other_kinds_stay_from_the_run_before(tmp_path: Path) -> None:
    about = {"gpu": "GPU", "began": "today", "minutes": 1.0, "driver": ""}

    def run(kind: str, name: str) -> list[str]:
        report = Report(tmp_path, about, (kind,))
        report.add(Outcome(Step(name, kind, ("x",), 1), "ok", "", 1.0, ""))
        return [each["name"] for each in json.loads((tmp_path / "steps.json").read_text())["steps"]]

    assert run("bench", "first") == ["first"]
    assert run("tests", "second") == ["second", "first"]
    assert run("bench", "third") == ["second", "third"]
    assert {path.name for path in tmp_path.iterdir()} == {"steps.json", "README.md"}


# The command


def test_all_steps_in_order_and_a_file_after_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    out, now, written = tmp_path / "out", [0.0], []

    def run(step: Step, _: float, log: Path) -> Ended:
        before = json.loads((out / "steps.json").read_text())["steps"] if written else []
        assert len(before) == len(written)
        written.append(step.kind)
        log.write_text(f"$ {' '.join(step.command)}\nline\n")
        now[0] += 40
        if step.name == "tests":
            raise KeyboardInterrupt
        return Ended(0)

    arguments = ["--out", str(out), "--work", str(tmp_path / "work"), "--steps", "machine,tests"]
    status = main(arguments, status=H100, run=run, clock=lambda: now[0])
    assert status == 130
    assert written == ["machine", "tests"]
    body = json.loads((out / "steps.json").read_text())
    assert (body["gpu"], [each["name"] for each in body["steps"]]) == (
        H100.gpus[0].name,
        ["machine"],
    )
    assert "interrupted; what was found is kept" in capsys.readouterr().err


def test_a_failed_step_is_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    def run(step: Step, _: float, log: Path) -> Ended:
        log.write_text("")
        return Ended(int(step.name == "tests"))

    arguments = ["--out", str(tmp_path), "--work", str(tmp_path / "w"), "--minutes", "1000"]
    assert main([*arguments, "--steps", "machine"], status=H100, run=run) == 0
    assert main([*arguments, "--steps", "tests,train"], status=H100, run=run) == 1
    steps = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert [(each["name"], each["status"]) for each in steps] == [
        ("machine", "ok"),
        ("tests", "failed"),
        ("train", "skipped"),
    ]


def test_without_a_gpu_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out")], status=NONE) == 2
    assert capsys.readouterr().err == f"make gpu needs an NVIDIA GPU: {NONE.reason}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(cuda_status().devices > 0, reason="is about a machine without a GPU")
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_gpu_without_a_gpu_makes_no_environment(tmp_path: Path) -> None:
    command = ["make", "-C", str(ROOT), "gpu", f"PYTHON={sys.executable}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("make gpu needs an NVIDIA GPU: ")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes must be above 0, got 0"),
        (["--steps", "tests,what"], "'what' is none of machine, tests, engines, bench, train"),
        (["--without-gpu"], "--without-gpu needs --out"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments, status=NONE)
    assert error.value.code == 2
    assert said in capsys.readouterr().err


# The steps


def test_every_test_for_a_gpu_is_run_the_known_ones_first() -> None:
    files = marked_files(ROOT)
    assert files[: len(TESTS)] == [*TESTS]
    assert all((ROOT / file).exists() for file in files)


def test_steps_that_cannot_be_done_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repr_bench.gpu.steps._is_there", lambda _: False)
    monkeypatch.setattr(Edition, "installed", False)
    (tmp_path / "artifacts" / "lenet5").mkdir(parents=True)
    (tmp_path / "artifacts" / "lenet5" / "manifest.json").touch()
    plan = Plan(tmp_path, tmp_path / "out", tmp_path, 12, networks=("lenet5", "plain20"))
    none = f"none of {', '.join(edition.title for edition in EDITIONS.values())} is installed"
    skipped = {step.name: step.skip for step in planned(plan) if step.kind != "bench"}
    assert skipped == {
        "machine": "",
        "tests": f"there are no tests in {tmp_path}",
        "export lenet5": "it is there",
        "lenet5 engines": none,
        "export plain20": "",
        "plain20 engines": none,
        "train": "no CIFAR-10 to train on: make gpu DATA=DIR",
    }
    (export,) = [step for step in planned(plan) if step.name == "export plain20"]
    assert {"plain20.cifar10", "random"} < {*export.command}  # its weights are not in the tree


def test_engines_that_the_gpu_does_not_run_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(capability: str) -> list[str]:
        plan = Plan(ROOT, tmp_path / "out", tmp_path, 12, kinds=("engines",), capability=capability)
        return [step.name for step in planned(plan) if not step.name.startswith("export")]

    monkeypatch.setattr(Edition, "installed", property(lambda each: each.just_in_time))
    first = [f"resnet20 fp32 tensorrt-rtx {target}" for target in ("current", "portable")]
    assert names("9.0") == [*first, "googlenet engines", "resnet50 engines"]
    assert len(names("8.9")) == len(names("")) == 12


def test_commands_are_in_the_order_of_their_worth(tmp_path: Path) -> None:
    steps = planned(Plan(ROOT, tmp_path / "out", tmp_path, 12))
    measured = [step.name for step in steps if step.name.startswith("bench")]
    assert measured[:4] == [
        f"bench {name}"
        for name in ("resnet20 fp32,fp16", "resnet50 fp16", "resnet20 int8", "resnet20 bf16")
    ]  # each precision before a second network, and before what compiles
    assert [*dict.fromkeys(step.kind for step in steps)] == [*KINDS]
    for step in (each for each in steps if each.name.startswith("bench")):
        assert parser().parse_args(step.command[5:])  # options that `repr-bench` has


def test_a_folder_is_named_for_the_gpu() -> None:
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_libraries_in_wheels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    assert environment()["LD_LIBRARY_PATH"].startswith(f"{tmp_path}/nvidia/cudnn/lib")
    assert environment()["LD_LIBRARY_PATH"].split(os.pathsep)[-1] == "/own"
