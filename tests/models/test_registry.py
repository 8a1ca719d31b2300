"""The registry: names, contracts and what each registered network really is."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from layer_costs import on_meta
from torch import nn

from repr_models import (
    CIFAR10,
    IMAGENET,
    Dataset,
    DuplicateNetworkError,
    FoldContract,
    NetworkSpec,
    UnknownNetworkError,
    networks,
    register,
    registry,
    resolve,
)
from repr_models.spec import registered

ALL = list(networks())


@pytest.fixture
def scratch_registry() -> Iterator[None]:
    """Registrations of the test alone are forgotten behind it."""
    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


def a_network(name: str, dataset: Dataset = CIFAR10) -> None:
    register(name, family="f", dataset=dataset, parameters=0, fold=FoldContract(0))(nn.Identity)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_a_network_is_what_its_spec_states(spec: NetworkSpec) -> None:
    network = on_meta(spec.name)
    logits = network(torch.empty(2, *spec.input_shape, device="meta"))
    assert logits.shape == (2, spec.dataset.class_count)
    deployed = [p for n, p in network.named_parameters() if not spec.is_training_only(n)]
    assert sum(p.numel() for p in deployed) == spec.parameters
    norms = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not spec.is_training_only(name)
    ]
    assert len(norms) == spec.fold.batchnorms
    assert spec.fold.folded == spec.fold.batchnorms - spec.fold.kept
    assert spec.name == f"{spec.architecture}.{spec.dataset.name}"
    assert spec.family
    if spec.smallest_side < spec.input_shape[1]:
        small = torch.empty(2, 3, spec.smallest_side, spec.smallest_side, device="meta")
        assert network(small).shape == logits.shape


@pytest.mark.parametrize(
    ("dataset", "first", "last"), [(CIFAR10, "airplane", "truck"), (IMAGENET, "tench", "toilet")]
)
def test_labels_are_the_classes_in_order(dataset: Dataset, first: str, last: str) -> None:
    assert len(dataset.labels) == dataset.class_count == len(set(dataset.labels))
    assert dataset.labels[0] == first
    assert dataset.labels[-1].startswith(last)
    assert all(label == label.strip() and label for label in dataset.labels)


@pytest.mark.usefixtures("scratch_registry")
def test_a_name_is_registered_once() -> None:
    a_network("net1.cifar10")
    with pytest.raises(DuplicateNetworkError, match=r"'net1\.cifar10' is already registered"):
        a_network("net1.cifar10")


@pytest.mark.parametrize("name", ["net1", "net1.imagenet", "Net1.cifar10", "a.b.cifar10", ""])
@pytest.mark.usefixtures("scratch_registry")
def test_a_name_says_architecture_and_dataset(name: str) -> None:
    with pytest.raises(ValueError, match=r"architecture\.cifar10, got"):
        a_network(name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet21", "resnet20"), ("lenet", "lenet5"), ("plan20", "plain20")]
)
def test_an_unknown_name_gives_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNetworkError, match=f"{name!r}; did you mean .*{nearest}") as caught:
        resolve(name)
    assert nearest in caught.value.nearest


def test_a_name_like_no_other_gives_three_all_the_same() -> None:
    with pytest.raises(UnknownNetworkError, match=r"'zzz'; did you mean \w+, \w+, \w+\?$"):
        resolve("zzz")


def test_a_full_name_is_taken_as_it_is() -> None:
    assert resolve(" ResNet50.ImageNet ").name == "resnet50.imagenet"


@pytest.mark.parametrize("bundled", ["net2.cifar10", "net2.imagenet"])
@pytest.mark.usefixtures("scratch_registry")
def test_a_bare_name_means_the_bundled_variant(
    bundled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_network("net2.cifar10")
    a_network("net2.imagenet", IMAGENET)
    monkeypatch.setattr(registry, "is_bundled", lambda spec: spec.name == bundled)
    assert resolve("net2").name == bundled


@pytest.mark.usefixtures("scratch_registry")
def test_a_bare_name_with_nothing_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_bundled", lambda _: False)
    a_network("net2.cifar10")
    assert resolve("net2").name == "net2.cifar10"
    a_network("net2.imagenet", IMAGENET)
    assert resolve("net2").name == "net2.imagenet"


def test_a_fold_contract_keeps_no_more_than_there_are_and_says_why() -> None:
    for kept in (4, -1):
        with pytest.raises(ValueError, match=rf"0\.\.3, got {kept}"):
            FoldContract(3, kept, "a reason")
    with pytest.raises(ValueError, match="2 BatchNorms are kept, but no reason"):
        FoldContract(3, 2)
    assert FoldContract(3, 2, "behind a padded convolution").folded == 1


def test_every_family_module_registers_something() -> None:
    modules = {getattr(spec.builder, "func", spec.builder).__module__ for spec in ALL}
    assert modules == {f"repr_models.networks.{name}" for name in registry.FAMILY_MODULES}


def test_the_order_is_that_of_the_families_whichever_is_imported_first() -> None:
    program = (
        "import repr_models.networks.{first}\n"
        "from repr_models import networks\n"
        "print([spec.name for spec in networks()])"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program.format(first=first)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for first in ("lenet", "googlenet", "shufflenet")
    }
    assert len(orders) == 1
    names = ["lenet5.cifar10", "alexnet.cifar10", "alexnet.imagenet", "vgg16.cifar10"]
    assert orders.pop().startswith(str(names)[:-1])


def test_a_published_file_is_named_by_the_digest_that_it_must_have() -> None:
    named = [s.published for s in ALL if s.published and s.published.url.endswith(".pth")]
    assert len(named) > 15
    for published in named:
        digits = published.url.removesuffix(".pth").rsplit("-", 1)[1]
        assert published.sha256.startswith(digits)
