"""The records of the studies as files: one JSON a run, none half written."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from repr_models.errors import DataError
from repr_models.files import replace_file

_CHECKPOINT = re.compile(r"(plain|resnet)(20|32|44|56|110)(_gn)?\.cifar10\.json")
"""Of the networks of He et al. 2016, §4.2, and of those with GroupNorm."""


@dataclass(frozen=True)
class Checkpoint:
    """A plain or residual network of so many layers, and what ``repr-train`` wrote of its training."""

    residual: bool
    depth: int
    group_norm: bool
    record: dict[str, Any]


def bundled_folder() -> Path:
    """Where the package keeps checkpoints' records and, in ``studies``, those of the runs."""
    return Path(str(resources.files("repr_models").joinpath("bundled")))


def records_folder() -> Path:
    """Where the runs' records are that ship with the package."""
    return bundled_folder() / "studies"


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of the run ``name`` in ``folder``, or ``None`` if it is not there.

    Raises :class:`DataError` if the file is no record.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    return _read(path)


def write_record(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write the record of the run ``name``; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())


def checkpoint_records(folder: Path) -> list[Checkpoint]:
    """The plain and residual CIFAR-10 checkpoints there, by depth, the plain one first."""
    found = []
    for path in folder.glob("*.cifar10.json"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            about = match[1] == "resnet", int(match[2]), match[3] is not None
            found.append(Checkpoint(*about, _read(path)))
    return sorted(found, key=lambda each: (each.depth, each.residual, each.group_norm))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); delete it, and run it again") from error
    if not isinstance(record, dict) or "history" not in record:
        raise DataError(f"{path} is no record of a run: it has no history; delete it")
    return record
