"""Exports ahead of a run: which, at once, and what a failure or Ctrl-C leaves."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from repr_bench import ahead
from repr_bench.ahead import export_ahead
from repr_bench.request import Request


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were exported, two at once: one that waits for the other would break."""
    both, found = Barrier(2, timeout=5), list[str]()

    def find(name: str, _out: Path, tell: Callable[[str], None], _: Sequence[str]) -> Path:
        tell(f"exporting {name}")
        both.wait()
        found.append(name)
        if name == "alexnet":
            tell("int8 loses too much")
            raise RuntimeError("no room")
        return Path(name)

    def threads(workers: int, _threads: int) -> Executor:
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(ahead, "find_artifact", find)
    monkeypatch.setattr(ahead, "_pool", threads)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    return found


def test_what_is_missing_is_exported_at_once(
    exported: list[str], tmp_path: Path, no_progress: Any, make_artifact: Callable[..., Path]
) -> None:
    make_artifact("vgg16", parent=tmp_path)
    others = ("resnet50.imagenet", "no_such", "model.onnx", "some/folder", "vgg16")  # none of them
    export_ahead(Request(("lenet5", *others, "alexnet", "lenet5"), tmp_path), no_progress)
    assert sorted(exported) == ["alexnet", "lenet5"]
    first, *more = no_progress.told
    assert first == f"exporting lenet5, alexnet to {tmp_path}, 2 at once"
    assert more == ["int8 loses too much"]  # the failure is the run's to tell
    assert no_progress.advanced[-1] == ("exporting", 2, 2)


def test_a_single_one_is_left_to_the_run(
    exported: list[str], tmp_path: Path, no_progress: Any
) -> None:
    export_ahead(Request(("lenet5", "no_such"), tmp_path), no_progress)
    assert (exported, no_progress.told) == ([], [])


def test_a_worker_has_its_share_of_the_cores() -> None:
    with ahead._pool(1, 3) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "3"


def test_workers_that_die_leave_the_rest_to_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_progress: Any
) -> None:
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    monkeypatch.setattr(ahead, "_exported", _die)
    export_ahead(Request(("lenet5", "alexnet"), tmp_path), no_progress)
    assert len(no_progress.told) == 1


def _die(*_: object) -> None:
    os._exit(1)
