"""The command that trains LeNet-5 on the tiny set, for the tests of what it writes and resumes."""

from pathlib import Path

import pytest


@pytest.fixture
def command(cifar_folder: Path) -> list[str]:
    """Three epochs of eight steps; under a second."""
    return [
        *("lenet5", "--data", str(cifar_folder), "--epochs", "3", "--batch-size", "20"),
        *("--learning-rate", "0.02", "--device", "cpu", "--precision", "fp32"),
    ]
