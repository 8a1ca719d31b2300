"""From logits to labels and probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.inputs import all_finite, nonfinite_error, plain

MOST_PREDICTED = 2**24
"""Classes that one call gives of all rows together: each is an object of a hundred bytes or more."""
_ROWS = 1024  # made float64 at a time


@dataclass(frozen=True)
class Prediction:
    """One image's most probable classes, the first one first."""

    index: int
    label: str
    probability: float
    top: tuple[tuple[int, str, float], ...]


def as_logits(given: ArrayLike, output: TensorSpec, top: int) -> NDArray[Any]:
    """``given`` as an array (N, classes) of numbers; (classes,) has one row.

    Raises :class:`InputTypeError`, :class:`InputShapeError`, and :class:`InputSizeError` for more
    rows than can be told at once.
    """
    classes = output.shape[1] if len(output.shape) == 2 else "classes"
    expected = f"expected an array (N, {classes}): that of output {output.name!r}"
    try:
        scores = plain("logits", given) if isinstance(given, np.ndarray) else np.asarray(given)
        if scores.dtype == object:  # whole numbers of many digits, say
            scores = scores.astype(np.float64)
    except errors.InputError:
        raise
    except Exception as error:  # whatever an object raises that is asked for its array
        raise errors.InputTypeError(
            f"logits are {type(given).__name__}, {expected} ({errors.words_of(error)})"
        ) from error
    if scores.dtype.kind not in "fiub":
        raise errors.InputTypeError(
            f"logits are {type(given).__name__} of {scores.dtype}, {expected}"
        )
    shape = scores.shape
    scores = np.atleast_2d(scores)
    fit = isinstance(classes, str) or scores.shape[-1] == classes
    if not shape or scores.ndim != 2 or 0 in shape or not fit:
        raise errors.InputShapeError(
            f"logits have shape {shape}, expected (N, {classes}): those of output {output.name!r}"
        )
    if len(scores) * min(top, scores.shape[1]) > MOST_PREDICTED:
        raise errors.InputSizeError(
            f"logits have {len(scores):,} rows, of which {top} classes each would be more than the "
            f"{MOST_PREDICTED:,} that one call gives; give fewer rows at a time"
        )
    return scores


def predictions_of(
    scores: NDArray[Any], labels: Sequence[str] | None, top: int, refuse_nonfinite: bool
) -> list[Prediction]:
    """One a row of ``scores`` (N, classes), with its ``top`` most probable classes.

    Raises :class:`NonFiniteInputError`, if that is to be refused.
    """
    return [
        prediction
        for begin in range(0, len(scores), _ROWS)
        for prediction in _of(scores[begin : begin + _ROWS], labels, top, refuse_nonfinite)
    ]


def _of(
    scores: NDArray[Any], labels: Sequence[str] | None, top: int, refuse_nonfinite: bool
) -> Iterator[Prediction]:
    exact = scores.astype(np.float64)
    if refuse_nonfinite and not all_finite(exact):
        raise nonfinite_error("logits", exact)
    probabilities = softmax(exact)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    for row, classes in zip(probabilities, order, strict=True):
        best = tuple(
            (int(c), str(c) if labels is None else labels[c], float(row[c])) for c in classes
        )
        yield Prediction(*best[0], best)


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities of logits (N, classes), each row for itself, in float64."""
    exact = scores.astype(np.float64)
    with np.errstate(all="ignore"):  # of infinity, NaN is the answer
        exponent = np.exp(exact - exact.max(axis=1, keepdims=True))
        return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))
