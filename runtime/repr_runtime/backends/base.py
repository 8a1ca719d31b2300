"""What every backend is: a graph that is ready to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.cuda.arrays import DeviceArray


@dataclass(frozen=True)
class Timings:
    """Milliseconds on the device for one run: copy there, compute, copy back."""

    host_to_device: float
    compute: float
    device_to_host: float


class Backend(Protocol):
    """A graph that is ready to run.

    ``run`` may be called from several threads at once. The arrays that it returns belong
    to the caller: the backend keeps no reference to them and never writes to them again.
    ``instances`` are the runs that go on side by side at best; further ones wait, or slow them.
    """

    name: str
    device: str
    instances: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs, in the order of ``outputs``, for inputs that were checked already."""

    def run_on_device(
        self, feed: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
    ) -> list[DeviceArray]:
        """As ``run``, where arrays of ``feed`` lie on a GPU; the outputs stay there.

        ``check`` is called with a :class:`DeviceView` in place of each such array, and raises
        for what the graph does not take. Raises :class:`InputTypeError` for an array that the
        backend cannot reach.
        """

    def chunk(self, count: int) -> int | None:  # noqa: ARG002  any number will do
        """The batch size to cut ``count`` samples into; None if they can be run at once."""
        return None

    @property
    def timings(self) -> Timings | None:
        """Of this thread's last run, where the backend measures."""
        return None

    def after_fork(self) -> str:
        """Called in a forked child: why it cannot be run there, or ""."""
        return "it was loaded before this process was forked"

    def interrupt(self) -> None:
        """Let runs that go on end with an error as soon as the library can stop them."""

    def close(self) -> None:
        """Give back what the backend holds.

        A ``run`` that another thread is in goes on to its end; a later one raises
        :class:`SessionClosedError`.
        """
