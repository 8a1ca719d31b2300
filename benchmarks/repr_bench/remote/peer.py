"""Servers among the peers: checked before the work, timed in the same rounds as the artifact itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repr_bench.errors import UsageError
from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload
from repr_bench.peers.ours import burst_of_callers
from repr_bench.remote.protocol import NoModelError, RemoteError
from repr_bench.remote.session import RemoteSession, checked_metadata, client_for
from repr_bench.request import Listener, Request, Server, is_own
from repr_bench.results.graph import Graph
from repr_runtime import Manifest, ReproError, read_manifest


class RemoteRunner:
    """One caller for the latency, so many at once for the throughput."""

    def __init__(
        self, server: Server, request: Request, listener: Listener, workload: Workload
    ) -> None:
        assert workload.session is not None, "it is there when peers are opened"
        try:
            self._session = RemoteSession(workload.session, workload.label, server, request)
        except NoModelError as error:
            raise PeerAbsentError(str(error)) from error
        self._request = request
        self._report = partial(listener.advance, f"accuracy of {workload.label} at {server.name}")
        self._callers = ThreadPoolExecutor(request.remote.callers, "repr-bench-caller")
        self._answers: Graph | None = None

    def prepare(self, arrays: Arrays) -> Prepared:
        count, call = self._session.callers, partial(self._session.run, *arrays)
        at_once = partial(burst_of_callers, self._callers, count, call)
        settings = self._session.choice
        return Prepared(self._logits, call, settings, at_once, count, answers=self._answered)

    def _logits(self, arrays: Arrays) -> NDArray[Any]:
        return self._session.run(*arrays)[self._session.own.outputs[0].name]

    def _answered(self, graph: Graph) -> Graph:
        if self._answers is None:  # it is the same at each batch size
            self._answers = self._session.answers(graph, self._request, self._report)
        return self._answers

    def close(self) -> None:
        self._callers.shutdown()
        self._session.close()


def remote_peers(request: Request, listener: Listener) -> list[tuple[Peer, str | None]]:
    """The servers of ``request``, as peers that all can take part."""
    return [
        (Peer(s.name, partial(RemoteRunner, s, request, listener), lambda: None, server=True), None)
        for s in request.remote.servers
    ]


def check_servers(request: Request) -> None:
    """Ask each server for the models that are named, before anything is measured.

    Raises :class:`UsageError` where one does not answer, has none of them, or has another of that
    name. What cannot be known yet (the name of an artifact that is not made) is seen later.
    """
    for server in request.remote.servers:
        lacking: list[NoModelError] = []
        models = list(_models(request))
        for label, manifest in models:
            client = client_for(server, label, manifest, request)
            try:
                if not label and not server.model:  # whether it answers at all
                    client.models()
                elif manifest is None:
                    client.metadata()
                else:
                    checked_metadata(client, manifest, server)
            except NoModelError as error:
                lacking.append(error)
            except RemoteError as error:
                raise UsageError(str(error)) from error
            finally:
                client.close()
        if len(lacking) == len(models):
            raise UsageError(str(lacking[0]))


def _models(request: Request) -> Iterator[tuple[str, Manifest | None]]:
    """What rows will be called, and their artifacts' manifests, as far as they are there."""
    named = [name for name in request.targets if not is_own(name)]
    for name in named:
        folder = Path(name)
        if not folder.is_dir() and len(folder.parts) == 1:
            folder = request.artifacts / name.strip().lower()
        manifest = None
        with contextlib.suppress(ReproError):
            manifest = read_manifest(folder)
        yield folder.resolve().name, manifest
    if not named:
        yield "", None
