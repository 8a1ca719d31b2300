"""What a batcher counts, as one frozen picture."""

from __future__ import annotations

from dataclasses import dataclass

COUNTED = (
    *("accepted", "refused", "answered", "failed", "expired", "cancelled"),
    *("running", "started", "padding", "retried"),
)
"""The fields of :class:`BatcherStats` that are plain counters."""


@dataclass(frozen=True)
class BatcherStats:
    """What a :class:`~repr_runtime.batching.batcher.Batcher` has done up to one moment.

    In requests, where nothing else is said.

    Each request that was ``accepted`` is one of ``answered``, ``failed`` (by the session, or
    because the batcher was closed), ``expired`` (its deadline passed), ``cancelled``,
    ``waiting`` or ``running``. Those ``refused``, by a full queue or after ``close``, come on
    top; wrong inputs count nowhere. ``batches`` says of each number of samples how often so
    many were run together; ``padding`` counts the samples that filled up batches, ``retried``
    the batches whose requests were run again one by one. ``started`` requests waited
    ``wait_total`` seconds in all for their start, and ``wait_longest`` at most.
    """

    accepted: int
    refused: int
    answered: int
    failed: int
    expired: int
    cancelled: int
    waiting: int
    running: int
    started: int
    wait_total: float
    wait_longest: float
    batches: dict[int, int]
    padding: int
    retried: int


NOTHING = BatcherStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, {}, 0, 0)
