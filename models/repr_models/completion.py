"""What a shell's Tab completes, by argcomplete's protocol; it waits for neither torch nor onnx."""

import argparse
import os
from collections.abc import Callable, Sequence


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may follow, and end the process; else do nothing."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def completes(action: argparse.Action, completer: Callable[..., Sequence[str]]) -> None:
    """Let ``completer``, which gets what is there as ``prefix``, say the values of ``action``."""
    action.completer = completer  # type: ignore[attr-defined]


def network_names(prefix: str, **_: object) -> list[str]:
    """The networks whose names begin with ``prefix``."""
    from repr_models.registry import known_names

    return [name for name in known_names() if name.startswith(prefix)]


def networks_and_graphs(prefix: str, **_: object) -> list[str]:
    """The same, ONNX files and folders."""
    from argcomplete.completers import FilesCompleter

    return [*network_names(prefix), *FilesCompleter(["onnx"])(prefix)]


def listed(values: Sequence[str]) -> Callable[..., list[str]]:
    """A completer of the last of several ``values`` with commas between them."""

    def completer(prefix: str, **_: object) -> list[str]:
        before, comma, last = prefix.rpartition(",")
        return [before + comma + value for value in values if value.startswith(last)]

    return completer
