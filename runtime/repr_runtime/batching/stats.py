"""What a batcher counts, as one frozen picture."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BatcherStats:
    """What a :class:`~repr_runtime.batching.batcher.Batcher` has done up to one moment.

    In requests, where nothing else is said.

    Each request that was ``accepted`` is one of ``answered``, ``failed`` (by the session, or
    because the batcher was closed), ``expired`` (its deadline passed), ``cancelled``,
    ``waiting`` or ``running``. Those ``refused``, by a full queue or after ``close``, come on
    top; wrong inputs count nowhere. ``batches`` says of each number of samples how often so
    many were run together, and ``run_total`` how many seconds all of them took; ``padding``
    counts the samples that filled up batches, ``retried`` the batches whose requests were run
    again one by one. ``started`` requests waited ``wait_total`` seconds in all for their start,
    and ``wait_longest`` at most.
    """

    accepted: int = 0
    refused: int = 0
    answered: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    waiting: int = 0
    running: int = 0
    started: int = 0
    wait_total: float = 0.0
    wait_longest: float = 0.0
    batches: dict[int, int] = field(default_factory=dict)
    run_total: float = 0.0
    padding: int = 0
    retried: int = 0
