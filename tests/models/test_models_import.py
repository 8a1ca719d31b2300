"""The public names of repr_models, and that naming them costs no import of torch."""

import json
import subprocess
import sys

import pytest

import repr_models

PUBLIC = [
    *("CIFAR10", "IMAGENET", "DataError", "Dataset", "DuplicateNetworkError", "FoldContract"),
    *("ImageSet", "ModelsError", "NetworkSpec", "Preprocessing", "Published", "TrainingError"),
    *("UnknownNetworkError", "WeightsError", "WeightsSource", "bundled_record", "bundled_subset"),
    *("is_bundled", "load_checkpoint", "load_cifar10", "load_weights", "networks", "randomize"),
    *("register", "resolve"),
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


@pytest.mark.parametrize(
    "first", ["repr_models.networks.lenet", "repr_models.spec", "repr_models.weights.loading"]
)
def test_networks_is_the_function_whatever_is_imported_first(first: str) -> None:
    """The folder of the families has the function's name."""
    code = (
        f"import {first}, repr_models.networks.vgg; from repr_models import networks; "
        "import repr_models; assert networks is repr_models.networks; print(len(list(networks())))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(result.stdout) > 40


def test_every_error_is_a_models_error() -> None:
    errors = [getattr(repr_models, name) for name in PUBLIC if name.endswith("Error")]
    assert len(errors) == 6
    assert all(issubclass(error, repr_models.ModelsError) for error in errors)
    assert issubclass(repr_models.ModelsError, ValueError)
