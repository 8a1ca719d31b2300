"""Artifacts that a run lacks, exported ahead of it, several at once, each in a process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path

from repr_bench.artifacts import find_artifact
from repr_bench.request import Listener, Request, is_own
from repr_runtime.artifact.manifest import MANIFEST_NAME
from repr_runtime.machine import usable_cores

MOST_AT_ONCE = 4
"""An export takes up to some GB of memory."""


def export_ahead(request: Request, listener: Listener) -> None:
    """Export the bundled networks of ``request`` that have no artifact yet, if they are several.

    An export keeps hardly more than one core busy. What fails is left to the run, which tries it
    again and says why. Only for a program whose main module can be imported without harm: the
    processes do that.
    """
    names = [name for name in dict.fromkeys(request.targets) if _is_missing(name, request)]
    workers = min(usable_cores(), len(names), MOST_AT_ONCE)
    if workers < 2:
        return
    listener.tell(f"exporting {', '.join(names)} to {request.artifacts}, {workers} at once")
    others = set(active_children())
    pool = _pool(workers, max(1, usable_cores() // workers))
    try:
        asked = [
            pool.submit(_exported, name, request.artifacts, request.precisions) for name in names
        ]
        with contextlib.suppress(BrokenProcessPool):  # for want of memory, say
            for done, future in enumerate(as_completed(asked), 1):
                for text in future.result():
                    listener.tell(text)
                listener.advance("exporting", done, len(names))
    except BaseException:
        for process in {*active_children()} - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _is_missing(name: str, request: Request) -> bool:
    """Whether ``name`` is a network's whose bundled weights are to be exported."""
    from repr_models.errors import ModelsError
    from repr_models.registry import resolve
    from repr_models.weights.bundled import is_bundled

    path = Path(name)
    if is_own(name) or request.own_for(name) or path.is_dir() or len(path.parts) != 1:
        return False
    if (request.artifacts / name.strip().lower() / MANIFEST_NAME).exists():
        return False
    try:
        return is_bundled(resolve(name))
    except ModelsError:
        return False


def _pool(workers: int, threads: int) -> Executor:
    # A fork would have half of the threads of the libraries that are loaded here.
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin, (threads,))


def _begin(threads: int) -> None:
    """In a worker, before it imports torch: Ctrl-C is its parent's matter, and cores are shared."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _exported(name: str, artifacts: Path, precisions: Sequence[str]) -> list[str]:
    """What is to be told of it, but for that it is exported."""
    told: list[str] = []
    with contextlib.suppress(Exception):  # the run tries it again
        find_artifact(name, artifacts, told.append, precisions)
    return told[1:]
