"""The checkpoints that ship with the package, and what training recorded of them."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from repr_models.errors import WeightsError
from repr_models.spec import NetworkSpec

REINSTALL = "install the package again"


def bundled_path(spec: NetworkSpec) -> Path:
    """Where the bundled checkpoint of ``spec`` lies, or would lie."""
    return Path(str(resources.files("repr_models"))) / "bundled" / f"{spec.name}.safetensors"


def is_bundled(spec: NetworkSpec) -> bool:
    """Whether trained weights of ``spec`` ship with the package."""
    return bundled_path(spec).is_file()


def bundled_record(spec: NetworkSpec) -> dict[str, Any]:
    """What training recorded of the bundled checkpoint: recipe, seed, versions, accuracy, data.

    Raises :class:`WeightsError` if the record is missing or unreadable.
    """
    path = bundled_path(spec).with_suffix(".json")
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); {REINSTALL}") from error
    return record
