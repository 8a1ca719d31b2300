"""The images that lower precisions are judged on, with what the original network says of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.samples import SampleSet, run_graph, run_samples
from repr_export.source import Source
from repr_models.data.cifar10 import bundled_subset
from repr_models.spec import CIFAR10
from repr_runtime.preprocess import preprocess


@dataclass(frozen=True)
class Evaluation:
    """Inputs by name, the original network's outputs by name, and labels where they are known.

    ``labels`` is None for a network of other classes, and for random weights, whose accuracy
    means nothing.
    """

    samples: SampleSet
    reference: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None

    @property
    def logits(self) -> NDArray[Any]:
        """The original network's first output."""
        return next(iter(self.reference.values()))

    def run(self, graph: bytes, *, as_floats: bool = False) -> dict[str, NDArray[Any]]:
        """The outputs of ``graph`` on all samples, computed on the CPU.

        ``as_floats`` is for TensorRT's int8 graph, for whose float biases ONNX Runtime has no int8
        kernels: resnet50 takes two thirds of the time so, and is nearer to what its nodes say.
        """
        return run_graph(graph, self.samples, as_floats=as_floats)

    @property
    def has_classes(self) -> bool:
        """Whether the first output is (N, classes), so that there is a most probable one."""
        shape = self.logits.shape
        return len(shape) == 2 and shape[0] == len(self.samples) and shape[1] > 1

    def accuracy(self, graph: bytes, *, as_floats: bool = False) -> float:
        """:meth:`share_right` of the outputs of ``graph``."""
        return self.share_right(next(iter(self.run(graph, as_floats=as_floats).values())))

    def share_right(self, logits: NDArray[Any]) -> float:
        """The share of samples classified right; without labels, as the original does."""
        expected = self.labels if self.labels is not None else self.logits.argmax(1)
        return float(np.mean(logits.argmax(1) == expected))


def make_evaluation(source: Source, samples: SampleSet) -> Evaluation:
    """All images of the bundled CIFAR-10 subset for a network of that data set, else ``samples``."""
    labels = None
    if source.identity.dataset == CIFAR10.name and source.preprocessing is not None:
        subset = bundled_subset()
        name = next(iter(samples.inputs))
        inputs = {name: preprocess(subset.images, source.preprocessing)}
        samples = SampleSet("real", subset.description, inputs, samples.layout)
        labels = None if source.weights.kind == "random" else subset.labels
    return Evaluation(samples, run_samples(source.reference, samples), labels)
