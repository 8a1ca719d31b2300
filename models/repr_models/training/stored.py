"""A trained network as it is stored: its file, measured as anyone who loads it will meet it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What encoding imports is missed before the training, not after it.
import safetensors.torch  # noqa: F401
from torch import Tensor

from repr_models.spec import NetworkSpec
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate, on_device
from repr_models.training.record import Splits, read_record
from repr_models.weights.checkpoint import load_content, read_file
from repr_models.weights.codec import describe, encode


def store(
    spec: NetworkSpec,
    state: Mapping[str, Tensor],
    how: str,
    images: Mapping[str, ResidentImages],
) -> tuple[bytes, dict[str, Any]]:
    """The file of ``state``, a state dict of ``spec``, and what a record says of it.

    ``how`` is ``"auto"``, by :mod:`repr_models.weights.codec`, or ``"fp32"``, as it is.
    Parameters that serve training alone are left out. The accuracies on ``images`` (``train`` and
    ``test``) are those of a network loaded from the stored bytes. Raises
    :class:`~repr_models.errors.WeightsError` for values that cannot be stored.
    """
    kept = {key: value for key, value in state.items() if not spec.is_training_only(key)}
    content = encode(kept, exact=how == "fp32")
    network = spec.build()
    load_content(network, content, Path(f"{spec.name}.safetensors"), spec)
    network = on_device(network, images["test"].images.device)
    top1 = {f"{split}_top1": evaluate(network, images[split]) for split in ("test", "train")}
    return content, {
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "storage": {"store": how, **describe(content), "left_out": list(spec.training_only)},
        "accuracy": top1,
    }


def read_checkpoint(
    spec: NetworkSpec, path: Path, images: Splits
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the record of a checkpoint that ``repr-train`` wrote.

    Raises :class:`~repr_models.errors.TrainingError` if the record beside ``path`` is not of this
    network, this file and these images.
    """
    content = read_file(path)
    sha256 = hashlib.sha256(content).hexdigest()
    record = read_record(path.with_suffix(".json"), spec.name, sha256, images)
    network = spec.build()
    load_content(network, content, path, spec)
    return network.state_dict(), record
