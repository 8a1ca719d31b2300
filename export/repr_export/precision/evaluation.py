"""The images that lower precisions are judged on, with what the original network says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.samples import SampleSet, run_graph, run_in_batches
from repr_export.source import Source
from repr_models.data.cifar10 import bundled_subset
from repr_models.spec import CIFAR10
from repr_runtime.preprocess import preprocess

_AT_ONCE = 250  # samples: what intermediate values need in memory


@dataclass(frozen=True)
class Evaluation:
    """Inputs by name, the original network's outputs by name, and labels where they are known.

    ``labels`` is None for a network of other classes, and for random weights, whose accuracy
    means nothing. ``batch`` is the graph's fixed batch size, or None.
    """

    samples: SampleSet
    reference: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    batch: int | None

    @property
    def logits(self) -> NDArray[Any]:
        """The original network's first output."""
        return next(iter(self.reference.values()))

    def run(self, graph: bytes) -> dict[str, NDArray[Any]]:
        """The outputs of ``graph`` on all samples, computed on the CPU."""
        return _in_parts(lambda feed: run_graph(graph, feed), self.samples, self.batch)

    def accuracy(self, graph: bytes) -> float:
        """The share of samples that ``graph`` gets right; without labels, as the original does."""
        classes = next(iter(self.run(graph).values())).argmax(1)
        expected = self.labels if self.labels is not None else self.logits.argmax(1)
        return float(np.mean(classes == expected))


def make_evaluation(source: Source, samples: SampleSet, batch: int | None) -> Evaluation:
    """All images of the bundled CIFAR-10 subset for a network of that data set, else ``samples``."""
    labels = None
    if source.identity.dataset == CIFAR10.name and source.preprocessing is not None:
        subset = bundled_subset()
        name = next(iter(samples.inputs))
        inputs = {name: preprocess(subset.images, source.preprocessing)}
        samples = SampleSet("real", subset.description, inputs)
        labels = None if source.weights.kind == "random" else subset.labels
    reference = _in_parts(source.reference, samples, batch)
    return Evaluation(samples, reference, labels, batch)


def _in_parts(network: Any, samples: SampleSet, batch: int | None) -> dict[str, NDArray[Any]]:
    size = batch or _AT_ONCE
    count = len(samples)
    parts = []
    for begin in range(0, count, size):
        rows = np.arange(begin, min(begin + size, count))
        if batch is not None:
            rows = np.resize(rows, batch)  # a fixed batch is filled up with its own rows
        outputs = run_in_batches(
            network, {k: v[rows] for k, v in samples.inputs.items()}, len(rows)
        )
        parts.append({name: values[: count - begin] for name, values in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
