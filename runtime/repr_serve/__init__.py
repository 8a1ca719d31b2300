"""repr_serve: artifacts as a service. Needs the extra ``serve``; knows `repr_runtime` alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repr_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from repr_serve.http import HttpApp, HttpOptions
    from repr_serve.model import ModelOptions, Source
    from repr_serve.mounting import app
    from repr_serve.service import Service
    from repr_serve.settings import Settings

__all__ = ["HttpApp", "HttpOptions", "ModelOptions", "Service", "Settings", "Source", "app"]

_PLACES = {
    "app": "mounting",
    "HttpApp": "http",
    "HttpOptions": "http",
    "ModelOptions": "model",
    "Service": "service",
    "Settings": "settings",
    "Source": "model",
}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for, so that the command can say what is not installed."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("repr_serve", "serve", error.name) from error
