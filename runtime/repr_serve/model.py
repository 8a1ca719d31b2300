"""A model: an artifact that is loaded and has proven itself here, and what runs its requests."""

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repr_runtime import Batcher, BatcherStats, Limits, SelfTestReport, Session, errors, load
from repr_runtime.backends.onnxruntime import why_not
from repr_runtime.batching.queue import Answer
from repr_runtime.machine import usable_cores
from repr_runtime.options import require_path, require_seconds, require_whole
from repr_serve.alone import Alone

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LONGEST = 24 * 3600.0  # seconds
NICE = 10
"""Who computes steps back behind who reads, refuses and answers: that is soon done, and is waited for."""

_QUICK = 2e-4  # seconds; handing a request to another thread and back costs about as much


@dataclass(frozen=True)
class Source:
    """The artifact in folder ``path``, served under ``name``. Raises :class:`OptionError`."""

    name: str
    path: Path

    def __post_init__(self) -> None:
        require_path(artifact=self.path)
        if not _NAME.fullmatch(self.name):
            raise errors.OptionError(
                f"a model's name has letters, digits, '_', '-' and '.' only, got {self.name!r:.60}; "
                f"name it: NAME={self.path}"
            )

    @classmethod
    def parse(cls, given: str | os.PathLike[str]) -> Self:
        """``[NAME=]PATH``; the name is the folder's where none is given."""
        require_path(artifact=given)
        text = os.fspath(given)
        name, given, path = text.partition("=")
        if given and "/" not in name:
            return cls(name, Path(path))
        return cls(Path(text).resolve().name, Path(text))


def require_distinct(sources: Sequence[Source]) -> None:
    """Raise :class:`OptionError` unless there are some, each with a name of its own."""
    if not sources:
        raise errors.OptionError("there is nothing to serve: name the folder of an artifact")
    names = [source.name for source in sources]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise errors.OptionError(
            f"two models are called {twice[0]!r}; give one another name: NAME=PATH"
        )


@dataclass(frozen=True)
class ModelOptions:
    """How every model is loaded and asked; ``timeout`` and ``max_delay`` are in seconds.

    ``instances`` None is, on a CPU, one of one thread for each core, shared out to ``processes``:
    a graph's own threads wait for work awake, and would take the cores that requests are read on.
    ``timeout`` is given to a request that brings none, and is the most that one may bring.
    The others are those of :func:`repr_runtime.load` and :class:`repr_runtime.Batcher`.
    Raises :class:`OptionError`.
    """

    device: str = "auto"
    precision: str = "fp32"
    instances: int | None = None
    max_batch: int = 32
    max_delay: float = 0.0
    queue_limit: int | None = None
    timeout: float = 30.0
    processes: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require_whole(1, max_batch=self.max_batch)
        if self.queue_limit is not None:
            require_whole(1, queue_limit=self.queue_limit)
        require_seconds(0, _LONGEST, max_delay=self.max_delay)
        require_seconds(0.001, _LONGEST, timeout=self.timeout)


class Model:
    """An artifact that is loaded and has proven itself here, and what runs its requests.

    ``version`` is the beginning of its manifest's SHA-256: the same wherever it is served.
    """

    def __init__(self, source: Source, options: ModelOptions) -> None:
        """Loads it and runs its golden samples. Raises :class:`ReproError`."""
        self.name, self.path = source.name, source.path
        started = time.monotonic()
        self.session: Session = load(
            source.path,
            device=options.device,
            precision=options.precision,
            instances=_instances(options),
            limits=options.limits,
        )
        try:
            self.report: SelfTestReport = self.session.self_test()
            self.runner = _runner(self.session, options)
        except BaseException:
            self.session.close()
            raise
        self.manifest = self.session.manifest
        self.inputs, self.outputs = self.session.inputs, self.session.outputs
        self.version = hashlib.sha256(self.manifest.to_bytes()).hexdigest()[:12]
        self.max_batch = self.runner.max_batch
        most = self.max_batch or 0  # of what is never run in one batch with others: none
        self.quick_rows = min(most, _quick_rows(self.session)) if most else 0
        self._asked = 0
        self._ranks = {spec.name: len(spec.shape) for spec in self.inputs}
        self._direct, self._direct_seconds = Counter[int](), 0.0
        self.load_seconds = time.monotonic() - started
        _log.info(
            "%s %s is ready after %.2f s: %s, %s; %d golden samples differ by %.2g at most",
            self.name,
            self.version,
            self.load_seconds,
            self.path,
            self.session.choice,
            self.report.samples,
            self.report.max_abs,
        )

    def require_room(self, deadline: float) -> None:
        """Raise :class:`QueueFullError` where a request is refused whatever it holds.

        Or would be answered too late, as the last ones tell. What is refused before it is read
        costs next to nothing, and leaves the time to those that can be answered.
        """
        if self._asked:
            self.runner.require_room(deadline=deadline)

    async def infer(self, inputs: Mapping[str, NDArray[Any]], deadline: float) -> Answer:
        """Outputs by name; raises what ``Batcher.run_async`` does.

        For one event loop. Where nothing waits and the run takes less time than handing it to a
        thread, the loop runs it itself.
        """
        if self.quick_rows and not self._asked and deadline > time.monotonic():
            ranks = self._ranks
            rows = {len(x) for name, x in inputs.items() if x.ndim == ranks.get(name)}
            if len(rows) == 1 and (count := rows.pop()) <= self.quick_rows:
                return self._run_now(inputs, count)
        self._asked += 1
        try:
            return await self.runner.run_async(inputs, deadline=deadline)
        finally:
            self._asked -= 1

    def _run_now(self, inputs: Mapping[str, NDArray[Any]], rows: int) -> Answer:
        begin = time.monotonic()
        answer = self.session.run(inputs)
        self._direct_seconds += time.monotonic() - begin
        self._direct[rows] += 1
        return answer

    def stats(self) -> BatcherStats:
        """What the batcher has done, and what was run beside it."""
        batched, direct = self.runner.stats(), self._direct.total()
        return replace(
            batched,
            accepted=batched.accepted + direct,
            answered=batched.answered + direct,
            started=batched.started + direct,
            batches=dict(sorted((Counter(batched.batches) + self._direct).items())),
            run_total=batched.run_total + self._direct_seconds,
        )

    def close(self, *, drain: bool = True) -> None:
        """Answer what was taken, or without ``drain`` fail it, and give back the model."""
        self.runner.close(drain=drain)
        if drain:  # else something may still be running, whose session must not go
            self.session.close()


def _instances(options: ModelOptions) -> int | None:
    on_cpu = options.device in ("cpu", "openvino") or (
        options.device == "auto" and why_not("cuda") is not None
    )
    if options.instances is not None or not on_cpu:
        return options.instances
    return max(1, usable_cores() // options.processes)


def _runner(session: Session, options: ModelOptions) -> Batcher | Alone:
    try:
        return Batcher(
            session,
            max_batch=options.max_batch,
            max_delay=options.max_delay,
            queue_limit=options.queue_limit,
            nice=NICE,
        )
    except errors.NotBatchableError as error:
        _log.info("%s: each request is run by itself: %s", session.path, error)
        return Alone(session, options.queue_limit or 16 * session.instances, NICE)


def _quick_rows(session: Session) -> int:
    """How many samples of the shortest shape are run in no time, here and now; 0 if none."""
    inputs = {
        spec.name: np.zeros([1 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
        for spec in session.inputs
    }
    taken = []
    try:
        for _ in range(30):  # the fastest tells, on a machine that has other work
            begin = time.perf_counter()
            session.run(inputs)
            taken.append(time.perf_counter() - begin)
            if len(taken) == 3 and min(taken) > 5 * _QUICK:  # no other will be so much faster
                return 0
    except errors.ReproError:  # zeros are not for every network
        return 0
    fixed = session.batch_size or 1
    return int(_QUICK / min(taken)) // fixed * fixed
