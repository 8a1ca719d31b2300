"""Every checkpoint that ships: whole, fitting, trained as recorded, and as accurate as recorded."""

import pytest
import torch
from scipy.stats import binom
from train_files import CIFAR10_SHA256

from repr_models import (
    ImageSet,
    NetworkSpec,
    bundled_record,
    bundled_subset,
    is_bundled,
    load_weights,
    networks,
)
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate, on_device
from repr_models.training.recipe import Recipe
from repr_models.weights.bundled import bundled_path

BUNDLED = [spec for spec in networks() if is_bundled(spec)]

# least top-1 on the 10,000 test images
FLOORS = {"lenet5.cifar10": 0.65, "resnet20.cifar10": 0.89, "plain20.cifar10": 0.86}


def test_all_that_is_bundled_is_small() -> None:
    folder = bundled_path(BUNDLED[0]).parent
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 60 * 2**20


def test_the_networks_of_the_first_artifacts_are_bundled() -> None:
    assert {spec.name for spec in BUNDLED} >= FLOORS.keys()


@pytest.mark.parametrize("spec", BUNDLED, ids=lambda spec: spec.name)
def test_a_bundled_checkpoint_is_what_its_record_says(spec: NetworkSpec) -> None:
    network = spec.build()
    source = load_weights(network, None, spec)  # strict, and the file's SHA-256 compared
    record = bundled_record(spec)
    assert source.kind == "bundled"
    assert source.sha256 == record["weights_sha256"]
    assert record["network"] == spec.name
    assert record["parameters"] == spec.parameters
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())

    for split, count in (("train", "50,000"), ("test", "10,000")):
        assert record["data"][split]["sha256"] == CIFAR10_SHA256[split]
        assert record["data"][split]["description"].endswith(f"all {count} images")
    assert {"torch", "numpy", "python"} <= record["versions"].keys()
    assert Recipe(**record["recipe"]).epochs == len(record["history"])
    assert record["history"][-1]["epoch"] == len(record["history"])
    # measured twice: before and after it was stored; a GPU may round otherwise besides
    last = record["history"][-1]["test_top1"]
    as_it_is = record.get("storage", {"store": "fp32"})["store"] == "fp32"
    near = 5e-4 if as_it_is else 5e-3
    assert last == pytest.approx(record["accuracy"]["test_top1"], abs=near)
    assert record["accuracy"]["test_top1"] >= FLOORS.get(spec.name, 0.5)


@pytest.mark.parametrize("spec", BUNDLED, ids=lambda spec: spec.name)
def test_top1_on_the_bundled_images_is_what_the_record_lets_expect(spec: NetworkSpec) -> None:
    network = spec.build()
    expected = load_weights(network, None, spec).record["accuracy"]["test_top1"]
    whole = bundled_subset()
    images = ImageSet(whole.images[::4], whole.labels[::4], "every fourth")
    cpu = torch.device("cpu")
    measured = evaluate(on_device(network, cpu), ResidentImages(images, spec, cpu), 100)
    low, high = binom.interval(0.999, len(images), expected)
    assert low <= measured * len(images) <= high
