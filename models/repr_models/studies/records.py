"""The records of the studies as files: one JSON a run, none half written."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from repr_models.errors import DataError
from repr_models.files import replace_file

_CHECKPOINT = re.compile(r"(plain|resnet)(20|32|44|56|110)\.cifar10\.json")
"""Of the networks of He et al. 2016, §4.2."""


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


def checkpoint_records(folder: Path) -> list[tuple[bool, int, dict[str, Any]]]:
    """Whether residual, depth and record of each plain and residual CIFAR-10 checkpoint there.

    By depth, the plain one first: what ``repr-train`` measured on whole images.
    """
    found = []
    for path in folder.glob("*.cifar10.json"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            found.append((match[1] == "resnet", int(match[2]), _read(path)))
    return sorted(found, key=lambda item: (item[1], item[0]))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); delete it, and run it again") from error
    if not isinstance(record, dict) or "history" not in record:
        raise DataError(f"{path} is no record of a run: it has no history; delete it")
    return record
