"""The command ``repr-train``: its arguments, what it prints, the files it writes."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_models.command import finish, progress_bar, version
from repr_models.completion import complete, completes, network_names
from repr_models.data.cifar10 import load_cifar10
from repr_models.errors import TrainingError
from repr_models.files import replace_file
from repr_models.registry import networks, resolve
from repr_models.spec import CIFAR10, NetworkSpec
from repr_models.streams import with_streams
from repr_models.training.recipe import OPTIMIZERS, PADDINGS, Recipe

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from repr_models.data.images import ImageSet
    from repr_models.training.loop import TrainingState
    from repr_models.training.pace import Steps

_MAX_SEED = 2**32 - 1


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = argparse.ArgumentParser(
        prog="repr-train",
        description="Train a network on CIFAR-10; writes NAME.safetensors and NAME.json. "
        "An interrupted run goes on from its last whole epoch when called again.",
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    name = p.add_argument("name", nargs="?", help="a network for CIFAR-10, such as resnet20")
    completes(name, _trainable)
    p.add_argument(
        "--missing",
        action="store_true",
        help="train every network that has no checkpoint, or one below its bar, several at once",
    )
    p.add_argument(
        "--hours", type=positive, metavar="H", help="with --missing: the time for all of them"
    )
    p.add_argument("--jobs", type=integer(1), metavar="N", help="with --missing: networks at once")
    p.add_argument(
        "--place",
        type=Path,
        metavar="DIR",
        help="with --missing: put what is better than the checkpoint in this folder there",
    )
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with CIFAR-10")
    p.add_argument("-o", "--out", type=Path, default=Path("checkpoints"), metavar="DIR")
    p.add_argument("--seed", type=integer(0, _MAX_SEED), default=0)
    p.add_argument("--epochs", type=int)
    p.add_argument("--batch-size", type=int)
    p.add_argument("--learning-rate", type=float, help="peak of the schedule")
    p.add_argument("--weight-decay", type=float)
    p.add_argument("--warmup-epochs", type=float)
    p.add_argument("--label-smoothing", type=float)
    p.add_argument("--optimizer", choices=OPTIMIZERS, help="muon: convolutions step orthogonally")
    p.add_argument("--padding", choices=PADDINGS, help="what random crops see around an image")
    p.add_argument(
        "--initial-size",
        type=integer(1),
        metavar="PIXELS",
        help="images begin this small and grow over 0.6 of the epochs (on a CPU)",
    )
    p.add_argument(
        "--minutes",
        type=positive,
        metavar="M",
        help="as many epochs as fit into M minutes here, the learning rate's schedule with them",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 where the GPU has it, or a CPU with AMX or AVX512-BF16",
    )
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--compile", action="store_true", help="on a GPU: its blocks by torch.compile")
    p.add_argument("--threads", type=integer(1), help="CPU threads")
    p.add_argument(
        "--eval-every", type=integer(1), default=1, metavar="N", help="epochs between tests"
    )
    p.add_argument(
        "--store",
        choices=("auto", "fp32"),
        default="auto",
        help="auto: large tensors in int8, others in fp16, vectors in fp32; measured as stored",
    )
    p.add_argument(
        "--re-encode",
        type=Path,
        metavar="FILE",
        help="train nothing: store FILE, a checkpoint of repr-train, anew, and measure it anew",
    )
    p.add_argument("--restart", action="store_true", help="ignore an unfinished run in --out")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    p.add_argument("--json", action="store_true", help="print the record on standard output")
    return p


def _trainable(prefix: str, **_: object) -> list[str]:
    return [name for name in network_names(prefix) if name.endswith(CIFAR10.name)]


def positive(text: str) -> float:
    """An option's finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and more than 0, got {text}")
    return value


positive.__name__ = "number"


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """What reads an option's whole number between these."""
    bounds = f"at least {low}" if high is None else f"in {low}..{high}"

    def parse(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {value}")
        return value

    parse.__name__ = "whole number"  # argparse names it when the text is no number
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 for a failure, 2 for wrong usage and 130 when interrupted."""

    def command() -> int:
        p = parser()
        complete(p)
        args = p.parse_args(argv)
        if args.name is None and not args.missing:
            p.error("give a network's name, or --missing")
        if args.place is not None and not args.missing:
            p.error("--place is for --missing; a single run writes to --out")
        if args.initial_size is not None and args.missing:
            p.error("--missing decides by itself how small images begin; leave --initial-size out")
        run = _run_missing if args.missing else _run
        return finish("repr-train", lambda: run(args), "from the last whole epoch")

    return with_streams("repr-train", command)


def _recipe(args: argparse.Namespace, spec: NetworkSpec, device: torch.device) -> Recipe:
    """The default recipe, changed by what the network asks for, changed by the options."""
    from repr_models.training.loop import computes_bf16

    changes = _asked(args)
    if args.precision == "auto":
        changes["precision"] = "bf16" if computes_bf16(device) else "fp32"
    return Recipe(**{**spec.recipe, **changes})


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the recipe."""
    said = {field.name: getattr(args, field.name, None) for field in fields(Recipe)}
    return {name: value for name, value in said.items() if value is not None}


def _run(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console

    from repr_models.training.augment import ResidentImages
    from repr_models.training.cpu import keep_freed
    from repr_models.training.loop import start
    from repr_models.training.pace import gpu_failures
    from repr_models.training.queue import end_with_queue
    from repr_models.training.stored import read_checkpoint, store

    end_with_queue()
    ends = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    spec = trained_network(args.name)
    device = _device(args.device)
    recipe = _recipe(args, spec, device)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed()
    images = {split: load_cifar10(args.data, split) for split in ("train", "test")}
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=args.quiet, highlight=False, soft_wrap=True)

    if args.re_encode is not None:
        parameters, record = read_checkpoint(spec, args.re_encode, images)
        resident = {split: ResidentImages(found, spec, device) for split, found in images.items()}
        content, said = store(spec, parameters, args.store, resident)
        console.print(f"on record: {record['accuracy']['test_top1']:.2%} top-1; measured anew:")
        _write_checkpoint(args, content, record | said, console)
        return

    with gpu_failures(recipe):
        _train(args, start(spec, recipe, args.seed, device), images, ends, console)


def _train(
    args: argparse.Namespace,
    state: TrainingState,
    images: dict[str, ImageSet],
    ends: float | None,
    console: Console,
) -> None:
    """Train on until ``ends`` (of ``time.monotonic``), or all of the recipe; write what came of it."""
    from repr_models.training.augment import ResidentImages
    from repr_models.training.loop import evaluate, refuse_sizes
    from repr_models.training.pace import Seldom, Steps, fitted
    from repr_models.training.record import make_record
    from repr_models.training.stored import store
    from repr_models.training.unfinished import keep, resume

    spec, device = state.spec, state.device
    unfinished = args.out / f"{spec.name}.state.pt"
    if unfinished.exists() and not args.restart:
        resume(state, images["train"], unfinished, fitted=ends is not None)
        console.print(f"resuming {spec.name} after epoch {state.epoch} of {state.recipe.epochs}")
    resident = {split: ResidentImages(found, spec, device) for split, found in images.items()}
    refuse_sizes(state, resident["train"])
    steps = Steps(state, resident["train"], console, compiled=args.compile)
    side, own = spec.input_shape[-1], state.recipe.epochs
    if ends is not None:
        state.recipe = fitted(state.recipe, state.epoch, steps.epoch_seconds(), ends, side)
        console.print(f"{spec.name}: {state.recipe.epochs} epochs")
    keeping = Seldom(0.0 if device.type == "cpu" else 0.05)
    for row in _epochs(steps, console):
        if ends is not None:
            whole = row["seconds"] / state.recipe.cost_at(state.epoch - 1, side)
            state.recipe = fitted(replace(state.recipe, epochs=own), state.epoch, whole, ends, side)
        last = state.epoch >= state.recipe.epochs
        if state.epoch % args.eval_every == 0 or last:
            row["test_top1"] = evaluate(state.network, resident["test"])
        state.history.append(row)
        if last or keeping.is_due():
            with keeping:
                keep(state, images["train"], unfinished)
        if _is_told(state.epoch, state.recipe.epochs):
            console.print(_line(row, state.recipe.epochs))
    content, said = store(spec, state.network.state_dict(), args.store, resident)
    _write_checkpoint(args, content, make_record(state, images, said), console)
    unfinished.unlink(missing_ok=True)


def _run_missing(args: argparse.Namespace) -> None:
    """One process a network; what they have in common is said in :mod:`repr_models.training.queue`."""
    from rich.console import Console

    from repr_models.training import queue

    queue.refuse_name(args.name)
    device = _device(args.device)
    on_gpu = device.type == "cuda"
    jobs = args.jobs or (queue.JOBS_ON_GPU if on_gpu else os.cpu_count() or 1)
    for split in ("train", "test"):
        load_cifar10(args.data, split)  # a wrong folder is found before the first process is
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=args.quiet, highlight=False, soft_wrap=True)
    if args.place is not None and not args.place.is_dir():
        raise TrainingError(f"--place {args.place}: there is no such folder")
    specs = queue.missing([args.out, *([] if args.place is None else [args.place])])
    console.print(f"{len(specs)} networks, {jobs} at once: {', '.join(s.name for s in specs)}")
    asked = {name: value for name, value in _asked(args).items() if name != "precision"}
    Recipe(**asked)  # a wrong value is found before, too
    given = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]

    def command(spec: NetworkSpec, minutes: float | None) -> list[str]:
        common = ["--data", str(args.data), "--out", str(args.out), "--device", str(device)]
        common += ["--precision", args.precision, "--seed", str(args.seed), "--store", args.store]
        common += ["--threads", str(args.threads or 1), "--eval-every", "1000000"]
        if minutes is not None:
            common += ["--minutes", f"{minutes:.3f}"]
        program = [sys.executable, "-P", "-m", "repr_models.training.cli"]
        return [*program, spec.name, *common, *queue.few_epochs(spec, on_gpu=on_gpu), *given]

    seconds = None if args.hours is None else 3600 * args.hours
    with _board(console) as watch:
        failed = queue.train_all(
            specs, command, args.out, jobs, seconds, console.print, args.place, watch
        )
    if failed:
        raise TrainingError(
            f"{len(failed)} failed: {', '.join(failed)}; see NAME.log in {args.out}"
        )


@contextmanager
def _board(console: Console) -> Iterator[Callable[[Sequence[tuple[str, str]]], None]]:
    """On a terminal, a table of what runs: each network with what it said last."""
    from rich.live import Live
    from rich.table import Table

    def watch(running: Sequence[tuple[str, str]]) -> None:
        table = Table.grid(padding=(0, 2))
        for name, last in running:
            table.add_row(name, last)
        live.update(table)

    if not console.is_terminal or console.quiet:
        yield lambda _running: None
        return
    with Live(console=console, transient=True, refresh_per_second=2) as live:
        yield watch


def _write_checkpoint(
    args: argparse.Namespace, content: bytes, record: dict[str, Any], console: Console
) -> None:
    text = json.dumps(record, indent=1) + "\n"
    path = args.out / f"{record['network']}.safetensors"
    replace_file(path, content)
    replace_file(path.with_suffix(".json"), text.encode())
    if args.json:
        print(text, end="")
        return
    top1 = record["accuracy"]
    console.print(
        f"{record['network']}: {top1['test_top1']:.2%} top-1 on "
        f"{record['data']['test']['description']} ({top1['train_top1']:.2%} on the "
        f"training set), as stored\n{path}: {len(content) / 1e6:.2f} MB"
    )


def trained_network(name: str) -> NetworkSpec:
    """The network of that name, a bare name meaning the variant for CIFAR-10 if there is one."""
    variant = f"{name}.{CIFAR10.name}"
    known = {spec.name for spec in networks()}
    spec = resolve(variant if variant in known else name)
    if spec.dataset != CIFAR10:
        raise TrainingError(
            f"{spec.name} is not for CIFAR-10, on which alone repr-train trains; there are "
            f"{', '.join(sorted(n for n in known if n.endswith('.' + CIFAR10.name)))}"
        )
    return spec


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"there is no device {name!r}; give auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"repr-train runs on cpu or cuda, not on {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"torch sees {torch.cuda.device_count()} CUDA devices, so there is no {name!r}; "
            f"leave --device out to train on what there is"
        )
    return device


def _epochs(steps: Steps, console: Console) -> Iterator[dict[str, float]]:
    """Train epoch after epoch behind a progress bar; yields each one's row of the history."""
    state = steps.state
    epochs = state.recipe.epochs
    with progress_bar(console, "", epochs, state.epoch, transient=True) as advance:
        while state.epoch < state.recipe.epochs:
            yield steps.train_epoch(lambda done, total: advance(state.epoch + done / total))


def _is_told(epoch: int, epochs: int) -> bool:
    """The first epoch, which shows how long one takes, every tenth of the run, and the last."""
    return epoch in (1, epochs) or epoch % math.ceil(epochs / 10) == 0


def _line(row: dict[str, float], epochs: int) -> str:
    test = f"  test {row['test_top1']:.2%}" if "test_top1" in row else ""
    return (
        f"epoch {row['epoch']:3.0f}/{epochs}  loss {row['train_loss']:.4f}  "
        f"train {row['train_top1']:.2%}{test}  {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
