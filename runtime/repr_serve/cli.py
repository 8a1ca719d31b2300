"""The command `repr-serve [NAME=]ARTIFACT…`: the runtime as a service."""

import argparse
import contextlib
import logging
import logging.config
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from repr_runtime.errors import OptionError, ReproError
from repr_runtime.loading import DEVICES
from repr_runtime.machine import version_of
from repr_runtime.options import require_one_of
from repr_runtime.preflight import preflight
from repr_serve.http import HttpOptions
from repr_serve.model import ModelOptions, Source
from repr_serve.server.connection import Connection
from repr_serve.server.logs import log_settings
from repr_serve.server.worker import Worker
from repr_serve.settings import Settings, environment, read_keys

LEVELS = ("debug", "info", "warning", "error")
_log = logging.getLogger("repr_serve")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="repr-serve",
        description="Serve artifacts by the Open Inference Protocol v2, over HTTP and gRPC.",
        epilog="What has a value can be set by the environment as well: REPR_SERVE_PORT for --port.",
    )

    def option(name: str, default: str | None, kind: type, words: str, metavar: str) -> None:
        shown = "" if default is None else f" (default: {default})"
        p.add_argument(
            *(f"--{name}",),
            default=environment(name, default),
            type=kind,
            metavar=metavar,
            help=words + shown,
        )

    p.add_argument(
        "artifacts",
        nargs="+",
        metavar="[NAME=]ARTIFACT",
        help="the folder that repr-export wrote, and the name to serve it by (default: the folder's)",
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {version_of('repr-deploy')}")
    option(
        "host", "127.0.0.1", str, "the address to listen on; this machine alone by default", "HOST"
    )
    option("port", "8000", int, "for HTTP", "N")
    option("grpc-port", "8001", int, "for gRPC", "N")
    p.add_argument("--no-grpc", action="store_true", help="HTTP alone")
    p.add_argument("--device", choices=DEVICES, default=environment("device", "auto"))
    option("precision", "fp32", str, "which graph to serve", "NAME")
    option(
        "instances",
        None,
        int,
        "runs side by side of each model (default: on a CPU, one a core, each of one thread)",
        "N",
    )
    option("max-batch", "32", int, "samples that are run together at most", "N")
    option("max-delay", "0", float, "how long a request may wait for company", "SECONDS")
    option("queue-limit", None, int, "samples that may wait (default: 16 full batches)", "N")
    option("timeout", "30", float, "until when each request is answered, or refused", "SECONDS")
    option("max-body", str(32 * 2**20), int, "the longest request", "BYTES")
    option("workers", "1", int, "processes that share the ports", "N")
    option("watch", "0", float, "look for new exports that often; 0 does not", "SECONDS")
    option("drain", "30", float, "how long to finish what was taken on, at the end", "SECONDS")
    option("api-key-file", None, Path, "keys, one a line, of which each request needs one", "FILE")
    option("tls-cert", None, Path, "the certificate, with its chain", "PEM")
    option("tls-key", None, Path, "its key", "PEM")
    p.add_argument(
        "--allow-control", action="store_true", help="let clients load and unload these models"
    )
    p.add_argument("--log-level", choices=LEVELS, default=environment("log-level", "info"))
    p.add_argument("--json", action="store_true", help="log in JSON, an object a line")
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises :class:`OptionError`."""
    models = ModelOptions(
        device=args.device,
        precision=args.precision,
        instances=args.instances,
        max_batch=args.max_batch,
        max_delay=args.max_delay,
        queue_limit=args.queue_limit,
        timeout=args.timeout,
        processes=max(1, args.workers),
    )
    http = HttpOptions(
        max_body=args.max_body,
        keys=() if args.api_key_file is None else read_keys(args.api_key_file),
        allow_control=args.allow_control,
    )
    return Settings(
        sources=[Source.parse(text) for text in args.artifacts],
        models=models,
        http=http,
        host=args.host,
        port=args.port,
        grpc_port=None if args.no_grpc else args.grpc_port,
        workers=args.workers,
        watch=args.watch,
        drain=args.drain,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        log_json=args.json,
        log_level=args.log_level,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 at the end, 1 if the artifacts cannot be served, 2 for a mistake."""
    args = parser().parse_args(argv)
    try:
        require_one_of(DEVICES, device=args.device)  # argparse looks at no default
        require_one_of(LEVELS, log_level=args.log_level)
        settings = settings_of(args)
        listener = bind(settings.host, settings.port)
    except OptionError as error:
        print(f"repr-serve: error: {error}", file=sys.stderr)
        return 2
    logging.config.dictConfig(log_settings(settings.log_json, settings.log_level))
    with listener, tempfile.TemporaryDirectory(prefix="repr-serve-") as shared:
        if settings.workers > 1:
            settings = replace(settings, shared=Path(shared))
        return serve(settings, listener)


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
        Multiprocess(config, sockets=[listener]).run()
        return 0
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


def bind(host: str, port: int) -> socket.socket:
    """A socket at that address, which does not listen yet: nobody is kept waiting for the models."""
    with contextlib.ExitStack() as unless_bound:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            made = unless_bound.enter_context(socket.socket(family, kind, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError as error:
            raise OptionError(
                f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port "
                f"or --host"
            ) from error
        unless_bound.pop_all()
    made.set_inheritable(True)
    return made


if __name__ == "__main__":
    sys.exit(main())
