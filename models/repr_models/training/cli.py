"""The command `repr-train`: arguments, progress, resuming and the files it writes."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_models.data.cifar10 import load_cifar10
from repr_models.data.images import ImageSet
from repr_models.errors import ModelsError, TrainingError
from repr_models.registry import networks, resolve
from repr_models.spec import CIFAR10, NetworkSpec

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from repr_models.training.recipe import Recipe, ResidentImages, TrainingState
    from repr_models.training.stored import StoredCheckpoint

INSTALL = "pip install 'repr-deploy[export]'"
_MAX_SEED = 2**32 - 1


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = argparse.ArgumentParser(
        prog="repr-train",
        description="Train a network on CIFAR-10; writes NAME.safetensors and NAME.json. "
        "An interrupted run goes on from its last whole epoch when called again.",
    )
    p.add_argument("name", help="a network for CIFAR-10, such as resnet20")
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with CIFAR-10")
    p.add_argument("-o", "--out", type=Path, default=Path("checkpoints"), metavar="DIR")
    p.add_argument("--seed", type=_integer(0, _MAX_SEED), default=0)
    p.add_argument("--epochs", type=int)
    p.add_argument("--batch-size", type=int)
    p.add_argument("--learning-rate", type=float, help="peak of the schedule")
    p.add_argument("--weight-decay", type=float)
    p.add_argument("--warmup-epochs", type=float)
    p.add_argument("--label-smoothing", type=float)
    p.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 is for GPUs")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--threads", type=_integer(1), help="CPU threads")
    p.add_argument(
        "--eval-every", type=_integer(1), default=1, metavar="N", help="epochs between tests"
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


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
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
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except ModuleNotFoundError as error:
        print(f"repr-train needs {error.name}: {INSTALL}", file=sys.stderr)
    except ModelsError as error:
        print(f"repr-train: {error}", file=sys.stderr)
    except OSError as error:
        print(f"repr-train: {error.strerror}: {error.filename}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            "repr-train: interrupted; the same command goes on from the last whole epoch",
            file=sys.stderr,
        )
        return 130
    return 1


def _run(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console

    from repr_models.training import recipe as train
    from repr_models.training.stored import store

    spec = _network(args.name)
    changes = {
        field: value
        for field in asdict(train.Recipe())
        if (value := getattr(args, field, None)) is not None
    }
    recipe = train.Recipe(**{**spec.recipe, **changes})
    device = _device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    train_set, test_set = load_cifar10(args.data, "train"), load_cifar10(args.data, "test")

    args.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=args.quiet)
    if args.re_encode is not None:
        return _re_encode(args, spec, train_set, test_set, device, console)
    state_path = args.out / f"{spec.name}.state.pt"
    identity = {
        "network": spec.name,
        "recipe": asdict(recipe),
        "seed": args.seed,
        "data": train_set.sha256,
    }
    state = train.start(spec, recipe, args.seed, device)
    if state_path.exists() and not args.restart:
        _resume(state, state_path, identity, device)
        console.print(f"resuming {spec.name} after epoch {state.epoch} of {recipe.epochs}")

    train_data = train.ResidentImages(train_set, spec, device)
    test_data = train.ResidentImages(test_set, spec, device)
    for row in _epochs(state, train_data, recipe, args.seed, console):
        if state.epoch % args.eval_every == 0 or state.epoch == recipe.epochs:
            row["test_top1"] = train.evaluate(state.network, test_data)
        state.history.append(row)
        buffer = io.BytesIO()
        torch.save({"identity": identity, **state.as_dict()}, buffer)
        _write(state_path, buffer.getvalue())
        console.print(_line(row, recipe.epochs), highlight=False)

    stored = store(spec, state.network.state_dict(), args.store, test_data, train_data)
    record = train.make_record(
        spec,
        recipe,
        args.seed,
        state,
        train_set,
        test_set,
        dict(stored.top1),
        stored.sha256,
        dict(stored.storage),
        device,
    )
    _write_checkpoint(args, spec, stored, record, console)
    state_path.unlink(missing_ok=True)
    return 0


def _re_encode(
    args: argparse.Namespace,
    spec: NetworkSpec,
    train_set: ImageSet,
    test_set: ImageSet,
    device: torch.device,
    console: Console,
) -> int:
    """Store a whole checkpoint anew: the record keeps what is said of its training."""
    from repr_models.training.recipe import ResidentImages
    from repr_models.training.stored import read_checkpoint, store

    digests = {"train": train_set.sha256, "test": test_set.sha256}
    state, record = read_checkpoint(spec, args.re_encode, digests)
    stored = store(
        spec,
        state,
        args.store,
        ResidentImages(test_set, spec, device),
        ResidentImages(train_set, spec, device),
    )
    record |= {
        "weights_sha256": stored.sha256,
        "storage": dict(stored.storage),
        "accuracy": dict(stored.top1),
    }
    _write_checkpoint(args, spec, stored, record, console)
    return 0


def _write_checkpoint(
    args: argparse.Namespace,
    spec: NetworkSpec,
    stored: StoredCheckpoint,
    record: dict[str, Any],
    console: Console,
) -> None:
    text = json.dumps(record, indent=1) + "\n"
    path = args.out / f"{spec.name}.safetensors"
    _write(path, stored.content)
    _write(path.with_suffix(".json"), text.encode())
    if args.json:
        print(text, end="")
        return
    console.print(
        f"{spec.name}: {stored.top1['test_top1']:.2%} top-1 on "
        f"{record['data']['test']['description']} ({stored.top1['train_top1']:.2%} on the "
        f"training set), as stored\n{path}: {len(stored.content) / 1e6:.2f} MB",
        highlight=False,
        soft_wrap=True,
    )


def _network(name: str) -> NetworkSpec:
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


def _resume(
    state: TrainingState, path: Path, identity: dict[str, Any], device: torch.device
) -> None:
    """Restore ``state`` from the unfinished run at ``path``, if it is this run's."""
    import torch

    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        same = saved["identity"] == identity
        if same:
            state.restore(saved)
    except Exception as error:  # torch raises many kinds here, all of them about this file
        raise TrainingError(
            f"{path} is an unfinished run that cannot be read; start anew with --restart"
        ) from error
    if not same:
        raise TrainingError(
            f"{path} is an unfinished run with another recipe, seed or data; finish it with "
            f"the command that began it, or start anew with --restart"
        )


def _epochs(
    state: TrainingState,
    data: ResidentImages,
    recipe: Recipe,
    seed: int,
    console: Console,
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch behind a progress bar; yields each one's row of the history."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from repr_models.training.recipe import train_epoch

    columns = (BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    hidden = console.quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("", total=recipe.epochs, completed=state.epoch)
        while state.epoch < recipe.epochs:
            before = state.epoch

            def tick(done: int, total: int, before: int = before) -> None:
                progress.update(task, completed=before + done / total)

            yield train_epoch(state, data, recipe, seed, tick)


def _write(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush, then rename: an interrupted run leaves the old file whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _line(row: dict[str, float], epochs: int) -> str:
    test = f"  test {row['test_top1']:.2%}" if "test_top1" in row else ""
    return (
        f"epoch {row['epoch']:3.0f}/{epochs}  loss {row['train_loss']:.4f}  "
        f"train {row['train_top1']:.2%}{test}  {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
