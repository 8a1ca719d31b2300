"""The lanes of an engine, shared between threads: each run has one to itself, or waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from weakref import WeakSet

from repr_runtime.backends.tensorrt.lane import Lane
from repr_runtime.cuda.device import Cuda
from repr_runtime.errors import (
    CudaError,
    DeviceLostError,
    DeviceMemoryError,
    ExecutionError,
    ReproError,
    SessionClosedError,
)
from repr_runtime.process.interrupts import SafeCondition
from repr_runtime.process.lifetime import closed

_LOOK = 1.0
"""Seconds after which whoever waits for a lane looks whether one was lost."""


class Lanes:
    """The lanes of an engine: those that are free, and at most ``limit`` in all.

    A signal's handler may raise after any call (:mod:`repr_runtime.process.interrupts`). So a lane that is
    neither free nor that of a run which goes on is found, and closed, by whoever wants one.
    """

    def __init__(
        self,
        cuda: Cuda,
        make: Callable[[int], Lane],
        dispose: Callable[[], None],
        limit: int,
    ) -> None:
        self._cuda, self._make, self._dispose, self._limit = cuda, make, dispose, limit
        self._changed = SafeCondition(threading.Lock())
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []  # the one used last at the end
        self._users: WeakSet[_User] = WeakSet()
        self._closed = self._disposed = False
        self._reason = "by another thread; load the artifact again"

    @contextmanager
    def take(self, profile: int, rows: int, fixed: bool) -> Iterator[tuple[Lane, bool]]:
        """A lane for this thread alone, and whether it is new; the device is current meanwhile.

        ``fixed``: lanes hold a graph of their batch size, so that one of another size is
        taken only when there may be no more lanes. A lane in which something fails is closed.
        Raises what ``enter`` does.
        """
        with self.enter() as user:
            yield self._acquire(user, profile, rows, fixed)
            with self._changed:
                user.done = True

    @contextmanager
    def enter(self) -> Iterator[_User]:
        """The device is current, and stays open, though another thread may close all this.

        Raises :class:`SessionClosedError` after ``close``, and :class:`DeviceLostError` once, in
        place of what failed, if nothing works on the device any more: then all is closed.
        """
        user = _User()
        try:
            with self._changed:
                if self._closed:
                    raise closed(SessionClosedError(f"the session was closed {self._reason}"))
                self._users.add(user)
            with self._cuda.current():
                yield user
        except (CudaError, ExecutionError) as error:
            self._close_if_lost(error)
            raise
        finally:
            self._leave(user)

    def _acquire(self, user: _User, profile: int, rows: int, fixed: bool) -> tuple[Lane, bool]:
        while True:
            with self._changed:
                lost = self._lost()
                lane = lost or self._find(profile, rows, fixed)
                if lane is None and self._count() < self._limit:
                    user.makes = True
                elif lane is None and self._free:
                    lane = self._free[0]
                elif lane is None:
                    self._changed.wait(_LOOK)
                    continue
                user.lane = lane
                if lane in self._free:
                    self._free.remove(lane)
            if lane is None:
                made = self._try_to_make(user, profile)
                if made is not None:
                    return made, True
            elif lane.profile == profile and lost is None:
                return lane, False
            else:  # its buffers are another profile's, or half-written: in its place comes a new one
                self._drop(user)

    def _count(self) -> int:
        """The lanes that there are, or that are being made."""
        return len(self._lanes) + sum(user.makes for user in self._users)

    def _lost(self) -> Lane | None:
        """A lane that nobody has, since the run that it was of came to its end half-way."""
        had = [user.lane for user in self._users]
        return next((e for e in self._lanes if e not in self._free and e not in had), None)

    def _find(self, profile: int, rows: int, fixed: bool) -> Lane | None:
        fitting = [lane for lane in self._free if lane.profile == profile]
        same = [lane for lane in fitting if lane.rows == rows]
        if same:
            return same[-1]
        if fitting and (not fixed or self._count() >= self._limit):
            return fitting[0] if fixed else fitting[-1]
        return None

    def _try_to_make(self, user: _User, profile: int) -> Lane | None:
        """A new lane for ``user``; none if there is no memory for more than the ones there are."""
        lane: Lane | None = None
        try:
            lane = self._make(profile)
        except DeviceMemoryError:
            with self._changed:
                if not (others := self._count() - 1):
                    raise
                self._limit = others
        with self._changed:
            user.makes, user.lane = False, lane
            if lane is None:
                self._changed.notify()
            else:
                self._lanes.append(lane)
        return lane

    def _drop(self, user: _User) -> None:
        """Close the lane of ``user``."""
        lane = user.lane
        if lane is not None:
            with suppress(ReproError):  # after a failure on the device nothing can be freed on it
                lane.close()
        with self._changed:
            if lane is not None:
                self._lanes.remove(lane)
            user.lane = None
            self._changed.notify()

    def _close_if_lost(self, error: Exception) -> None:
        """Such errors stay with the device's context: whatever is asked of it next says the same."""
        if isinstance(error, DeviceMemoryError):
            return
        try:
            with self._cuda.current():
                self._cuda.settle()
        except CudaError as last:
            lost = f"cuda:{self._cuda.device} is lost to this process ({last}); start it again"
            self._reason = f"since {lost}"
            self.close()
            raise DeviceLostError(lost) from error

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The device is current, unless it is lost."""
        with ExitStack() as stack:
            with suppress(CudaError):
                stack.enter_context(self._cuda.current())
            yield

    def close(self) -> None:
        """Free all lanes, now or when the last run has come to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._dispose_if_last()

    def _leave(self, user: _User) -> None:
        """Give back the lane of ``user``, or close it, if its run did not come to its end."""
        with self._changed:
            if user.lane in self._free:  # it was only about to be taken
                user.lane = None
            if user.done and user.lane is not None:
                self._free.append(user.lane)
                user.lane = None
        if user.lane is not None:
            with self._current():
                self._drop(user)
        with self._changed:
            self._users.discard(user)
            self._changed.notify()
        self._dispose_if_last()

    def _dispose_if_last(self) -> None:
        with self._changed:
            if not self._closed or self._users or self._disposed:
                return
            self._disposed = True
        with self._current():
            self._free.clear()
            while self._lanes:
                lane = self._lanes.pop()
                with suppress(ReproError):
                    lane.close()
            self._dispose()


@dataclass(eq=False)
class _User:
    """A run: its lane, whether it is making one, and whether it came to its end."""

    lane: Lane | None = None
    makes: bool = False
    done: bool = False
