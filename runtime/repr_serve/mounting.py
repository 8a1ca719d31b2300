"""Artifacts as an ASGI application, for a server or a service of one's own."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from repr_serve.http import HttpApp, HttpOptions
from repr_serve.metrics import Metrics
from repr_serve.model import ModelOptions, Source
from repr_serve.service import Service

Artifacts = (
    str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | Iterable[str | os.PathLike[str]]
)


def app(
    artifacts: Artifacts, *, models: ModelOptions | None = None, http: HttpOptions | None = None
) -> HttpApp:
    """An ASGI application that serves the artifacts: to be run by any ASGI server, or mounted.

    ``artifacts`` are folders, one or several, or such by the names they are served under. They
    are loaded here and now, and their golden samples run. What is mounted in another
    application is closed by its owner: ``app.service.close(drain=10)``. Raises
    :class:`ReproError`.
    """
    service = Service(sources_of(artifacts), models)
    try:
        service.load_all()
    except BaseException:
        service.close()
        raise
    return HttpApp(service, Metrics(service), HttpOptions() if http is None else http, True)


def sources_of(artifacts: Artifacts) -> list[Source]:
    """The artifacts with the names they are served under. Raises :class:`OptionError`."""
    if isinstance(artifacts, Mapping):
        return [Source(name, Path(path)) for name, path in artifacts.items()]
    paths = [artifacts] if isinstance(artifacts, str | os.PathLike) else artifacts
    return [Source.parse(path) for path in paths]
