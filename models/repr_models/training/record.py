"""The record of a checkpoint: what was done, on what, and what came of it."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repr_models.data.images import ImageSet
from repr_models.errors import TrainingError
from repr_models.training.loop import TrainingState

Splits = Mapping[str, ImageSet]
"""``train`` and ``test``."""


def make_record(state: TrainingState, images: Splits, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's JSON says of it: enough to make it again and to judge it.

    ``said`` is of its file, where weights are kept, and its accuracies.
    """
    return {
        "schema": 1,
        "network": state.spec.name,
        **said,
        "parameters": state.spec.parameters,
        "recipe": state.recipe.as_dict(),
        "seed": state.seed,
        "data": {
            split: {"description": found.description, "sha256": found.sha256}
            for split, found in images.items()
        },
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": (
            torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else "cpu"
        ),
        "threads": torch.get_num_threads(),
        "history": state.history,
    }


def read_record(path: Path, network: str, weights_sha256: str, images: Splits) -> dict[str, Any]:
    """The record at ``path``, of a checkpoint of ``network`` trained on ``images``.

    Raises :class:`TrainingError` if it is not the record of these.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        compared = {
            "network": (record["network"], network),
            "weights_sha256": (record["weights_sha256"], weights_sha256),
            **{f"{s} data": (record["data"][s]["sha256"], images[s].sha256) for s in images},
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{path} is not the record of a checkpoint ({error})") from error
    for what, (said, expected) in compared.items():
        if said != expected:
            raise TrainingError(
                f"{path} is not of this checkpoint: its {what} is {said}, not {expected}"
            )
    return record
