"""The pace of a run: how its steps are taken, how many epochs fit into a time, how often it is kept."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from repr_models.errors import TrainingError
from repr_models.training import loop
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import TrainingState, count_batches, start, take_step
from repr_models.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from repr_models.training.captured import CapturedStep

_WARM_UP_SHARE = 0.15
_RESERVE = 0.08


class Steps:
    """The steps of ``state`` on ``data``: on a GPU in a CUDA graph, else one by one.

    There its blocks are compiled before, if ``compiled``; what fails is left out, and said.
    """

    def __init__(
        self, state: TrainingState, data: ResidentImages, console: Console, *, compiled: bool
    ) -> None:
        self.state, self._data = state, data
        self._captured: CapturedStep | None = None
        if state.device.type != "cuda":
            return
        for how in (True, False) if compiled else (False,):
            self._captured = self._capture(console, compiled=how)
            if self._captured is not None:
                console.print(f"{state.spec.name}: {self._captured.seconds * 1e3:.2f} ms a step")
                return

    def _capture(self, console: Console, *, compiled: bool) -> CapturedStep | None:
        from repr_models.training.captured import CapturedStep

        state = self.state
        try:
            return CapturedStep(state, self._data, compiled=compiled)
        except RuntimeError as error:
            if state.epoch or isinstance(error, torch.OutOfMemoryError):
                raise
            without = "not compiled" if compiled else "no CUDA graph, its steps go one by one"
            console.print(f"{state.spec.name}: {without}: {error}")
        fresh = start(state.spec, state.recipe, state.seed, state.device)
        state.network, state.optimizer = fresh.network, fresh.optimizer
        return None

    def train_epoch(self, tick: Callable[[int, int], None]) -> dict[str, float]:
        """As :func:`repr_models.training.loop.train_epoch`."""
        take = None if self._captured is None else self._captured.take
        return loop.train_epoch(self.state, self._data, tick, take)

    def epoch_seconds(self) -> float:
        """What an epoch takes here, from a few steps of a network that is thrown away."""
        batches = count_batches(self._data, self.state.recipe)
        if self._captured is not None:
            return self._captured.seconds * batches
        spare = start(self.state.spec, self.state.recipe, self.state.seed, self.state.device)
        size = self.state.recipe.batch_size
        images, labels = self._data.images[:size], self._data.labels[:size]
        totals = torch.zeros(2, device=self.state.device)
        for _ in range(3):  # the last is timed
            began = time.perf_counter()
            take_step(spare, images, labels, totals)
        return (time.perf_counter() - began) * batches


@contextmanager
def gpu_failures(recipe: Recipe) -> Iterator[None]:
    """What a GPU fails with becomes :class:`TrainingError`: it is no fault of this program's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory does not hold a step of {recipe.batch_size} images; lower --batch-size, "
            f"or end what else is there"
        ) from error
    except torch.AcceleratorError as error:  # whatever is asked of it next fails, too
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the GPU failed ({reason}); the same command goes on from the last epoch that was kept"
        ) from error


def fitted(recipe: Recipe, done: int, epoch_seconds: float, ends: float, side: int) -> Recipe:
    """``recipe`` of as many epochs as fit until ``ends`` (of ``time.monotonic``), ``done`` of them done.

    ``epoch_seconds`` are those of an epoch at full size, images of ``side`` pixels a side.

    At most its own number, at least one more than ``done`` if it has them; a part of the
    time is left for the test and for storing. The warm-up is in proportion to what is planned before
    the first epoch; afterwards it only gets shorter, and the learning rate falls sooner or later
    than it was to.
    """
    left = (1 - _RESERVE) * (ends - time.monotonic()) / epoch_seconds
    if recipe.initial_size is None:
        epochs = max(min(recipe.epochs, done + int(left)), done, 1)
    else:
        choices = range(max(done, 1), recipe.epochs + 1)

        def cost(epochs: int) -> float:
            plan = replace(recipe, epochs=epochs)
            return sum(plan.cost_at(epoch, side) for epoch in range(done, epochs))

        epochs = choices[max(bisect_right(choices, left, key=cost) - 1, 0)]
    warmup = epochs * _WARM_UP_SHARE
    return replace(
        recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, warmup) if done else warmup
    )


class Seldom:
    """What may take no more than a ``share`` of the time: it is due when enough has passed."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._due = time.monotonic()

    def is_due(self) -> bool:
        """Whether doing it now keeps within the share."""
        return time.monotonic() >= self._due

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._due = now + ((now - self._began) / self._share if self._share else 0.0)
