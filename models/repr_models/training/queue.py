"""Training what is missing: one process a network, several at once, in the order of worth."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from repr_models.errors import TrainingError
from repr_models.files import replace_file
from repr_models.registry import networks
from repr_models.spec import CIFAR10, NetworkSpec
from repr_models.training.recipe import Recipe
from repr_models.weights.bundled import bundled_path

ORDER = (
    *("resnet20", "vgg16", "alexnet", "resnet50", "mobilenet_v2", "plain20", "plain56"),
    *("resnet56", "shufflenet_v2", "googlenet", "xception", "resnet56_gn", "inception_resnet"),
    *("resnext29", "densenet_bc100", "mobilenet_v1", "shufflenet_v1", "resnet32", "resnet44"),
    *("vgg19", "resnet110", "preact_resnet164"),
)
"""A family's first network before any family's second."""

JOBS_ON_GPU = 4
"""Small networks do not fill a GPU, and what they do between their steps is not its work."""

INITIAL_SIZE = 20
"""Pixels of a side that CIFAR-10's images begin with."""

_BASE_COST = 40_000_000
"""What every image costs besides its multiply-adds, in these: the smallest networks are not free."""
_GIVE_UP_SECONDS = 20.0
_QUEUE_VARIABLE = "REPR_TRAIN_QUEUE"
_PR_SET_PDEATHSIG = 1


def missing(found: Sequence[Path]) -> list[NetworkSpec]:
    """What has no checkpoint that reaches its bar, in the folders ``found`` or bundled, by worth."""
    place = {name: index for index, name in enumerate(ORDER)}
    wanted = [
        spec
        for spec in networks()
        if spec.dataset == CIFAR10 and spec.architecture in place and not _is_there(spec, found)
    ]
    return sorted(wanted, key=lambda spec: place[spec.architecture])


def _is_there(spec: NetworkSpec, found: Sequence[Path]) -> bool:
    folders = [bundled_path(spec).parent, *found]
    tops = [top for folder in folders if (top := measured(folder, spec)) is not None]
    return any(not spec.is_below_bar(top) for top in tops)


def measured(folder: Path, spec: NetworkSpec) -> float | None:
    """The top-1 on record of the checkpoint of ``spec`` in ``folder``; None if there is none."""
    try:
        record = json.loads((folder / f"{spec.name}.json").read_text("utf-8"))
        return float(record["accuracy"]["test_top1"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cost(spec: NetworkSpec) -> int:
    """What an image of training costs, in multiply-adds of its way forward."""
    return (spec.multiply_adds or 0) + _BASE_COST


def few_epochs(spec: NetworkSpec, *, on_gpu: bool) -> list[str]:
    """Options of a run that has few epochs.

    Muon for networks that normalise. On a GPU twice the batch at twice the rate (Goyal et al. 2017,
    §2.1), compiled where that pays; on a CPU images that grow, for networks that take small ones:
    models/README.md says what these bring. Networks that can fit the training images get their labels
    smoothed.
    """
    recipe = Recipe(**spec.recipe)  # type: ignore[arg-type]
    options = {
        "--padding": "reflection",
        "--label-smoothing": "0.1" if spec.parameters > 700_000 else "0",
    }
    if _takes_muon(spec):
        options["--optimizer"] = "muon"
    if on_gpu:
        options["--batch-size"] = str(2 * recipe.batch_size)
        options["--learning-rate"] = str(2 * recipe.learning_rate)
    elif _takes(spec, INITIAL_SIZE):
        options["--initial-size"] = str(INITIAL_SIZE)
    words = [word for option in options.items() for word in option]
    return [*words, "--compile"] if on_gpu and _gains_compiled(spec) else words


def _takes_muon(spec: NetworkSpec) -> bool:
    import torch

    from repr_models.training.optimizer import normalises

    with torch.device("meta"):
        return normalises(spec.build())


def _gains_compiled(spec: NetworkSpec) -> bool:
    import torch

    from repr_models.training.compiled import pays

    with torch.device("meta"):
        return pays(spec.build())


def _takes(spec: NetworkSpec, side: int) -> bool:
    """Whether the network runs on square images of so many pixels a side."""
    import torch

    with torch.device("meta"), torch.no_grad():
        network = spec.build().eval()
        try:
            network(torch.empty(2, 3, side, side))
        except RuntimeError:
            return False
    return True


@dataclass
class _Run:
    spec: NetworkSpec
    process: subprocess.Popen[bytes]
    ends: float


def train_all(
    specs: Sequence[NetworkSpec],
    command: Callable[[NetworkSpec, float | None], list[str]],
    folder: Path,
    jobs: int,
    seconds: float | None,
    tell: Callable[[str], None],
    place: Path | None = None,
    watch: Callable[[Sequence[tuple[str, str]]], None] = lambda _running: None,
) -> list[str]:
    """Train ``specs``, ``jobs`` at a time, within ``seconds``; returns the names of those that failed.

    ``command`` gives the command for a network and the minutes that it has; its output goes to
    ``NAME.log`` in ``folder``, ``tell`` gets a line for each that ends, ``watch`` now and then what
    runs: names with their logs' last lines. What is better than its like in the folder ``place`` is
    put there. The time is shared by what networks cost. Interrupted, the children are too, and keep
    their state.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    waiting, running, failed = list(specs), list[_Run](), list[str]()
    with _children(running):
        while waiting or running:
            for run in [r for r in running if r.process.poll() is not None]:
                running.remove(run)
                if run.process.returncode:
                    failed.append(run.spec.name)
                tell(_said(run, folder) + ("" if place is None else _put(run, folder, place)))
            while waiting and len(running) < jobs:
                spec = waiting.pop(0)
                share = None if ends is None else _share(spec, waiting, running, jobs, ends)
                if share is not None and share < _GIVE_UP_SECONDS:
                    tell(f"{spec.name}: no time left for it")
                    continue
                running.append(_start(spec, command, folder, share))
            watch([(run.spec.name, _last_line(run, folder)) for run in running])
            time.sleep(0.1)
    return failed


def _share(
    spec: NetworkSpec,
    waiting: Sequence[NetworkSpec],
    running: Sequence[_Run],
    jobs: int,
    ends: float,
) -> float:
    """Seconds for ``spec``: its part, by cost, of what the jobs still have."""
    now = time.monotonic()
    taken = sum(max(run.ends - now, 0.0) for run in running)
    free = jobs * (ends - now) - taken
    whole = cost(spec) + sum(cost(other) for other in waiting)
    return min(free * cost(spec) / whole, ends - now)


def _start(
    spec: NetworkSpec,
    command: Callable[[NetworkSpec, float | None], list[str]],
    folder: Path,
    share: float | None,
) -> _Run:
    minutes = None if share is None else share / 60
    with (folder / f"{spec.name}.log").open("ab") as log:
        process = subprocess.Popen(
            command(spec, minutes),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, _QUEUE_VARIABLE: str(os.getpid())},
            start_new_session=True,  # a terminal's Ctrl-C comes to us alone, and we pass it on
        )
    with suppress(AttributeError, OSError):  # behind all other work; Windows has no such call
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
    return _Run(spec, process, time.monotonic() + (share or 0.0))


def _said(run: _Run, folder: Path) -> str:
    """How ``run`` ended, in a line."""
    top1 = measured(folder, run.spec)
    if run.process.returncode or top1 is None:
        last = _last_line(run, folder) or f"exit status {run.process.returncode}"
        return f"{run.spec.name}: failed: {last}"
    bar = run.spec.bar
    below = f", below its bar of {bar:.1%}" if bar is not None and top1 < bar else ""
    return f"{run.spec.name}: {top1:.2%}{below}"


def _last_line(run: _Run, folder: Path) -> str:
    lines = (folder / f"{run.spec.name}.log").read_text("utf-8", "replace").splitlines()
    return lines[-1] if lines else ""


def _put(run: _Run, folder: Path, place: Path) -> str:
    """Copy the checkpoint and its record to ``place`` if they are better; returns what to say."""
    top1, there = measured(folder, run.spec), measured(place, run.spec)
    if run.process.returncode or top1 is None:
        return ""
    if there is not None and there >= top1:
        return f", not better than the {there:.2%} in {place}"
    path = folder / f"{run.spec.name}.safetensors"
    try:
        for found in (path, path.with_suffix(".json")):  # a record is of the weights beside it
            replace_file(place / found.name, found.read_bytes())
    except OSError as error:
        return f", not put in {place}: {error.strerror}"
    return f", put in {place}" + (f" for the {there:.2%} there" if there is not None else "")


def end_with_queue() -> None:
    """Make this process, if a queue began it, end when that does, and be it killed.

    Else two would train the same network once the queue is called again. Only Linux can do it.
    """
    queue = os.environ.get(_QUEUE_VARIABLE)
    if queue is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(queue):  # it was gone before
        raise KeyboardInterrupt


@contextmanager
def _children(running: list[_Run]) -> Iterator[None]:
    """Whatever ends this process ends the children, after they have kept their state."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for run in running:
            if run.process.poll() is None:
                os.kill(run.process.pid, signal.SIGINT)
        for run in running:
            try:
                run.process.wait(_GIVE_UP_SECONDS)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()


def refuse_name(name: str | None) -> None:
    """``--missing`` names its networks itself."""
    if name is not None:
        raise TrainingError(f"--missing trains what is missing; leave out {name!r}, or --missing")
