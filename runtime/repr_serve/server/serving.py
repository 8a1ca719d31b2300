"""uvicorn with our application, on a socket that was bound before the models were loaded."""

import contextlib
import logging
import os
import signal
import socket

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from repr_runtime.errors import OptionError, ReproError
from repr_runtime.preflight import preflight
from repr_serve.server.connection import Connection
from repr_serve.server.logs import log_settings
from repr_serve.server.worker import Worker
from repr_serve.settings import Settings

_log = logging.getLogger(__name__)


class _Workers(Multiprocess):
    """The processes that share the port."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # else who comes now waits until the last of them has ended
        super().terminate_all()


def serve(settings: Settings, listener: socket.socket) -> int:
    """Serve on the bound socket until a signal ends it."""
    config = uvicorn.Config(
        Worker(settings),
        factory=True,
        loop="auto",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=log_settings(settings.log_json, settings.log_level),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=settings.workers,
        timeout_worker_healthcheck=30,  # a new one has to load its models by then
        timeout_graceful_shutdown=max(1, round(settings.drain)),
        timeout_keep_alive=75,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    if settings.exposed:
        _log.warning("whoever reaches %s may ask: there is no --api-key-file", settings.host)
    scheme = "http" if settings.tls_cert is None else "https"
    host, port = listener.getsockname()[:2]
    _log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
    if settings.workers > 1:
        for source in settings.sources:
            options = settings.models
            checks = preflight(source.path, device=options.device, precision=options.precision)
            if failed := [check.detail for check in checks if not check.passed]:
                _log.critical("%s: %s", source.name, "; ".join(failed))
                return 1
        os.environ["PYTHONSAFEPATH"] = "1"  # else they would import from the working folder first
        workers = _Workers(config, sockets=[listener])
        workers.run()
        return int(any(one.exitcode == STARTUP_FAILURE for one in workers.processes))
    # The server ends in good order at these signals, and then raises them once more.
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except (SystemExit, ReproError):
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket at that address, which does not listen yet: nobody is kept waiting for the models."""
    with contextlib.ExitStack() as unless_bound:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            made = unless_bound.enter_context(socket.socket(family, kind, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except (OSError, UnicodeError) as error:  # the second is of names that cannot be
            why = getattr(error, "strerror", None) or error
            raise OptionError(
                f"cannot listen on {host}:{port} ({why}); choose another {option} or --host"
            ) from error
        unless_bound.pop_all()
    made.set_inheritable(True)
    return made
