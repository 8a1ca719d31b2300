"""Samples joined to a batch, and its outputs given back to each: the arrays of the batcher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.errors import (
    BatchSizeError,
    ExecutionError,
    HostMemoryError,
    NotBatchableError,
)
from repr_runtime.inputs import InputChecker

Key = tuple[tuple[int, ...], ...]
"""The shape of each input without its first dimension: samples of one key can be joined."""

Given = NDArray[Any] | Mapping[str, NDArray[Any]]
"""What is asked: an array where the network has one input, else arrays by input name."""


@dataclass(frozen=True)
class Sample:
    """Checked inputs with a batch dimension of ``rows``; ``single``: they came without one."""

    feed: Mapping[str, NDArray[Any]]
    rows: int
    single: bool
    key: Key


class Joiner:
    """Joins and splits along the first dimension of all inputs and outputs."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        refuse_nonfinite: bool,
        images: bool = False,
    ) -> None:
        """Raises :class:`NotBatchableError` if some input or output has not a row a sample."""
        first = inputs[0].shape[0] if inputs[0].shape else None
        fixed = first if isinstance(first, int) else None
        for what, specs in (("takes", inputs), ("gives", outputs)):
            for spec in specs:
                _require_rows(what, spec, fixed)
        name = "batch" if fixed is not None else str(first)
        free = tuple(TensorSpec(s.name, s.dtype, (name, *s.shape[1:])) for s in inputs)
        self._inputs = free
        self._outputs = tuple(spec.name for spec in outputs)
        self._checker = InputChecker(free, refuse_nonfinite, images)

    def check(self, given: Any, most: int) -> Sample:
        """One sample or several, up to ``most``: an array, or a mapping of them by input name.

        Arrays have the network's shape, with or, for a single sample, without the batch
        dimension. Raises the subclass of :class:`InputError` that says what is wrong; all that
        shapes can say is found before values are looked at.
        """
        if (known := self._checker.known(given)) is not None:
            (array,) = known.values()
            return Sample(known, len(array), False, (array.shape[1:],))
        feed = self._checker.bind((given,), {})
        self._checker.check_arrays(feed)
        single = all(feed[spec.name].ndim == len(spec.shape) - 1 for spec in self._inputs)
        if single:
            feed = {name: array[None] for name, array in feed.items()}
        self._checker.check_shapes(feed)
        arrays = [feed[spec.name] for spec in self._inputs]
        rows = len(arrays[0])
        if rows > most:
            raise BatchSizeError(
                f"got {rows} samples in one request, the batcher runs {most} at once; give them in parts"
            )
        self._checker.check_values(feed)
        return Sample(feed, rows, single, tuple(a.shape[1:] for a in arrays))

    def join(self, samples: Sequence[Sample], size: int) -> Mapping[str, NDArray[Any]]:
        """One batch of ``size`` rows; those left over repeat the last sample."""
        if len(samples) == 1 and samples[0].rows == size:
            return samples[0].feed
        feed: dict[str, NDArray[Any]] = {}
        for spec, inner in zip(self._inputs, samples[0].key, strict=True):
            try:
                batch = np.empty((size, *inner), spec.dtype)
            except (MemoryError, ValueError) as error:  # the latter of what no array can be
                raise HostMemoryError(
                    f"there is no memory to join {len(samples)} requests ({error}); lower max_batch"
                ) from error
            end = 0
            for sample in samples:
                begin, end = end, end + sample.rows
                batch[begin:end] = sample.feed[spec.name]
            batch[end:] = batch[end - 1]
            feed[spec.name] = batch
        return feed

    def split(
        self, outputs: Mapping[str, NDArray[Any]], samples: Sequence[Sample], size: int
    ) -> list[dict[str, NDArray[Any]]]:
        """Each sample's own outputs, in memory of its own, with a batch dimension if it had one."""
        for name in self._outputs:
            if outputs[name].shape[:1] != (size,):
                raise ExecutionError(
                    f"output {name!r} has shape {outputs[name].shape} for a batch of {size}, expected "
                    f"a row for each sample; run this network without a Batcher"
                )
        answers, end = [], 0
        for sample in samples:
            begin, end = end, end + sample.rows
            answer = {}
            for name in self._outputs:
                values = outputs[name]
                # A view would keep, and show, what is the others'.
                rows = values if sample.rows == size else values[begin:end].copy()
                answer[name] = rows.reshape(values.shape[1:]) if sample.single else rows
            answers.append(answer)
        return answers


def _require_rows(what: str, spec: TensorSpec, fixed: int | None) -> None:
    first = spec.shape[0] if spec.shape else None
    # A free first dimension has a name of its own in some graphs, so that names are not compared.
    fits = first == fixed if fixed is not None else isinstance(first, str)
    if not fits or (isinstance(first, str) and first in spec.shape[1:]):
        raise NotBatchableError(
            f"the network {what} {spec}, whose first dimension, and no other, is not that of a "
            f"batch; run it without a Batcher, or export it with a batch dimension everywhere"
        )
