"""As many epochs as fit into a time, and what may take but a part of it."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from train_files import FILES, STATE, names

from repr_models import TrainingError, resolve
from repr_models.data.images import ImageSet
from repr_models.training import captured, pace
from repr_models.training import cli as train_cli
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import start
from repr_models.training.pace import Seldom, Steps, fitted, gpu_failures
from repr_models.training.recipe import Recipe


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that ``time.monotonic`` gives: the first of the list."""
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("done", "epoch_seconds", "left", "epochs"),
    [
        (0, 1.0, 100.0, 92),  # a twelfth is kept for the test
        (0, 1.0, 1000.0, 160),  # the recipe's own
        (0, 500.0, 100.0, 1),  # one at least, whatever it takes
        (10, 1.0, 100.0, 102),
        (10, 10.0, 25.0, 12),
        (10, 10.0, 5.0, 10),  # no more
        (10, 10.0, -5.0, 10),
    ],
)
def test_as_many_epochs_as_fit(
    done: int, epoch_seconds: float, left: float, epochs: int, clock: list[float]
) -> None:
    recipe = fitted(Recipe(), done, epoch_seconds, clock[0] + left, 32)
    assert recipe.epochs == epochs
    assert recipe.warmup_epochs == pytest.approx(1.0 if done else epochs * 0.15)
    assert recipe.rate(epochs) == pytest.approx(0, abs=1e-9)


def test_a_plan_that_turns_out_shorter_has_a_shorter_warm_up(clock: list[float]) -> None:
    """A GPU that others share: its first steps are taken alone, the others not."""
    ends = clock[0] + 100.0
    plan = fitted(Recipe(), 0, 4.0, ends, 32)
    assert (plan.epochs, plan.warmup_epochs) == (23, pytest.approx(3.45))
    clock[0] += 20.0
    plan = fitted(replace(plan, epochs=160), 1, 20.0, ends, 32)
    assert (plan.epochs, plan.warmup_epochs) == (4, pytest.approx(0.6))
    clock[0] += 5.0
    plan = fitted(replace(plan, epochs=160), 2, 5.0, ends, 32)
    assert (plan.epochs, plan.warmup_epochs) == (15, pytest.approx(0.6))


def test_small_images_let_more_epochs_fit_and_the_plan_keeps_to_them(clock: list[float]) -> None:
    plan, ends = Recipe(initial_size=16), clock[0] + 100.0
    for done in range(200):
        plan = fitted(plan, done, 1.0, ends, 32)
        if done == plan.epochs:
            break
        clock[0] += plan.cost_at(done, 32)
        if not done:
            # 0.6 of the epochs at 16 to 28 pixels cost 0.49 each, the rest 1: 92 / 0.694 of them.
            assert plan.epochs == pytest.approx(132, abs=2)
    assert done == plan.epochs > 130
    assert 90 < 100.0 - (ends - clock[0]) < 100


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "of 64 images; lower --batch-size"),
        (
            torch.AcceleratorError("CUDA error: it broke\nlong"),
            r"\(CUDA error: it broke\); the same",
        ),
    ],
)
def test_a_gpu_that_fails_is_no_traceback(error: Exception, words: str) -> None:
    with pytest.raises(TrainingError, match=words), gpu_failures(Recipe(batch_size=64)):
        raise error


def test_what_may_take_a_part_of_the_time_waits_for_it(clock: list[float]) -> None:
    keeping = Seldom(0.1)
    assert keeping.is_due()
    with keeping:
        clock[0] += 2
    assert not keeping.is_due()
    clock[0] += 19
    assert not keeping.is_due()
    clock[0] += 1
    assert keeping.is_due()


def test_a_run_of_minutes_plans_its_epochs_and_is_gone_on_with(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = command.index("--epochs")
    endless = [*command[:at], *command[at + 2 :], "--epochs", "100000", "-o", str(tmp_path / "out")]
    began = time.monotonic()
    assert train_cli.main([*endless, "--minutes", "0.05"]) == 0
    assert time.monotonic() - began < 9
    assert names(tmp_path / "out") == FILES
    record = json.loads((tmp_path / "out" / FILES[0]).read_text())
    assert 1 < record["recipe"]["epochs"] == len(record["history"]) < 100000
    # The last epochs' pace may change the plan by one or two: their rate is next to 0 all the same.
    assert record["history"][-1]["learning_rate"] < 0.01 * record["recipe"]["learning_rate"]
    assert "epochs" in capsys.readouterr().err
    assert not (tmp_path / "out" / STATE).exists()


def test_a_run_of_minutes_counts_its_small_images(command: list[str], tmp_path: Path) -> None:
    at = command.index("--epochs")
    args = ["alexnet", *command[1:at], "--epochs", "1000", *command[at + 2 :]]
    out = tmp_path / "out"
    assert train_cli.main([*args, "-o", str(out), "--initial-size", "20", "--minutes", "0.05"]) == 0
    record = json.loads((out / "alexnet.cifar10.json").read_text())
    assert record["recipe"]["initial_size"] == 20
    assert 1 < record["recipe"]["epochs"] == len(record["history"]) < 1000


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "x"])
def test_minutes_that_are_none_are_refused(
    minutes: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_cli.main([*command, "--minutes", minutes])
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fails", "tried", "said"),
    [
        ((), [True], "1.00 ms a step"),
        ((True,), [True, False], "not compiled: no compiler\nresnet20.cifar10: 1.00 ms a step"),
        ((True, False), [True, False], "no CUDA graph, its steps go one by one: no compiler"),
    ],
)
def test_on_a_gpu_what_cannot_be_compiled_or_captured_is_left_out(
    fails: tuple[bool, ...],
    tried: list[bool],
    said: str,
    colours: Callable[[int, int], ImageSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[bool] = []

    class Step:
        seconds = 1e-3

        def __init__(self, *_: object, compiled: bool) -> None:
            found.append(compiled)
            if compiled in fails:
                raise RuntimeError("no compiler")

    cpu, spec = torch.device("cpu"), resolve("resnet20.cifar10")
    monkeypatch.setattr(captured, "CapturedStep", Step)
    monkeypatch.setattr(pace, "start", lambda *args: start(*args[:3], cpu))
    state = start(spec, Recipe(), 0, cpu)
    before, state.device = state.network, torch.device("cuda")
    console = Console(file=io.StringIO(), soft_wrap=True)
    Steps(state, ResidentImages(colours(8, 0), spec, cpu), console, compiled=True)
    assert found == tried
    assert console.file.getvalue().endswith(f"{said}\n")  # type: ignore[attr-defined]
    assert (state.network is before) == (not fails)  # a half-compiled network is thrown away
