"""Models by name and version: loaded, proven, asked, replaced, drained. Knows no protocol."""

import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repr_runtime import Batcher, BatcherStats, SelfTestReport, Session, errors, load
from repr_runtime.artifact.manifest import MANIFEST_NAME
from repr_runtime.artifact.reading import identity
from repr_runtime.batching.queue import Answer
from repr_runtime.options import require_seconds, require_whole
from repr_serve.alone import Alone
from repr_serve.errors import ModelNotFoundError, NotReadyError

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LONGEST = 24 * 3600.0  # seconds
_QUICK = 2e-4  # seconds; handing a request to another thread and back costs about as much


@dataclass(frozen=True)
class Source:
    """The artifact in folder ``path``, served under ``name``. Raises :class:`OptionError`."""

    name: str
    path: Path

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise errors.OptionError(
                f"a model's name has letters, digits, '_', '-' and '.' only, got {self.name!r:.60}; "
                f"name it: NAME={self.path}"
            )

    @classmethod
    def parse(cls, given: str | os.PathLike[str]) -> Self:
        """``[NAME=]PATH``; the name is the folder's where none is given."""
        text = os.fspath(given)
        name, given, path = text.partition("=")
        if given and "/" not in name:
            return cls(name, Path(path))
        return cls(Path(text).resolve().name, Path(text))


@dataclass(frozen=True)
class ModelOptions:
    """How every model is loaded and asked; ``timeout`` and ``max_delay`` are in seconds.

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
            instances=options.instances,
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


def _runner(session: Session, options: ModelOptions) -> Batcher | Alone:
    try:
        return Batcher(
            session,
            max_batch=options.max_batch,
            max_delay=options.max_delay,
            queue_limit=options.queue_limit,
        )
    except errors.NotBatchableError as error:
        _log.info("%s: each request is run by itself: %s", session.path, error)
        return Alone(session, options.queue_limit or 16 * session.instances)


def _quick_rows(session: Session) -> int:
    """How many samples of the shortest shape are run in no time, here and now; 0 if none."""
    inputs = {
        spec.name: np.zeros([1 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
        for spec in session.inputs
    }
    taken = []
    try:
        for _ in range(6):
            begin = time.perf_counter()
            session.run(inputs)
            taken.append(time.perf_counter() - begin)
    except errors.ReproError:  # zeros are not for every network
        return 0
    fixed = session.batch_size or 1
    return int(_QUICK / min(taken)) // fixed * fixed


@dataclass
class _Slot:
    """A place for one model: what stands in it, and what was last seen at its path."""

    source: Source
    model: Model | None = None
    reason: str = "not loaded yet"
    seen: object = None
    refused: int = 0
    changing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Listed:
    """A line of the repository's index; ``reason`` says why it is not ready, or what was refused."""

    name: str
    version: str
    ready: bool
    reason: str


class Service:
    """The models of some artifacts; all methods may be called from any thread.

    ``load_all`` before asking; ``close`` at the end.
    """

    def __init__(self, sources: Sequence[Source], options: ModelOptions | None = None) -> None:
        """Raises :class:`OptionError` if there is no source, or two have one name."""
        self.options = ModelOptions() if options is None else options
        self.draining = False
        self._slots = {source.name: _Slot(source) for source in sources}
        if not sources:
            raise errors.OptionError("there is nothing to serve: name the folder of an artifact")
        if len(self._slots) < len(sources):
            names = [source.name for source in sources]
            twice = next(name for name in names if names.count(name) > 1)
            raise errors.OptionError(
                f"two models are called {twice!r}; give one another name: NAME=PATH"
            )
        self._stop_watching = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether every model that was not unloaded is ready, and the service is not ending."""
        return not self.draining and all(
            slot.model is not None or slot.reason == "unloaded" for slot in self._slots.values()
        )

    @property
    def models(self) -> list[Model]:
        """Those that are ready."""
        return [slot.model for slot in self._slots.values() if slot.model is not None]

    @property
    def refused_exports(self) -> dict[str, int]:
        """By name, how many new exports were not taken up because they were bad."""
        return {name: slot.refused for name, slot in self._slots.items()}

    def index(self) -> list[Listed]:
        """All models, ready or not."""
        listed = []
        for name, slot in self._slots.items():
            model = slot.model
            version = "" if model is None else model.version
            listed.append(Listed(name, version, model is not None, slot.reason))
        return listed

    def model(self, name: str, version: str = "") -> Model:
        """The model of that name. Raises :class:`ModelNotFoundError`, :class:`NotReadyError`."""
        slot = self._slot(name)
        model = slot.model
        if model is None:
            raise NotReadyError(f"model {name!r} is not ready: {slot.reason}")
        if version and version != model.version:
            raise ModelNotFoundError(
                f"there is no version {version!r:.60} of model {name!r}; it is at {model.version}"
            )
        return model

    def _slot(self, name: str) -> _Slot:
        slot = self._slots.get(name)
        if slot is None:
            raise ModelNotFoundError(
                f"there is no model {name!r:.150}; served are {', '.join(self._slots)}"
            )
        return slot

    def deadline(self, seconds: float | None = None) -> float:
        """The moment of ``time.monotonic()`` until which a request that came now is answered."""
        most = self.options.timeout
        return time.monotonic() + (most if seconds is None else min(seconds, most))

    async def infer(
        self, model: Model, inputs: Mapping[str, NDArray[Any]], deadline: float
    ) -> tuple[Model, Answer]:
        """The outputs for ``inputs``, by name, and the model that gave them.

        That is ``model``, or the one in its place if that was replaced meanwhile. Raises what
        ``Batcher.run_async`` and :meth:`model` do.
        """
        while True:
            try:
                return model, await model.infer(inputs, deadline)
            except (errors.BatcherClosedError, errors.SessionClosedError):
                now = self.model(model.name)
                if now is model:
                    raise
                model = now

    # Loading

    def load_all(self) -> None:
        """Load what is not loaded. Raises the :class:`ReproError` of the first that fails."""
        for name, slot in self._slots.items():
            if slot.model is None:
                self.load(name)

    def load(self, name: str) -> Model:
        """Load what now stands at the model's path, and take it into use in place of the old one.

        If it is bad the old one, where there is one, serves on. What the old one took on it
        answers. Raises :class:`ModelNotFoundError` and :class:`ReproError`.
        """
        slot = self._slot(name)
        with slot.changing:
            slot.seen = _seen(slot.source.path)
            if slot.model is None:
                slot.reason = "loading"
            try:
                model = Model(slot.source, self.options)
            except Exception as error:
                slot.reason = f"not taken up: {error}"
                raise
            old, slot.model, slot.reason = slot.model, model, ""
        if old is not None:
            old.close()
        return model

    def unload(self, name: str) -> None:
        """Take the model out of use; what it took on it answers."""
        slot = self._slot(name)
        with slot.changing:
            old, slot.model, slot.reason = slot.model, None, "unloaded"
        if old is not None:
            old.close()

    def refresh(self) -> None:
        """Take up new exports: each artifact that was replaced since it was last looked at."""
        for name, slot in self._slots.items():
            seen = _seen(slot.source.path)
            if slot.reason == "unloaded" or seen in (slot.seen, _NOTHING):
                continue
            try:
                self.load(name)
            except Exception as error:
                slot.refused += 1
                _log.error("%s: the new export is refused, the old one serves on: %s", name, error)

    def watch(self, interval: float) -> threading.Thread:
        """A thread that calls :meth:`refresh` every ``interval`` seconds until ``close``."""

        def look() -> None:
            while not self._stop_watching.wait(interval):
                self.refresh()

        thread = threading.Thread(target=look, name="repr-serve-watch", daemon=True)
        thread.start()
        return thread

    def close(self, drain: float = 0.0) -> None:
        """Be ready no more; answer what was taken within ``drain`` seconds, and fail the rest."""
        self.draining = True
        self._stop_watching.set()
        models = self.models
        closing = [threading.Thread(target=model.close, daemon=True) for model in models]
        end = time.monotonic() + drain
        for thread in closing:
            thread.start()
        _join(closing, end)
        for model, thread in zip(models, closing, strict=True):
            if thread.is_alive():
                late = threading.Thread(target=model.close, kwargs={"drain": False}, daemon=True)
                late.start()
                _join([late, thread], time.monotonic() + 1)


def _join(threads: Iterable[threading.Thread], end: float) -> None:
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _seen(path: Path) -> object:
    """Differs for each export that stood at ``path``, also if it was written over the old one."""
    return identity(path), identity(path / MANIFEST_NAME)


_NOTHING = (None, None)
