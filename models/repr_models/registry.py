"""Every network of the package by name: what it is, what it takes, what its graph must become."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from repr_models.errors import DuplicateNetworkError, UnknownNetworkError
from repr_models.weights import is_bundled

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[[], "nn.Module"]

FAMILY_MODULES = ("lenet", "resnet")
"""The modules that register networks, one a family; loaded at the first look-up."""


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image of uint8 to the network's input (3, crop, crop) float32.

    The shorter side is resized to ``resize`` pixels (bilinear, antialiased), the centre
    ``crop`` pixels are cut out, and each channel becomes ``(value / 255 - mean) / std``.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """What a network was made for: a name, the classes and the preprocessing."""

    name: str
    class_count: int
    preprocessing: Preprocessing
    labels_file: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the logits."""
        text = (
            resources.files("repr_models").joinpath("labels", self.labels_file).read_text("utf-8")
        )
        return tuple(text.splitlines())


CIFAR10 = Dataset(
    name="cifar10",
    class_count=10,
    # mean and deviation of the training images' pixels, a channel
    preprocessing=Preprocessing(
        resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),
    labels_file="cifar10.txt",
)

IMAGENET = Dataset(
    name="imagenet",
    class_count=1000,
    preprocessing=Preprocessing(
        resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    labels_file="imagenet.txt",
)


@dataclass(frozen=True)
class FoldContract:
    """How many BatchNorms a network has and how many must stay in its folded graph, and why.

    Raises ``ValueError`` if ``kept`` is no part of ``batchnorms`` or has no reason.
    """

    batchnorms: int
    kept: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= self.batchnorms:
            raise ValueError(f"kept must lie in 0..{self.batchnorms}, got {self.kept}")
        if self.kept and not self.reason:
            raise ValueError(f"{self.kept} BatchNorms are kept, but no reason is given")

    @property
    def folded(self) -> int:
        """How many BatchNorms the export must fold away."""
        return self.batchnorms - self.kept


@dataclass(frozen=True)
class NetworkSpec:
    """One variant of a network: everything that export and training need to know of it.

    ``parameters`` counts trainable values; ``builder`` makes the network, which takes
    (N, *input_shape) float32 and gives logits (N, classes) float32.
    """

    name: str
    family: str
    dataset: Dataset
    builder: Builder
    parameters: int
    fold: FoldContract

    @property
    def architecture(self) -> str:
        """The name without its data set."""
        return self.name.split(".")[0]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        crop = self.dataset.preprocessing.crop
        return (3, crop, crop)

    def build(self) -> nn.Module:
        """A new network with freshly initialised parameters, in training mode."""
        return self.builder()


_networks: dict[str, NetworkSpec] = {}


def register(
    name: str, *, family: str, dataset: Dataset, parameters: int, fold: FoldContract
) -> Callable[[Builder], Builder]:
    """Decorator: register ``builder`` as the network ``name`` (``architecture.dataset``).

    Raises :class:`DuplicateNetworkError` if the name is taken and ``ValueError`` if it is
    not of that form.
    """
    if not re.fullmatch(rf"[a-z0-9_]+\.{dataset.name}", name):
        raise ValueError(f"a network's name is architecture.{dataset.name}, got {name!r}")

    def decorate(builder: Builder) -> Builder:
        if name in _networks:
            raise DuplicateNetworkError(name)
        _networks[name] = NetworkSpec(name, family, dataset, builder, parameters, fold)
        return builder

    return decorate


@cache
def _load_families() -> None:
    for module in FAMILY_MODULES:
        importlib.import_module(f"repr_models.{module}")


def networks() -> Iterator[NetworkSpec]:
    """All registered networks, in the order of registration."""
    _load_families()
    yield from _networks.values()


def resolve(name: str) -> NetworkSpec:
    """The network called ``name``: ``resnet20.cifar10``, or ``resnet20`` for short.

    A bare name means the variant whose trained weights ship with the package; where none
    does, the only variant, or else the one for ImageNet.
    Raises :class:`UnknownNetworkError`, which lists the nearest names.
    """
    _load_families()
    key = name.strip().lower()
    if key in _networks:
        return _networks[key]
    variants = [spec for spec in _networks.values() if spec.architecture == key]
    if variants:
        bundled = [spec for spec in variants if is_bundled(spec)]
        published = [spec for spec in variants if spec.dataset is IMAGENET]
        return (bundled or published or variants)[0]
    known = sorted({*_networks, *(spec.architecture for spec in _networks.values())})
    raise UnknownNetworkError(name, difflib.get_close_matches(key, known, n=3), known)
