"""`--roofline` and `--profile`: what is done for them after the rows were timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from repr_bench.request import Listener, Wanted
from repr_bench.results.profile import Profile
from repr_bench.results.roofline import Roofline, Work
from repr_runtime.artifact.reading import read_file

if TYPE_CHECKING:
    from repr_bench.results.machine import Environment
    from repr_runtime import Session


class Subject(NamedTuple):
    """A timed row: which one, its open session, and what was fed."""

    label: str
    precision: str
    batch: int
    session: Session
    arrays: tuple[NDArray[Any], ...]
    emulated: bool


class Analysis:
    """Fills in ``roofline`` and ``profiles``; an interrupt leaves what was found until then."""

    def __init__(self, wanted: Wanted, threads: int | None, environment: Environment) -> None:
        self.roofline: Roofline | None = None
        self.profiles: list[Profile] = []
        self._wanted, self._environment = wanted, environment
        self._threads = threads

    def run(self, subjects: Sequence[Subject], listener: Listener) -> None:
        """Measure the machine, then profile each of ``subjects``. What fails is its reason."""
        if self._wanted.roofline:
            self._measure_roofline(subjects, listener)
        if self._wanted.profile:
            from repr_bench.analysis.profile_session import profile_session

            for subject in subjects:
                where = f"{subject.label} {subject.precision} batch {subject.batch}"
                listener.tell(f"profiling {where}")
                self.profiles.append(
                    profile_session(
                        (subject.label, subject.precision, subject.batch),
                        subject.session,
                        subject.arrays,
                        threads=self._threads,
                        graph=_graph(subject.session),
                    )
                )

    def _measure_roofline(self, subjects: Sequence[Subject], listener: Listener) -> None:
        from repr_bench.analysis.peaks import measure_peaks

        threads = self._threads or default_threads(self._environment)
        listener.tell(f"measuring this machine's peaks with {threads} threads")
        works = tuple(work_of(subject) for subject in subjects)
        found = measure_peaks(
            threads,
            memory_bytes=self._environment.memory_bytes,
            int8=any(work.precision == "int8" and not work.reason for work in works),
        )
        self.roofline = Roofline(threads, found.peaks, works, found.notes)


def default_threads(environment: Environment) -> int:
    """The threads that ONNX Runtime takes by itself: one a core that the process may use."""
    cores = environment.physical_cores or environment.logical_cores or 1
    return max(1, min(cores, environment.usable_cpus or cores))


def work_of(subject: Subject) -> Work:
    """The work of one call, or the reason why it is not known."""
    from repr_bench.analysis.traffic import layer_traffic

    key = (subject.label, subject.precision, subject.batch)
    if subject.emulated:
        return Work(*key, reason=f"{subject.precision} is emulated on a CPU")
    if subject.session.device != "cpu":
        reason = (
            f"runs on {subject.session.device}, whose peaks are not measured; with --device cpu"
        )
        return Work(*key, reason=reason)
    try:
        layers = layer_traffic(_graph(subject.session), subject.batch)
    except Exception as error:  # the other rows still have their places
        return Work(*key, reason=str(error) or type(error).__name__)
    if not layers:
        return Work(*key, reason="its graph has no weighted layer")
    return Work(
        *key,
        layers=len(layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )


def _graph(session: Session) -> bytes:
    """The ONNX file that runs, or that the engine was built from."""
    entry = session.manifest.file(session.graph)
    assert entry is not None, "the session was loaded from it"
    return read_file(session.path, entry)
