"""The lanes of an engine, shared between threads: each run has one to itself, or waits for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from repr_runtime.backends.tensorrt.lane import Lane
from repr_runtime.cuda.device import Cuda
from repr_runtime.errors import DeviceMemoryError, ReproError, SessionClosedError


class Lanes:
    """The lanes of an engine: those that are free, and at most ``limit`` in all."""

    def __init__(
        self,
        cuda: Cuda,
        make: Callable[[int], Lane],
        dispose: Callable[[], None],
        limit: int,
    ) -> None:
        self._cuda, self._make, self._dispose, self._limit = cuda, make, dispose, limit
        self._changed = threading.Condition()
        self._free: list[Lane] = []  # the one used last at the end
        self._count, self._users = 0, 1  # the owner is one, until it closes this
        self._closed = False

    @contextmanager
    def take(self, profile: int, rows: int, fixed: bool) -> Iterator[tuple[Lane, bool]]:
        """A lane for this thread alone, and whether it is new; the device is current meanwhile.

        ``fixed``: lanes hold a graph of their batch size, so that one of another size is
        taken only when there may be no more lanes. A lane in which something fails is closed.
        Raises :class:`SessionClosedError` after ``close``.
        """
        with self._changed:
            if self._closed:
                raise SessionClosedError(
                    "the session was closed by another thread; load the artifact again"
                )
            self._users += 1
        try:
            with self._cuda.current():
                lane, is_new = self._acquire(profile, rows, fixed)
                try:
                    yield lane, is_new
                except BaseException:
                    self._drop(lane)
                    raise
                with self._changed:
                    self._free.append(lane)
                    self._changed.notify()
        finally:
            self._leave()

    def _acquire(self, profile: int, rows: int, fixed: bool) -> tuple[Lane, bool]:
        while True:
            with self._changed:
                lane = self._find(profile, rows, fixed)
                if lane is not None:
                    self._free.remove(lane)
                elif self._count < self._limit:
                    self._count += 1
                elif self._free:
                    lane = self._free.pop(0)
                else:
                    self._changed.wait()
                    continue
            if lane is None:
                made = self._try_to_make(profile)
                if made is not None:
                    return made, True
            elif lane.profile == profile:
                return lane, False
            else:  # its buffers are another profile's: in its place comes a new one
                self._drop(lane)

    def _find(self, profile: int, rows: int, fixed: bool) -> Lane | None:
        fitting = [lane for lane in self._free if lane.profile == profile]
        same = [lane for lane in fitting if lane.rows == rows]
        if same:
            return same[-1]
        if fitting and (not fixed or self._count >= self._limit):
            return fitting[0] if fixed else fitting[-1]
        return None

    def _try_to_make(self, profile: int) -> Lane | None:
        """A new lane; None if there is no memory for more than the ones there are."""
        try:
            return self._make(profile)
        except BaseException as error:
            with self._changed:
                self._count -= 1
                others = self._count
                if isinstance(error, DeviceMemoryError) and others:
                    self._limit = others
                self._changed.notify()
            if isinstance(error, DeviceMemoryError) and others:
                return None
            raise

    def _drop(self, lane: Lane) -> None:
        with suppress(ReproError):  # after a failure on the device nothing can be freed on it
            lane.close()
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def close(self) -> None:
        """Free all lanes, now or when the last run has come to its end."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            if self._users:
                return
        with self._cuda.current():
            lanes, self._free = self._free, []
            for lane in lanes:
                with suppress(ReproError):
                    lane.close()
            self._dispose()
