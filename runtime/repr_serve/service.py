"""Models by name and version: loaded, proven, asked, replaced, drained. Knows no protocol."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import MANIFEST_NAME
from repr_runtime.artifact.reading import identity
from repr_runtime.batching.queue import Answer
from repr_serve.errors import ModelNotFoundError, NotReadyError
from repr_serve.model import Model, ModelOptions, Source, require_distinct

_log = logging.getLogger(__name__)


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
        require_distinct(sources)
        self.options = ModelOptions() if options is None else options
        self.draining = False
        self.live = True  # until the GPU is lost, which only another process can use again
        self._slots = {source.name: _Slot(source) for source in sources}
        self._stop_watching = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether every model that was not unloaded is ready, and the service lives on."""
        return (
            self.live
            and not self.draining
            and all(
                slot.model is not None or slot.reason == "unloaded" for slot in self._slots.values()
            )
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
            except errors.DeviceLostError:
                self.live = False
                raise
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
