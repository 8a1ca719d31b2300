"""What training starts from and ``repr-train lenet5`` leaves in a folder."""

import json
from pathlib import Path
from typing import Any

# of CIFAR-10's pixels and labels, as published
CIFAR10_SHA256 = {
    "train": "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2",
    "test": "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304",
}
FILES = ["lenet5.cifar10.json", "lenet5.cifar10.safetensors"]
STATE = "lenet5.cifar10.state.pt"
RECIPE = {
    "epochs": 3,
    "batch_size": 20,
    "learning_rate": 0.02,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.0,
    "precision": "fp32",
}
"""Of the fixture ``command``."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_record(
    folder: Path, name: str = "lenet5.cifar10", *, timed: bool = True
) -> dict[str, Any]:
    """The record in ``folder``; without its seconds unless ``timed``."""
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    if not timed:
        for row in record["history"]:
            del row["seconds"]
    return record
