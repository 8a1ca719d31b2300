"""`python -m repr_models.training.speed NAME…`: images a second that training takes, by setting.

Steps on random images, in turn, so that a machine that slows down slows all settings alike; a
setting's figure is the lower quartile of its steps' times.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from repr_models.command import finish
from repr_models.spec import NetworkSpec
from repr_models.training.cli import integer, positive, trained_network
from repr_models.training.cpu import keep_freed
from repr_models.training.loop import TrainingState, start, take_step
from repr_models.training.recipe import Recipe

_CPU = torch.device("cpu")


@dataclass
class Setting:
    """A network in training with one setting, and the seconds of its steps."""

    name: str
    state: TrainingState
    seconds: list[float] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """By the lower quartile of the steps; at least one was taken."""
        quiet = sorted(self.seconds)[len(self.seconds) // 4]
        return self.state.recipe.batch_size / quiet


def settings(spec: NetworkSpec, batch_size: int) -> list[Setting]:
    """float32, bfloat16 as torch has it, and bfloat16 as `repr-train` does it on a CPU."""
    full = Recipe(batch_size=batch_size)
    low = replace(full, precision="bf16")
    plain = start(spec, full, 0, _CPU)
    plain.recipe = low  # the network is laid out as for float32
    return [
        Setting("fp32", start(spec, full, 0, _CPU)),
        Setting("bf16, plain", plain),
        Setting("bf16", start(spec, low, 0, _CPU)),
    ]


def compare(
    found: Sequence[Setting], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Take steps of each in turn for so many seconds, one round at least; each has one before."""
    spec, size = found[0].state.spec, found[0].state.recipe.batch_size
    images = torch.randn(size, *spec.input_shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(spec.dataset.class_count, (size,))
    totals = torch.zeros(2)
    for each in found:
        each.state.network.train()
        take_step(each.state, images, labels, totals)
    ends = clock() + seconds
    while True:
        for each in found:
            began = clock()
            take_step(each.state, images, labels, totals)
            each.seconds.append(clock() - began)
        if clock() >= ends:
            return


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        prog="python -m repr_models.training.speed",
        description="Images a second that training takes on this CPU, by setting.",
    )
    p.add_argument("names", nargs="+", metavar="NAME", help="a network for CIFAR-10")
    p.add_argument("--seconds", type=positive, default=15.0, help="for each network")
    p.add_argument("--batch-size", type=integer(1), default=128)
    p.add_argument("--threads", type=integer(1), help="CPU threads")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after an error, 2 for wrong usage and 130 when interrupted."""
    args = parser().parse_args(argv)

    def run() -> None:
        if args.threads:
            torch.set_num_threads(args.threads)
        keep_freed()
        for spec in [trained_network(name) for name in args.names]:
            found = settings(spec, args.batch_size)
            compare(found, args.seconds)
            print(_line(spec.name, found), flush=True)

    return finish("speed", run, "from the start")


def _line(name: str, found: Sequence[Setting]) -> str:
    first = found[0].images_per_second
    rates = [f"{each.name} {each.images_per_second:.0f}" for each in found]
    others = [
        f"{rate} ({each.images_per_second / first:.2f} ×)"
        for each, rate in zip(found[1:], rates[1:], strict=True)
    ]
    return f"{name}, images/s: {', '.join([rates[0], *others])}"


if __name__ == "__main__":
    sys.exit(main())
