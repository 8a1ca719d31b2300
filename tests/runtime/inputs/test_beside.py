"""What a session on a GPU does beside its runs, and what it leaves: looking at values, asking arrays."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from repr_runtime import errors, inputs
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.cuda import arrays
from repr_runtime.loading import LoadOptions, Opened
from repr_runtime.session import Session

SPEC = (TensorSpec("x", "float32", ("n", 2)),)


@pytest.fixture
def start(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """A session of a backend on a device that runs what it is given, and takes 8 values for many."""
    manifest, _ = tiny.parts(inputs=SPEC, outputs=SPEC, preprocessing=None)
    monkeypatch.setattr(inputs, "_SLOW", 8)

    def start(run: Callable[[Any], Any], device: str = "cuda", nonfinite: str = "error") -> Session:
        def run_on_device(feed: Any, check: Any) -> Any:
            views = {name: arrays.view(value) for name, value in feed.items()}
            check(views)
            return run(views)

        backend = SimpleNamespace(
            name="made", device=device, inputs=SPEC, outputs=SPEC, run=run, close=lambda: None
        )
        backend.run_on_device, backend.instances = run_on_device, 1
        opened = Opened(manifest, manifest.files[0], backend, "")  # type: ignore[arg-type]
        return Session(tmp_path, opened, LoadOptions(nonfinite=nonfinite))

    return start


def rows(count: int, last: float = 1.0) -> np.ndarray:
    values = np.ones((count, 2), np.float32)
    values[-1, -1] = last
    return values


def test_a_gpu_runs_while_a_large_input_is_looked_at(
    start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, looked = threading.Event(), list[bool]()

    def look(values: np.ndarray) -> bool:
        looked.append(runs.wait(10) if len(values) > 4 else True)
        return real(values)

    def run(feed: Any) -> list[Any]:
        runs.set()
        return [feed["x"][:1]]

    real = inputs.all_finite
    monkeypatch.setattr(inputs, "all_finite", look)
    assert start(run).run(rows(5))["x"].shape == (1, 2)
    assert looked == [True]  # by the time the run had begun


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("count", [4, 5])
def test_what_is_not_finite_is_refused_whatever_the_run_says(
    start: Callable[..., Session], device: str, count: int
) -> None:
    ran: list[int] = []

    def run(feed: Any) -> list[Any]:
        ran.append(len(feed["x"]))
        raise errors.ExecutionError("no such batch")

    session = start(run, device)
    with pytest.raises(errors.NonFiniteInputError, match="'x' holds 1 values"):
        session.run(rows(count, np.nan))
    assert ran == ([5] if (device, count) == ("cuda", 5) else [])
    with pytest.raises(errors.ExecutionError, match="no such batch"):
        session.run(rows(count))
    with pytest.raises(errors.ExecutionError, match="no such batch"):
        start(run, device, "allow").run(rows(count, np.nan))


def test_without_another_thread_it_is_looked_at_before(
    start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    ran: list[int] = []
    session = start(lambda feed: ran.append(len(feed["x"])) or [feed["x"]])
    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(errors.NonFiniteInputError):
        session.run(rows(5, np.inf))
    assert not ran
    assert len(session.run(rows(5))["x"]) == 5


def test_an_array_on_the_gpu_is_shared_once_and_never_copied_to_the_host(
    start: Callable[..., Session],
) -> None:
    values, asked = rows(3), list[str]()

    class There:
        """As JAX's, whose ``__array__`` copies without a word."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return arrays.CUDA, 0

        def __dlpack__(self, *, stream: int) -> Any:
            asked.append(f"share for {stream}")
            place = (values.ctypes.data, values.shape, values.dtype, self, (arrays.CUDA, 0))
            return arrays.make_capsule(*place)

        def __array__(self, *_: Any, **__: Any) -> Any:
            asked.append("copy")
            return values

    session = start(lambda views: [views["x"].address])
    for run in (lambda: session.run(There()), lambda: session.run(x=There())):
        asked.clear()
        assert run()["x"] == values.ctypes.data
        assert asked == ["share for -1"]
