"""The graph that was timed: where it is from, what it gets right, how far it answers as another."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.results.trials import plain
from repr_bench.statistics import intervals
from repr_bench.statistics.intervals import Figure, Interval

MARGINS = (0.1, 0.5)
"""An answer is clear, or sure, where the largest probability leads the second by so much."""

_SUM_TOLERANCE = 1e-3
"""By how much a row may miss a sum of 1 and still be probabilities: those of fp16 do."""


@dataclass(frozen=True)
class Flips:
    """Images that fp32 had right and this graph has wrong, and the other way round."""

    lost: int
    gained: int

    @property
    def p_value(self) -> float:
        """How likely chance alone makes them at least as unequal (McNemar's exact test)."""
        return intervals.mcnemar_p(self.lost, self.gained)


RECORDED_ON = "CIFAR-10 test"
"""What all images are called, or drawn from, on which a record's top-1 was measured."""
IMAGENET_IMAGES = 50_000
"""As many as ImageNet's validation images; a part of them in a folder may be any classes."""


def percent(hits: int, images: int) -> Figure:
    """The share in percent, with Wilson's interval."""
    low, high = intervals.wilson_interval(hits, images)
    return Figure(100 * hits / images, Interval(100 * low, 100 * high))


@dataclass(frozen=True)
class Band:
    """The images whose reference leads by ``margin`` or more, and those of the same answer."""

    margin: float
    images: int
    same: int


@dataclass(frozen=True)
class Agreement:
    """How a graph's answers agree with those of ``reference``, which is said in words.

    ``same`` of ``images`` have the same largest class; ``bands`` count those of the reference's
    margin alone (its largest probability less its second). ``margins`` is the sum of all
    margins and ``flipped_margins`` that of the images that changed their class: where the
    reference was undecided a change weighs little. ``mean_kl`` (nats) is the mean divergence
    of the graph's probabilities from the reference's, ``largest_shift`` the largest change
    of any probability, ``largest_flipped_margin`` the surest answer that changed.
    """

    reference: str
    images: int
    same: int
    bands: tuple[Band, ...]
    margins: float
    flipped_margins: float
    largest_flipped_margin: float
    mean_kl: float
    largest_shift: float
    description: str
    sha256: str

    @property
    def figure(self) -> Figure:
        """The share of images of the same answer in percent, with Wilson's interval."""
        return percent(self.same, self.images)

    @property
    def weighted_percent(self) -> float:
        """The share of the same answer in percent, each image weighed by its margin."""
        if not self.margins:
            return self.figure.value
        return 100 * (1 - self.flipped_margins / self.margins)


@dataclass(frozen=True)
class Accuracy:
    """How many of ``images`` a graph got right; ``top5`` is None for ten classes or fewer."""

    top1: int
    top5: int | None
    images: int
    description: str
    sha256: str


@dataclass(frozen=True)
class Difference:
    """How far the golden samples' outputs are from the original network's.

    Of the ``output`` that is furthest for its bound, ``atol + rtol * abs(original)`` for each
    value: ``largest`` is the largest absolute difference, None if one is not finite. ``within``
    says whether every value of every output keeps its bound.
    """

    output: str
    largest: float | None
    atol: float
    rtol: float
    within: bool
    samples: int

    def __str__(self) -> str:
        off = "not finite" if self.largest is None else f"off by up to {self.largest:.3g}"
        relative = f" + {self.rtol:.3g}·|original|" if self.rtol else ""
        return (
            f"{self.output!r} is {off} on {self.samples} golden samples, allowed is "
            f"{self.atol:.3g}{relative}"
        )


@dataclass(frozen=True)
class Graph:
    """The graph that was timed, and what it got right; ``accuracy_note`` says why not known.

    ``trained_top1`` (0 to 1) is what is on record of the weights on all test images (by training,
    their file or who published them), ``bar`` what bundled ones should reach; None where there is
    none. ``flips`` are those from the artifact's fp32 graph, None for itself. Of the images,
    ``skipped`` could not be used, the first for ``skip_reason``. ``difference`` is None without
    golden samples.
    """

    artifact: str
    network: str
    dataset: str | None
    weights: str
    weights_sha256: str | None
    parameters: int
    multiply_adds: int | None
    bytes: int
    sha256: str
    device: str
    choice: str
    accuracy: Accuracy | None
    accuracy_note: str
    trained_top1: float | None = None
    bar: float | None = None
    agreement: Agreement | None = None
    flips: Flips | None = None
    skipped: int = 0
    skip_reason: str = ""
    difference: Difference | None = None

    @property
    def answers_differ(self) -> bool:
        """Whether its outputs are further from the original network's than is allowed."""
        return self.difference is not None and not self.difference.within

    @property
    def below_bar(self) -> bool:
        """Whether its weights miss their bar."""
        if self.trained_top1 is None or self.bar is None:
            return False
        return self.trained_top1 < self.bar

    @property
    def off_record(self) -> bool:
        """Whether its top-1 is not the recorded one: Wilson's interval of it lies elsewhere.

        Only images that the record is of count: CIFAR-10's test images, or a part of them drawn
        evenly, or all of ImageNet's validation images.
        """
        right = self.accuracy
        if right is None or self.trained_top1 is None:
            return False
        of_record = RECORDED_ON in right.description
        if not (of_record or right.images + self.skipped == IMAGENET_IMAGES):
            return False
        low, high = intervals.wilson_interval(right.top1, right.images)
        return not low <= self.trained_top1 <= high

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """What is known of its answers, by the name in JSON; shares with Wilson's interval."""
        found: dict[str, Figure] = {}
        if right := self.accuracy:
            found["top1_percent"] = percent(right.top1, right.images)
            if right.top5 is not None:
                found["top5_percent"] = percent(right.top5, right.images)
        if self.agreement:
            weighted = Figure(self.agreement.weighted_percent, None)
            found["agreement_percent"] = self.agreement.figure
            found["margin_weighted_agreement_percent"] = weighted
        if self.flips:
            found["flips_p_value"] = Figure(self.flips.p_value, None)
        return found

    def answers(self) -> dict[str, Any]:
        """The figures on what it answers, as they stand in JSON."""
        found: dict[str, Any] = {name: plain(figure) for name, figure in self.figures.items()}
        if self.accuracy and self.trained_top1 is not None:
            found["recorded_top1_percent"] = 100 * self.trained_top1
            found["off_record"] = self.off_record
        return found


class AgreementCount:
    """Counts over batches what :class:`Agreement` says of them all."""

    def __init__(self) -> None:
        self._images = self._same = 0
        self._in_band = np.zeros((len(MARGINS), 2), np.int64)
        self._margins = self._flipped = self._surest = self._kl = self._shift = 0.0

    def add(self, reference: NDArray[Any], outputs: NDArray[Any]) -> None:
        """Count a batch: both (n, classes), logits or probabilities.

        Of equal values the first counts as the largest. Raises ``ValueError`` if the shapes
        differ.
        """
        if reference.shape != outputs.shape:
            raise ValueError(f"the reference gives {reference.shape}, the graph {outputs.shape}")
        wanted, given = log_probabilities(reference), log_probabilities(outputs)
        same = reference.argmax(1) == outputs.argmax(1)
        expected = np.exp(wanted)
        two = np.partition(expected, -2, axis=1)[:, -2:] if expected.shape[1] > 1 else None
        margin = two[:, 1] - two[:, 0] if two is not None else np.ones(len(expected))
        self._images += len(same)
        self._same += int(same.sum())
        for at, least in enumerate(MARGINS):
            clear = margin >= least
            self._in_band[at] += int(clear.sum()), int((clear & same).sum())
        flipped = margin[~same]
        self._margins += float(margin.sum())
        self._flipped += float(flipped.sum())
        self._surest = max(self._surest, float(flipped.max(initial=0.0)))
        self._kl += float((expected * (wanted - given)).sum())
        self._shift = max(self._shift, float(np.abs(expected - np.exp(given)).max(initial=0.0)))

    def finish(self, reference: str, description: str, sha256: str) -> Agreement | None:
        """What was counted; None without images."""
        if not self._images:
            return None
        bands = tuple(
            Band(margin, int(images), int(same))
            for margin, (images, same) in zip(MARGINS, self._in_band, strict=True)
        )
        return Agreement(
            reference,
            self._images,
            self._same,
            bands,
            self._margins,
            self._flipped,
            self._surest,
            max(0.0, self._kl / self._images),
            self._shift,
            description,
            sha256,
        )


def log_probabilities(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """The logarithms of the classes' probabilities, (n, classes), of logits or probabilities.

    Values of 0 to 1 whose rows sum to 1 are taken for probabilities as they are.
    """
    values = outputs.astype(np.float64)
    total = values.sum(axis=1)
    if values.min(initial=0.0) >= 0 and np.all(np.abs(total - 1) <= _SUM_TOLERANCE):
        values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    values -= values.max(axis=1, keepdims=True)
    logarithms: NDArray[np.float64] = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return logarithms
