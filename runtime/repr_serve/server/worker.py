"""One process of the service: models are loaded before it listens, and drained when it ends."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any

from uvicorn.config import STARTUP_FAILURE

from repr_runtime import errors
from repr_serve import tracing
from repr_serve.asgi import Receive, Scope, Send
from repr_serve.http import HttpApp
from repr_serve.metrics import Metrics
from repr_serve.service import Service
from repr_serve.settings import Settings

_log = logging.getLogger(__name__)
_READY = "ready"  # a file beside the counts: one of the workers has been


@dataclass(frozen=True)
class Worker:
    """Makes the application where it is to run; sent to each process as what was asked for."""

    settings: Settings

    def __call__(self) -> "Application":
        return Application(self.settings)


class Application:
    """The HTTP application with its models and its gRPC side, which begin and end with the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.service = Service(settings.sources, settings.models)
        self._metrics = Metrics(self.service, settings.shared)
        self._http = HttpApp(self.service, self._metrics, settings.http)
        self._grpc: Any = None
        self._ending: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._http(scope, receive, send)
            return
        await receive()
        try:
            await self._start()
        except errors.ReproError as error:
            _log.critical("%s", error)
            if self._settings.shared is not None:
                # The others serve on, and this one is begun again.
                logging.shutdown()
                os._exit(1 if (self._settings.shared / _READY).exists() else STARTUP_FAILURE)
            await send({"type": "lifespan.startup.failed"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        raise_open_files()
        await asyncio.to_thread(self.service.load_all)
        settings = self._settings
        if settings.grpc_port is not None:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a line for each mistake of a client
            from repr_serve import grpc

            self._grpc = await grpc.start(self.service, self._metrics, settings)
        if settings.watch:
            self.service.watch(settings.watch)
        self._drain_at_once()
        if settings.shared is not None:
            (settings.shared / _READY).touch()
            threading.Thread(target=_end_with_parent, daemon=True).start()
        gc.collect()
        gc.freeze()  # what is there now stays: it need not be looked through again and again
        _log.info("ready: %s", ", ".join(f"{m.name} {m.version}" for m in self.service.models))

    def _drain_at_once(self) -> None:
        """Begin to end at the signal: the server says so only when HTTP is at its end."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before: Any = signal.getsignal(number)

            def handle(number: int, frame: Any, before: Any = before) -> None:
                loop.call_soon_threadsafe(self._drain)
                before(number, frame)

            if callable(before):
                signal.signal(number, handle)

    def _drain(self) -> None:
        self.service.draining = True
        if self._grpc is not None and self._ending is None:
            self._ending = asyncio.ensure_future(self._grpc.stop(self._settings.drain))

    async def _stop(self) -> None:
        self._drain()
        if self._ending is not None:
            await self._ending
        # HTTP has answered its requests, or given up on them, before the server says that it ends.
        await asyncio.to_thread(self.service.close, 1.0)
        self._metrics.close()
        await asyncio.to_thread(tracing.flush)
        _log.info("ended: all that was taken on is answered")


def _end_with_parent() -> None:
    """A process that nobody would begin again, or end, would keep the ports."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def raise_open_files() -> None:
    """As many connections as the system allows, not the few that a shell begins with."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2**20), hard))
