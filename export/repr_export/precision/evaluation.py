"""The images that lower precisions are judged on, with what the original network says of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.samples import CpuGraph, SampleSet, run_in_parts
from repr_export.source import Source
from repr_models.data.cifar10 import bundled_subset
from repr_models.spec import CIFAR10
from repr_runtime.preprocess import preprocess


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
        return run_in_parts(CpuGraph(graph), self.samples.inputs, self.batch)

    def accuracy(self, graph: bytes) -> float:
        """:meth:`share_right` of the outputs of ``graph``."""
        return self.share_right(next(iter(self.run(graph).values())))

    def share_right(self, logits: NDArray[Any]) -> float:
        """The share of samples classified right; without labels, as the original does."""
        expected = self.labels if self.labels is not None else self.logits.argmax(1)
        return float(np.mean(logits.argmax(1) == expected))


def make_evaluation(source: Source, samples: SampleSet, batch: int | None) -> Evaluation:
    """All images of the bundled CIFAR-10 subset for a network of that data set, else ``samples``."""
    labels = None
    if source.identity.dataset == CIFAR10.name and source.preprocessing is not None:
        subset = bundled_subset()
        name = next(iter(samples.inputs))
        inputs = {name: preprocess(subset.images, source.preprocessing)}
        samples = SampleSet("real", subset.description, inputs)
        labels = None if source.weights.kind == "random" else subset.labels
    reference = run_in_parts(source.reference, samples.inputs, batch)
    return Evaluation(samples, reference, labels, batch)
