"""A trained network as it is stored: its file, measured as anyone who loads it will meet it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from repr_models.errors import TrainingError
from repr_models.spec import NetworkSpec
from repr_models.training.recipe import ResidentImages, evaluate
from repr_models.weights.checkpoint import load_content, read_file
from repr_models.weights.codec import describe, encode

STORES = ("auto", "fp32")
"""How a checkpoint can be stored: by the codec of ``storage.py``, or as it is."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """The file of a checkpoint, what a record says of it, and what it gets right (0 to 1)."""

    content: bytes
    sha256: str
    storage: Mapping[str, Any]
    top1: Mapping[str, float]


def store(
    spec: NetworkSpec,
    state: Mapping[str, Tensor],
    how: str,
    test_data: ResidentImages,
    train_data: ResidentImages,
) -> StoredCheckpoint:
    """Store ``state``, a state dict of ``spec``, by ``how`` (one of ``STORES``), and measure it.

    Parameters that serve training alone are left out. The accuracies are those of a network
    loaded from the stored bytes. Raises :class:`~repr_models.errors.WeightsError` for values
    that cannot be stored.
    """
    kept = {key: value for key, value in state.items() if not spec.is_training_only(key)}
    if how == "auto":
        content = encode(kept)
    else:
        content = save({key: value.cpu().contiguous() for key, value in kept.items()})
    network = spec.build()
    load_content(network, content, Path(f"{spec.name}.safetensors"), spec)
    network = network.to(  # type: ignore[call-overload]
        device=test_data.images.device, memory_format=torch.channels_last
    )
    top1 = {
        "test_top1": evaluate(network, test_data),
        "train_top1": evaluate(network, train_data),
    }
    storage = {"store": how, **describe(content), "left_out": list(spec.training_only)}
    return StoredCheckpoint(content, hashlib.sha256(content).hexdigest(), storage, top1)


def read_checkpoint(
    spec: NetworkSpec, path: Path, data_sha256: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the record of a checkpoint that `repr-train` wrote.

    Raises :class:`TrainingError` if the record beside ``path`` is not of this network, this
    file and the data of ``data_sha256`` (``train`` and ``test``).
    """
    content = read_file(path)
    record_path = path.with_suffix(".json")
    try:
        record: dict[str, Any] = json.loads(record_path.read_text("utf-8"))
        said = {
            "network": record["network"],
            "weights_sha256": record["weights_sha256"],
            **{f"{split} data": record["data"][split]["sha256"] for split in data_sha256},
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{record_path} is not the record of a checkpoint ({error})") from error
    expected = {
        "network": spec.name,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        **{f"{split} data": sha256 for split, sha256 in data_sha256.items()},
    }
    for what, value in expected.items():
        if said[what] != value:
            raise TrainingError(
                f"{record_path} is not of this checkpoint: its {what} is {said[what]}, not {value}"
            )
    network = spec.build()
    load_content(network, content, path, spec)
    return network.state_dict(), record
