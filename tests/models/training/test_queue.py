"""Training what is missing: which networks, in what order, with how much time, and how each ended."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repr_models import resolve
from repr_models.spec import NetworkSpec
from repr_models.training import cli as train_cli
from repr_models.training import queue

WRITES = """
import json, pathlib, sys, time
name, folder, top1 = sys.argv[1:4]
print("epoch 1 of 1", flush=True)
time.sleep(0.5)
pathlib.Path(folder, name + ".safetensors").write_text(top1)
pathlib.Path(folder, name + ".json").write_text(json.dumps({"accuracy": {"test_top1": float(top1)}}))
"""


def write_record(folder: Path, name: str, top1: float) -> None:
    (folder / f"{name}.cifar10.json").write_text(json.dumps({"accuracy": {"test_top1": top1}}))


def test_what_reaches_its_bar_is_not_missing_and_the_rest_is_in_order(tmp_path: Path) -> None:
    before = [spec.architecture for spec in queue.missing([tmp_path])]
    assert before == [name for name in queue.ORDER if name in before]
    assert {"resnet110", "vgg19"} <= set(before)
    write_record(tmp_path, "resnet110", 0.95)
    write_record(tmp_path, "vgg19", 0.50)
    (tmp_path / "densenet_bc100.cifar10.json").write_text("{")
    after = [spec.architecture for spec in queue.missing([tmp_path])]
    assert after == [name for name in before if name != "resnet110"]


def test_every_network_of_the_order_is_registered_and_has_its_time() -> None:
    for name in queue.ORDER:
        spec = resolve(f"{name}.cifar10")
        assert queue.cost(spec) > queue._BASE_COST
        for on_gpu in (False, True):
            options = queue.few_epochs(spec, on_gpu=on_gpu)
            args = train_cli.parser().parse_args([name, "--data", ".", *options])
            assert (args.batch_size or 128) >= 128
            assert args.optimizer == (None if spec.family == "alexnet" else "muon")
            assert args.initial_size == (None if on_gpu or spec.family == "vgg" else 20)


def test_each_gets_its_part_of_the_time_and_is_told_of(tmp_path: Path) -> None:
    specs = [resolve(f"{name}.cifar10") for name in ("resnet20", "resnext29", "vgg16", "alexnet")]
    given: dict[str, float] = {}
    told: list[str] = []

    def command(spec: NetworkSpec, minutes: float | None) -> list[str]:
        assert minutes is not None
        given[spec.architecture] = minutes * 60
        if spec.architecture == "vgg16":
            return [sys.executable, "-c", "print('no such thing'); raise SystemExit(1)"]
        top1 = "0.99" if spec.architecture == "resnext29" else "0.3"
        return [sys.executable, "-c", WRITES, spec.name, str(tmp_path), top1]

    failed = queue.train_all(specs, command, tmp_path, 2, 1000.0, told.append)
    assert failed == ["vgg16.cifar10"]
    assert sorted(told) == [
        "alexnet.cifar10: 30.00%, below its bar of 86.0%",
        "resnet20.cifar10: 30.00%, below its bar of 91.2%",
        "resnext29.cifar10: 99.00%",
        "vgg16.cifar10: failed: no such thing",
    ]
    # Two jobs have 2,000 s; the first gets its part of them by cost, the last all that is left.
    costs = [queue.cost(spec) for spec in specs]
    assert given["resnet20"] == pytest.approx(2000 * costs[0] / sum(costs), rel=0.02)
    assert given["resnext29"] == pytest.approx(1000, rel=0.02) or given["resnext29"] < 1000
    assert given["alexnet"] == pytest.approx(1000, rel=0.1)


def test_what_is_better_is_put_in_place_with_its_record(tmp_path: Path) -> None:
    out, place = tmp_path / "out", tmp_path / "place"
    out.mkdir()
    place.mkdir()
    tops = {"resnet20": 0.5, "vgg16": 0.4, "alexnet": 0.3, "plain20": 0.0}
    for name, there in (("vgg16", 0.35), ("alexnet", 0.3)):
        write_record(place, name, there)
    specs = [resolve(f"{name}.cifar10") for name in tops]

    def command(spec: NetworkSpec, _: float | None) -> list[str]:
        if spec.architecture == "plain20":
            return [sys.executable, "-c", "raise SystemExit(1)"]
        return [sys.executable, "-c", WRITES, spec.name, str(out), str(tops[spec.architecture])]

    told, seen = list[str](), list[tuple[str, str]]()
    queue.train_all(specs, command, out, 1, None, told.append, place, seen.extend)
    assert [line.split("%, ")[-1] for line in told] == [
        f"put in {place}",
        f"put in {place} for the 35.00% there",
        f"not better than the 30.00% in {place}",
        "plain20.cifar10: failed: exit status 1",
    ]
    assert (place / "vgg16.cifar10.safetensors").read_text() == "0.4"
    assert queue.measured(place, specs[1]) == 0.4
    assert sorted(path.name for path in place.iterdir()) == [
        "alexnet.cifar10.json",
        *(
            f"{name}.cifar10.{end}"
            for name in ("resnet20", "vgg16")
            for end in ("json", "safetensors")
        ),
    ]
    assert {name for name, _ in seen} == {spec.name for spec in specs}
    assert {last for _, last in seen} == {"", "epoch 1 of 1"}


def test_what_cannot_be_put_in_place_is_said(tmp_path: Path) -> None:
    told = list[str]()
    spec = resolve("resnet20.cifar10")
    command = [sys.executable, "-c", WRITES, spec.name, str(tmp_path), "0.5"]
    nowhere = tmp_path / "gone"
    assert not queue.train_all([spec], lambda *_: command, tmp_path, 1, None, told.append, nowhere)
    assert told[0].endswith(f", not put in {nowhere}: No such file or directory")


def test_what_has_no_time_left_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    specs = [resolve("resnet20.cifar10")]
    assert queue.train_all(specs, lambda *_: [], tmp_path, 1, 5.0, told.append) == []
    assert told == ["resnet20.cifar10: no time left for it"]


def test_a_stopped_queue_stops_its_children(tmp_path: Path) -> None:
    child = "import time, sys; print('here', flush=True); time.sleep(60)"
    program = (
        "import sys; from pathlib import Path; from repr_models import resolve\n"
        "from repr_models.training.queue import train_all\n"
        f"spec = resolve('resnet20.cifar10'); folder = Path({str(tmp_path)!r})\n"
        f"train_all([spec], lambda *_: [sys.executable, '-c', {child!r}], folder, 1, None, print)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        log = tmp_path / "resnet20.cifar10.log"
        deadline = time.monotonic() + 30
        while not (log.exists() and "here" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
    assert "KeyboardInterrupt" in log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_queue_leaves_no_child_behind(tmp_path: Path) -> None:
    child = (
        "import os, time; from repr_models.training.queue import end_with_queue\n"
        "end_with_queue(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    program = (
        "from pathlib import Path; from repr_models import resolve; import sys\n"
        "from repr_models.training.queue import train_all\n"
        f"spec = resolve('resnet20.cifar10'); folder = Path({str(tmp_path)!r})\n"
        f"train_all([spec], lambda *_: [sys.executable, '-c', {child!r}], folder, 1, None, print)\n"
    )
    log = tmp_path / "resnet20.cifar10.log"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 30
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    there = Path("/proc", log.read_text().strip(), "cmdline")
    while there.exists() and there.read_bytes():  # of a zombie it is empty
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_whose_queue_is_gone_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPR_TRAIN_QUEUE", str(2**30))
    code = "from repr_models.training.queue import end_with_queue; end_with_queue()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ("KeyboardInterrupt" in done.stderr) is (sys.platform == "linux")


def test_options_of_a_recipe_are_for_each_that_is_missing(
    cifar_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = list[list[str]]()

    def note(specs: list[NetworkSpec], command: Callable[..., list[str]], *_: object) -> list[str]:
        commands.extend(command(spec, None) for spec in specs)
        return []

    monkeypatch.setattr(queue, "train_all", note)
    missing = ["--missing", "--data", str(cifar_folder), "--out", str(tmp_path)]
    assert train_cli.main([*missing, "--optimizer", "sgd", "--warmup-epochs", "2.5"]) == 0
    parser = train_cli.parser()
    runs = [parser.parse_args(command[4:]) for command in commands]
    assert {(run.optimizer, run.warmup_epochs, run.epochs) for run in runs} == {("sgd", 2.5, None)}
    assert train_cli.main([*missing, "--epochs", "0"]) == 1
    assert "the epochs must be finite and more than 0, got 0" in capsys.readouterr().err
    assert len(commands) == len(runs) > 10


def test_a_name_beside_missing_is_refused(
    cifar_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_cli.main(["lenet5", "--missing", "--data", str(cifar_folder)]) == 1
    assert "leave out 'lenet5', or --missing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train_cli.main(["--data", str(cifar_folder)])
    assert "give a network's name, or --missing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train_cli.main(["lenet5", "--data", str(cifar_folder), "--place", "."])
    assert "--place is for --missing" in capsys.readouterr().err
    assert train_cli.main(["--missing", "--data", str(cifar_folder), "--place", "nowhere"]) == 1
    assert "--place nowhere: there is no such folder" in capsys.readouterr().err
