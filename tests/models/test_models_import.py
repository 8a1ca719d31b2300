"""The public names of repr_models, and that naming them costs no import of torch."""

from __future__ import annotations

import json
import subprocess
import sys

import repr_models

PUBLIC = [
    "CIFAR10",
    "IMAGENET",
    "DataError",
    "Dataset",
    "DuplicateNetworkError",
    "FoldContract",
    "ImageSet",
    "ModelsError",
    "NetworkSpec",
    "Preprocessing",
    "Published",
    "TrainingError",
    "UnknownNetworkError",
    "WeightsError",
    "WeightsSource",
    "bundled_record",
    "bundled_subset",
    "is_bundled",
    "load_checkpoint",
    "load_cifar10",
    "load_weights",
    "networks",
    "randomize",
    "register",
    "resolve",
]


def test_the_public_names_are_these() -> None:
    assert repr_models.__all__ == PUBLIC
    assert all(hasattr(repr_models, name) for name in PUBLIC)


def test_importing_the_package_and_reading_images_imports_no_torch() -> None:
    code = (
        "import json, sys, repr_models; repr_models.bundled_subset(); "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(result.stdout))
    assert not loaded & {
        *("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors", "rich"),
        *("repr_export", "repr_runtime", "repr_bench"),
    }


def test_every_error_is_a_models_error() -> None:
    errors = [getattr(repr_models, name) for name in PUBLIC if name.endswith("Error")]
    assert len(errors) == 6
    assert all(issubclass(error, repr_models.ModelsError) for error in errors)
    assert issubclass(repr_models.ModelsError, ValueError)
