"""What the very sessions that are timed get right, and how far they agree with the original."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.accuracy.reference import TORCH, Network
from repr_bench.results.graph import Accuracy, Agreement, AgreementCount, Flips
from repr_models.errors import DataError
from repr_runtime.errors import ImageError

if TYPE_CHECKING:
    from repr_bench.inputs import EvaluationImages
    from repr_models.data.images import Images
    from repr_runtime import Manifest, Session

FP32 = "fp32"
MOST_AT_ONCE = 100
PIXELS_AT_ONCE = 800_000
"""Images at a time and their pixels: what a large network's intermediate values need in memory."""

FP32_GRAPH = "its fp32 graph"

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What is known of a graph's answers; ``note`` or ``error`` says why it has no accuracy.

    ``skipped`` images could not be used, the first for ``skip_reason``.
    """

    accuracy: Accuracy | None = None
    agreement: Agreement | None = None
    flips: Flips | None = None
    note: str = ""
    error: Exception | None = None
    skipped: int = 0
    skip_reason: str = ""


def evaluate_artifact(
    sessions: Mapping[str, Session],
    chosen: EvaluationImages,
    load_fp32: Callable[[], Session],
    original: Callable[[Manifest], tuple[Network, str] | None],
    report: Report,
) -> tuple[Images | None, dict[str, Evaluation]]:
    """The images for the artifact whose graphs ``sessions`` run, and each one's evaluation.

    ``sessions`` are by precision; where lower ones come without fp32, ``load_fp32`` opens it to
    compare with; ``original`` is the network that they were exported from, and what it is
    called. None of the images where there are none, or none of them can be read.
    """
    if not sessions:
        return None, {}
    manifest = next(iter(sessions.values())).manifest
    try:
        images, note = chosen.for_artifact(manifest)
    except DataError as error:
        return None, {name: Evaluation(error=error) for name in sessions}
    if manifest.weights.kind == "random":
        note = "random weights"
    if note or images is None:
        return images, {name: Evaluation(note=note) for name in sessions}
    with contextlib.ExitStack() as stack:
        evaluated = dict(sessions)
        if FP32 not in evaluated:
            # Without it there are no flips; what is wrong with it is not these rows' matter.
            with contextlib.suppress(Exception):
                evaluated[FP32] = stack.enter_context(load_fp32())
        try:
            network, called = original(manifest) or (None, TORCH)
            return images, evaluate(evaluated, images, network, report, called)
        except DataError as error:
            return None, {name: Evaluation(error=error) for name in sessions}
        except Exception as error:  # the latency is still worth knowing
            return images, {name: Evaluation(error=error) for name in sessions}


def evaluate(
    sessions: Mapping[str, Session],
    images: Images,
    network: Network | None = None,
    report: Report = lambda _done, _total: None,
    called: str = TORCH,
) -> dict[str, Evaluation]:
    """Send all ``images`` once through each of ``sessions``, one artifact's graphs by precision.

    An answer is right if the label has the largest logit (top-5: one of the five largest); of
    equal logits the first counts as the larger one, so that a constant output is right by
    chance only. Answers are compared with those of ``network``, if given, which is ``called``
    so, else of the fp32 graph; right and wrong ones with fp32's. A graph that fails has its
    error, and the others go on. ``report`` gets images done and in all. Raises
    :class:`DataError` if no image can be read, or is large enough.
    """
    tallies = {name: _Tally() for name in sorted(sessions, key=lambda name: name != FP32)}
    reference = called if network is not None else FP32_GRAPH if FP32 in sessions else None
    skipped, done, used = list[str](), 0, 0
    for batch in images.batches(_at_once(sessions)):
        inputs, kept, refused = _preprocess(next(iter(sessions.values())), batch.images)
        skipped += [*batch.damaged, *refused]
        if len(kept):
            labels = None if images.labels is None else images.labels[batch.indices[kept]]
            _evaluate_batch(sessions, tallies, inputs, labels, network)
            used += len(kept)
        done += len(batch.indices) + len(batch.damaged)
        report(done, len(images))
    if not used:
        raise DataError(f"no image is of use: {skipped[0] if skipped else images.description}")
    fp32 = tallies.get(FP32)
    if fp32 is not None and fp32.error is not None:
        fp32 = None
    if reference == FP32_GRAPH and fp32 is None:
        reference = None
    found = {}
    for name, tally in tallies.items():
        itself = name == FP32 and reference == FP32_GRAPH
        found[name] = replace(
            tally.finish(images, None if itself else reference, fp32),
            skipped=len(skipped),
            skip_reason=skipped[0] if skipped else "",
        )
    return found


@dataclass
class _Tally:
    """Which answers of a graph were right so far, and how far it agrees.

    ``hits`` are (images, 5): whether the label is the k-th answer.
    """

    hits: list[NDArray[np.bool_]] = field(default_factory=list)
    classes: int = 0
    agreement: AgreementCount = field(default_factory=AgreementCount)
    error: Exception | None = None

    def count(self, logits: NDArray[Any], labels: NDArray[np.int64]) -> None:
        order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :5]
        self.hits.append(order == labels[:, None])
        self.classes = logits.shape[1]

    def finish(self, images: Images, reference: str | None, fp32: _Tally | None) -> Evaluation:
        """What it comes to; flips are counted from ``fp32``, if given, unless that is it itself."""
        if self.error is not None:
            return Evaluation(error=self.error)
        agreement = None
        if reference is not None:
            agreement = self.agreement.finish(reference, images.description, images.sha256)
        if not self.hits:
            note = "the images are unlabelled"
            if agreement is None:
                note += ", and there is nothing to compare its answers with"
            return Evaluation(agreement=agreement, note=note)
        hits = np.concatenate(self.hits)
        right = hits[:, 0]
        top5 = int(hits.any(axis=1).sum()) if self.classes > 10 else None
        accuracy = Accuracy(int(right.sum()), top5, len(hits), images.description, images.sha256)
        flips = None
        if fp32 is not None and fp32 is not self:
            fp32_right = np.concatenate(fp32.hits)[:, 0]
            flips = Flips(int((fp32_right & ~right).sum()), int((right & ~fp32_right).sum()))
        return Evaluation(accuracy, agreement, flips)


def _evaluate_batch(
    sessions: Mapping[str, Session],
    tallies: Mapping[str, _Tally],
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    network: Network | None,
) -> None:
    """Let each graph that has not failed answer, fp32 first, which is the first of ``tallies``."""
    expected = None if network is None else network(inputs)
    for name, tally in tallies.items():
        if tally.error is not None:
            continue
        try:
            logits = _logits(sessions[name], inputs)
            if expected is None and name == FP32:
                expected = logits
            if expected is not None:
                tally.agreement.add(expected, logits)
            if labels is not None:
                tally.count(logits, labels)
        except Exception as error:  # the other graphs go on
            tally.error = error


def _preprocess(
    session: Session, images: NDArray[np.uint8] | list[NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.intp], list[str]]:
    """Inputs, which images they are, and a sentence for each image that is too small."""
    if not len(images):
        return np.empty(0, np.float32), np.empty(0, np.intp), []
    try:
        return session.preprocess(images), np.arange(len(images)), []
    except ImageError:
        parts, kept, refused = list[NDArray[np.float32]](), list[int](), list[str]()
    for index, image in enumerate(images):
        try:
            parts.append(session.preprocess([image]))
            kept.append(index)
        except ImageError as error:
            refused.append(str(error))
    inputs = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return inputs, np.array(kept, np.intp), refused


def _logits(session: Session, inputs: NDArray[np.float32]) -> NDArray[Any]:
    """The first output, (n, classes), of any number of inputs."""
    spec = session.inputs[0]
    outputs = session.run_all({spec.name: inputs.astype(spec.dtype, copy=False)})
    logits = np.asarray(next(iter(outputs.values())))
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, classes), got {logits.shape}")
    return logits


def _at_once(sessions: Mapping[str, Session]) -> int:
    """How many images to read at a time: whole batches of a graph whose batch is fixed."""
    preprocessing = next(iter(sessions.values())).manifest.preprocessing
    height, width = preprocessing.crop if preprocessing is not None else (1, 1)
    count = min(MOST_AT_ONCE, max(1, PIXELS_AT_ONCE // (height * width)))
    fixed = max((session.batch_size or 1) for session in sessions.values())
    return -(-count // fixed) * fixed
