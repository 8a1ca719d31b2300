"""The command: what it prints and writes, its exit status, and mistakes without a traceback."""

import builtins
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

from repr_bench import cli
from repr_bench.results.file import read_results

ArtifactMaker, Bench = Callable[..., Path], Callable[..., tuple[int, str, str]]
QUICK = ("--quick", "--seconds", "0.012", "--samples", "12", "--threads", "1")

pytestmark = pytest.mark.usefixtures("in_tmp_path", "ten_images")


@pytest.fixture
def bench(make_artifact: ArtifactMaker, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command on an artifact: its status, and what it printed."""
    folder = str(make_artifact())

    def ran(*arguments: str, targets: tuple[str, ...] = (folder,)) -> tuple[int, str, str]:
        status = cli.main([*targets, *arguments, *QUICK])
        return (status, *capsys.readouterr())

    return ran


def test_table_json_and_page(bench: Bench) -> None:
    files = ("--json", "new/r.json", "--html", "new/r.html")
    status, out, err = bench("--batch", "1,2", *files)
    assert status == 0
    assert re.search(r"^linear +fp32 +1 .*30\.00 \(10\.8–60\.3\)", out, re.MULTILINE)
    assert "\x1b" not in out + err
    assert "new/r.json" in err
    found = read_results(Path("new/r.json"))
    assert found.command[0] == "repr-bench"
    assert found.command[4:8] == files
    assert [row.batch for row in found.rows] == [1, 2]
    assert "<svg" in Path("new/r.html").read_text("utf-8")


def test_a_failed_row_makes_the_exit_status_1(bench: Bench) -> None:
    status, out, _ = bench("no/such")
    assert status == 1
    assert "no/such: no/such is not an artifact: there is no such folder" in out
    assert re.search(r"^linear +fp32 +1 ", out, re.MULTILINE)


def test_fp16_where_there_is_none_is_no_failure(bench: Bench) -> None:
    status, out, _ = bench("--batch", "1", "--fp16", "--int8", "--json", "r.json")
    assert status == 0
    assert "linear fp16: no fp16 graph in this artifact" in out
    assert [(row.precision, row.status) for row in read_results(Path("r.json")).rows] == [
        *(("fp32", "measured"), ("fp16", "absent"), ("int8", "absent"))
    ]
    # ... but a run that measured nothing has failed
    assert bench("--precision", "fp16")[0] == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, as it is not in a background job of a shell."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_termination_report_and_exit_130(
    sent: signal.Signals, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repr_bench.progress import RunProgress

    def advance(_self: object, what: str, done: float, total: float) -> None:
        if what == "measuring" and done > total / 2:
            signal.raise_signal(sent)

    monkeypatch.setattr(RunProgress, "advance", advance)
    before = signal.getsignal(signal.SIGTERM)
    status, out, _ = bench("--batch", "1,2", "--json", "r.json")
    assert status == 130
    assert signal.getsignal(signal.SIGTERM) == before
    assert "interrupted" in out
    found = read_results(Path("r.json"))
    assert found.interrupted
    assert [row.status for row in found.rows] == ["interrupted"] * 2
    assert all(row.samples and "of 12 rounds" in row.reason for row in found.rows)


@pytest.mark.parametrize(
    "line",
    [
        *("--batch 0", "--batch 1,x", "--batch ''", "--precision fp8", "--fp16 --precision fp32"),
        *("--int8 --precision fp32", "--seconds 0", "--seconds nan", "--seconds inf"),
        *("--samples -1", "--samples 1.5", "--threads 0", "--device tpu", "--no-such-option"),
        *("--all-bundled lenet5", "--json - --csv -", "--tune speed", "--list --csv r.csv"),
        *("--tune latency --json r.json", "--tune latency --peers", "--tune latency --csv r.csv"),
        *("--from r.json lenet5", "--csv - --markdown -", "--scenario batch", "--scenario ''"),
        *("--instances 0", "--max-batch 0", "--slo 15", "--slo 0ms", "--slo fastms", "--slo infs"),
        *("--seed -1", "--atol -1", "--rtol nan", "--weights f.pth"),
    ],
)
def test_wrong_command_lines_exit_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(shlex.split(line))
    assert caught.value.code == 2
    assert line.split()[0] in capsys.readouterr().err.rpartition("error:")[2]


@pytest.mark.parametrize("option", ["--json", "--html", "--csv"])
def test_files_that_cannot_be_written_are_said_before_measuring(
    option: str, bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path), str(tmp_path / "file" / "r")):
        status, out, err = bench(option, place)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"repr-bench: {place}")


def test_json_to_standard_output_is_all_that_stands_there(bench: Bench) -> None:
    status, out, err = bench("--batch", "1", "--json", "-")
    (row,) = json.loads(out)["rows"]
    assert (status, row["status"], row["peak_memory_bytes"] > 0) == (0, "measured", True)
    assert err.startswith("measuring 1 row, at least 0.012 s each")
    assert not Path("-").exists()


def test_of_a_run_without_any_figure_the_reasons_are_all_that_is_said(bench: Bench) -> None:
    assert bench(targets=("no/such", "nor/this")) == (
        1,
        "no/such: no/such is not an artifact: there is no such folder; make one with repr-export\n"
        "nor/this: nor/this is not an artifact: there is no such folder; make one with repr-export\n",
        "",
    )


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("resnet200", "there is no network called 'resnet200'; did you mean resnet20, resnet"),
        ("xyzzy --quick", "there is no network called 'xyzzy'; repr-bench --list has them all"),
        ("--precision fp32,in8", "'in8' is not one of fp32, fp16, bf16, int8; did you mean int8?"),
        ("--device cudda", "'cudda' is not one of auto, tensorrt, cuda, "),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_and_without_torch(line: str, near: str) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from repr_bench.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = in_a_process("-c", program, *line.split())
    usage, error = done.stderr.splitlines()
    assert (done.returncode, usage[:6]) == (2, "usage:")
    assert near in error


def test_data_without_cifar10_is_said_before_measuring(bench: Bench) -> None:
    Path("empty").mkdir()
    status, out, err = bench("--data", "empty")
    assert (status, out) == (1, "")
    assert "no CIFAR-10 test set here" in err


def test_a_run_without_names_says_at_the_end_what_it_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "left out: everything else"
    select = Mock(return_value=(("linear",), said))
    monkeypatch.setattr(cli, "default_selection", select)
    status, out, err = bench("--batch", "1", "--json", "r.json", targets=())
    assert re.search(r"^linear +fp32 +1 ", out, re.MULTILINE)
    assert (status, said in out, err.endswith(f"{said}\n")) == (0, False, True)
    assert read_results(Path("r.json")).left_out == said
    status, out, err = bench("--batch", "1", "--quiet", "--all-bundled", targets=())
    assert (status, "linear" in out, err) == (0, True, "")
    assert said not in bench("--batch", "1")[2]
    assert bench("--batch", "1", "--quiet", "--each-family", targets=())[0] == 0
    assert select.call_args_list == [
        call(all_bundled=False, each_family=False),
        call(all_bundled=True, each_family=False),
        call(all_bundled=False, each_family=True),
    ]


def test_the_list_in_a_pipe_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    lenet = r"^lenet5\.cifar10 +0\.06 +0\.65 +\d\d\.\d\d ≥ 70 +- +bundled +- *$"
    assert re.search(lenet, capsys.readouterr().out, re.MULTILINE)  # no colours either
    assert cli.main(["--list", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert cli.main(["--list", "--json", "new/list.json"]) == 0
    assert capsys.readouterr().out == ""
    assert Path("new/list.json").read_text("utf-8") == out
    found = {network["name"]: network for network in json.loads(out)["networks"]}
    assert found["resnet50.imagenet"]["multiply_adds"] == 4_089_184_256


@pytest.mark.parametrize("missing", ["rich", "psutil", "matplotlib"])
def test_a_missing_extra_is_answered_with_its_install_line(
    missing: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in (missing, "repr_bench") and name != "repr_bench.cli":
            monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    status, _, err = bench("--html", "r.html")
    assert status == 1
    assert err == f"repr-bench needs {missing}: pip install 'repr-deploy[bench]'\n"


def in_a_process(*arguments: str, stdout: int = subprocess.PIPE) -> Any:
    command = (sys.executable, *arguments)
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_an_artifact_is_measured_without_torch_onnx_or_the_exporter(
    make_artifact: ArtifactMaker,
) -> None:
    folder = make_artifact()
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'repr_export'):\n"
        "    sys.modules[name] = None\n"
        "from repr_bench.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    options = (*QUICK, "--batch", "1", "--limit", "50", "--json", "r.json", "--html", "r.html")
    done = in_a_process("-c", program, str(folder), *options)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    row = json.loads(Path("r.json").read_text("utf-8"))["rows"][0]
    assert row["graph"]["accuracy"]["images"] == 50
    assert "first 200 of each class" in Path("r.html").read_text("utf-8")


def test_a_reader_that_leaves_early_costs_no_result(make_artifact: ArtifactMaker) -> None:
    reader, out = os.pipe()
    os.close(reader)
    folder = str(make_artifact(dataset=None))
    options = (*QUICK, "--batch", "1", "--json", "r.json")
    done = in_a_process("-m", "repr_bench.cli", folder, *options, stdout=out)
    os.close(out)
    assert "Traceback" not in done.stderr
    assert read_results(Path("r.json")).rows
