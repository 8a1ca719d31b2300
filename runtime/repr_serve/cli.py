"""The command `repr-serve [NAME=]ARTIFACT…`: the runtime as a service."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import logging.config
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repr_runtime.artifact.limits import Limits
from repr_runtime.errors import MissingExtraError, OptionError
from repr_runtime.files import with_streams
from repr_runtime.loading import DEVICES
from repr_runtime.machine import version_of
from repr_runtime.options import require_one_of

if TYPE_CHECKING:
    from repr_serve.settings import Settings

LEVELS = ("debug", "info", "warning", "error")


def environment(option: str, default: str | None = None) -> str | None:
    """What ``REPR_SERVE_OPTION`` says in place of the default of ``--option``."""
    return os.environ.get("REPR_SERVE_" + option.upper().replace("-", "_"), default)


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
    p.add_argument(
        *("--device",),
        choices=DEVICES,
        default=environment("device", "auto"),
        help="what runs the networks (default: auto, the best that there is)",
    )
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
    option(
        "limits",
        None,
        str,
        "what a stranger's graph may cost, as in run_seconds=5,nodes=5000,subgraphs=no",
        "NAME=NUMBER,…",
    )
    option("workers", "1", int, "processes that share the ports", "N")
    option("watch", "0", float, "look for new exports that often; 0 does not", "SECONDS")
    option("drain", "30", float, "how long to finish what was taken on, at the end", "SECONDS")
    option("api-key-file", None, Path, "keys, one a line, of which each request needs one", "FILE")
    option("tls-cert", None, Path, "the certificate, with its chain", "PEM")
    option("tls-key", None, Path, "its key", "PEM")
    p.add_argument(
        "--allow-control", action="store_true", help="let clients load and unload these models"
    )
    p.add_argument(
        *("--log-level",),
        choices=LEVELS,
        default=environment("log-level", "info"),
        help="debug has a line for each request (default: info)",
    )
    p.add_argument("--json", action="store_true", help="log in JSON, an object a line")
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises :class:`OptionError`."""
    from repr_serve.http import HttpOptions
    from repr_serve.model import ModelOptions, Source
    from repr_serve.settings import Settings, read_keys

    models = ModelOptions(
        device=args.device,
        precision=args.precision,
        instances=args.instances,
        max_batch=args.max_batch,
        max_delay=args.max_delay,
        queue_limit=args.queue_limit,
        timeout=args.timeout,
        processes=max(1, args.workers),
        limits=Limits.parse(args.limits or ""),
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
    return with_streams("repr-serve", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    p = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(p)
    args = p.parse_args(argv)
    try:
        from repr_serve.server.logs import log_settings
        from repr_serve.server.serving import bind, serve

        require_one_of(DEVICES, device=args.device)  # argparse looks at no default
        require_one_of(LEVELS, log_level=args.log_level)
        if not args.no_grpc:
            import repr_serve.grpc  # noqa: F401  # or it is missing
        settings = settings_of(args)
        if settings.grpc_port:  # which gRPC itself binds, when the models are there
            bind(settings.host, settings.grpc_port, "--grpc-port").close()
        listener = bind(settings.host, settings.port)
    except ModuleNotFoundError as error:
        print(MissingExtraError("repr-serve", "serve", error.name), file=sys.stderr)
        return 1
    except OptionError as error:
        print(f"repr-serve: error: {error}", file=sys.stderr)
        return 2
    logging.config.dictConfig(log_settings(settings.log_json, settings.log_level))
    with listener, tempfile.TemporaryDirectory(prefix="repr-serve-") as shared:
        if settings.workers > 1:
            settings = replace(settings, shared=Path(shared))
        return serve(settings, listener)


if __name__ == "__main__":
    sys.exit(main())
