"""What a network is: its data set, its contract with the export, and the table of all that register."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from repr_models.errors import DuplicateNetworkError

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[[], "nn.Module"]
P = ParamSpec("P")

MULTIPLY_ADDS_FILE = "multiply_adds.json"
"""Each network's multiply-adds by name, written by ``python -m repr_models.count``."""


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
class Published:
    """A checkpoint that others published for a network, which it loads unchanged, strictly.

    ``source`` names the library and its weights (``"torchvision ResNet50_Weights.IMAGENET1K_V1"``).
    ``sha256`` is the file's hex digest, or its first 8 or more digits where the publisher
    states no more than these in the file's name. ``top1`` is the publisher's accuracy (0 to 1)
    on ImageNet's validation images. ``renames`` are pairs of a regular expression and its
    replacement, applied in order to each name in the file, where those are not the network's.
    Raises ``ValueError`` if the digest, the URL or an expression is none.
    """

    source: str
    url: str
    sha256: str
    top1: float
    renames: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for pattern, _ in self.renames:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256):
            raise ValueError(f"sha256 must be 8 to 64 hex digits, got {self.sha256!r}")
        if not re.match(r"https?://[^/]+/.*[^/]$", self.url):
            raise ValueError(f"url must be the http(s) address of a file, got {self.url!r}")
        if not 0 < self.top1 <= 1:
            raise ValueError(f"top1 must lie in 0 < top1 <= 1, got {self.top1}")


def torchvision(
    network: str, file: str, sha256: str, top1: float, renames: tuple[tuple[str, str], ...] = ()
) -> Published:
    """The ``IMAGENET1K_V1`` weights of ``network``, in ``file-DIGITS.pth``."""
    digits = sha256[:8] if len(sha256) == 64 else sha256
    return Published(
        source=f"torchvision {network}_Weights.IMAGENET1K_V1",
        url=f"https://download.pytorch.org/models/{file}-{digits}.pth",
        sha256=sha256,
        top1=top1,
        renames=renames,
    )


@dataclass(frozen=True)
class NetworkSpec:
    """One variant of a network: everything that export and training need to know of it.

    ``builder`` makes the network, which takes (N, *input_shape) float32 and, in eval mode,
    gives logits (N, classes) float32. Submodules whose names begin with one of
    ``training_only`` (auxiliary heads) serve training alone: in training mode the network
    gives a tuple, the logits and theirs. ``parameters`` counts trainable values and ``fold``
    the BatchNorms, both without them.

    ``bar`` is the least top-1 (0 to 1) on the 10,000 test images that a checkpoint must reach
    to be measured by default, ``reported`` the top-1 there that others report of the network or the
    nearest to it, and where, ``recipe`` what ``repr-train`` does otherwise than by default,
    ``published`` the checkpoint that ``repr-export`` downloads. ``smallest_side`` is the
    height and width of the smallest square image that the network takes. ``own_preprocessing``
    replaces the data set's.
    """

    builder: Builder
    name: str
    family: str
    dataset: Dataset
    parameters: int
    fold: FoldContract
    bar: float | None = None
    reported: str = ""
    published: Published | None = None
    own_preprocessing: Preprocessing | None = None
    smallest_side: int = 32
    training_only: tuple[str, ...] = ()
    recipe: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The name without its data set."""
        return self.name.split(".")[0]

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image to the network's input: its own, or else its data set's."""
        return self.own_preprocessing or self.dataset.preprocessing

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        crop = self.preprocessing.crop
        return (3, crop, crop)

    @property
    def multiply_adds(self) -> int | None:
        """Of one input's way through the network in eval mode; None if none are stored."""
        return stored_multiply_adds().get(self.name)

    def is_below_bar(self, top1: float) -> bool:
        """Whether a checkpoint of this accuracy (0 to 1) misses the bar; never where there is none."""
        return self.bar is not None and top1 < self.bar

    def is_training_only(self, name: str) -> bool:
        """Whether the submodule, parameter or buffer ``name`` serves training alone."""
        return any(name == part or name.startswith(f"{part}.") for part in self.training_only)

    def build(self) -> nn.Module:
        """A new network with freshly initialised parameters, in training mode."""
        return self.builder()


registered: dict[str, NetworkSpec] = {}
"""The networks by name, in the order of their registration."""


def _decorator(
    make_spec: Callable[Concatenate[Builder, P], NetworkSpec],
) -> Callable[P, Callable[[Builder], Builder]]:
    def register(*args: P.args, **fields: P.kwargs) -> Callable[[Builder], Builder]:
        """Decorator: register the builder of a network, whose name is ``architecture.dataset``.

        The arguments are those of :class:`NetworkSpec`, but for the builder.
        Raises :class:`DuplicateNetworkError` if the name is taken and ``ValueError`` if it is
        not of that form.
        """

        def decorate(builder: Builder) -> Builder:
            spec = make_spec(builder, *args, **fields)
            if not re.fullmatch(rf"[a-z0-9_]+\.{spec.dataset.name}", spec.name):
                raise ValueError(
                    f"a network's name is architecture.{spec.dataset.name}, got {spec.name!r}"
                )
            if spec.name in registered:
                raise DuplicateNetworkError(spec.name)
            registered[spec.name] = spec
            return builder

        return decorate

    return register


register = _decorator(NetworkSpec)


@cache
def stored_multiply_adds() -> Mapping[str, int]:
    """Multiply-adds of one input by network name, as stored: counting takes a second a network."""
    text = resources.files("repr_models").joinpath(MULTIPLY_ADDS_FILE).read_text("utf-8")
    counts: dict[str, int] = json.loads(text)
    return counts
