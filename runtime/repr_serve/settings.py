"""All that a running service was asked for, in one picture that its workers are given."""

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repr_runtime import errors
from repr_runtime.options import require_seconds, require_whole
from repr_serve.http import HttpOptions
from repr_serve.model import ModelOptions, Source, require_distinct

_MOST_WORKERS = 256
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Settings:
    """``drain`` and ``watch`` are in seconds; ``watch`` 0 does not look for new exports.

    ``grpc_port`` None: no gRPC. ``shared`` is a folder where several workers keep their counts.
    Raises :class:`OptionError` for what none may be.
    """

    sources: Sequence[Source]
    models: ModelOptions = field(default_factory=ModelOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    workers: int = 1
    watch: float = 0.0
    drain: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_json: bool = False
    log_level: str = "info"
    shared: Path | None = None

    def __post_init__(self) -> None:
        require_distinct(self.sources)
        require_whole(0, 65535, port=self.port)
        if self.grpc_port is not None:
            require_whole(0, 65535, grpc_port=self.grpc_port)
            if self.port == self.grpc_port != 0:
                raise errors.OptionError(f"HTTP and gRPC cannot both have port {self.port}")
        require_whole(1, _MOST_WORKERS, workers=self.workers)
        require_seconds(0, 3600, watch=self.watch, drain=self.drain)
        require_whole(1024, 2**31 - 1, max_body=self.http.max_body)  # gRPC's limit
        if (self.tls_cert is None) != (self.tls_key is None):
            raise errors.OptionError(
                "TLS takes both a certificate and its key: --tls-cert and --tls-key"
            )
        if self.tls_cert is not None:
            try:
                # A password is not asked for: nobody sits before a service.
                ssl.create_default_context().load_cert_chain(self.tls_cert, self.tls_key, "")
            except OSError as error:  # of ssl, too
                raise errors.OptionError(
                    f"{self.tls_cert} and {self.tls_key} are no certificate and its key ({error}); "
                    f"give two PEM files, the key without a password"
                ) from error
        if self.workers > 1 and self.http.allow_control:
            raise errors.OptionError(
                "--allow-control is for one worker: a request to load a model reaches one only; use --watch"
            )
        if self.workers > 1 and self.grpc_port == 0:
            raise errors.OptionError(
                "several workers share a gRPC port: it needs a number, or --no-grpc"
            )

    @property
    def exposed(self) -> bool:
        """Whether others than this machine may reach it, without a key."""
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        return not local and not self.http.keys


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The SHA-256 of each key in the file, one a line; lines that begin with # are none.

    Raises :class:`OptionError` if it cannot be read, has none, or a key is short.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.OptionError(f"{path} cannot be read ({error}); give a file of keys") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise errors.OptionError(f"{path} has no keys; write one a line")
    if any(len(key) < _SHORTEST_KEY for key in keys):
        raise errors.OptionError(f"{path} has a key of less than {_SHORTEST_KEY} characters")
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)
