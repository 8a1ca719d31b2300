"""Where a network's parameters come from: the package, a publisher, a file, or a seeded draw."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_models.errors import WeightsError
from repr_models.weights.checkpoint import load_content, read_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from repr_models.registry import NetworkSpec, Published
    from repr_models.weights.download import Progress

RANDOM = "random"
_REINSTALL = "install the package again"


@dataclass(frozen=True)
class WeightsSource:
    """Which parameters a network got: ``kind`` is ``bundled``, ``published``, ``file`` or ``random``.

    ``location`` is the file's name, its address (published ones) or the seed, ``sha256`` that
    of the file (None for random ones), ``record`` what training wrote of it (empty where there
    is none); of published ones, ``source`` and ``published_top1`` (0 to 1), as stated by others.
    """

    kind: str
    location: str
    sha256: str | None
    record: Mapping[str, Any]


def bundled_path(spec: NetworkSpec) -> Path:
    """Where the bundled checkpoint of ``spec`` lies, or would lie."""
    return Path(str(resources.files("repr_models"))) / "bundled" / f"{spec.name}.safetensors"


def is_bundled(spec: NetworkSpec) -> bool:
    """Whether trained weights of ``spec`` ship with the package."""
    return bundled_path(spec).is_file()


def bundled_record(spec: NetworkSpec) -> dict[str, Any]:
    """What training recorded of the bundled checkpoint: recipe, seed, versions, accuracy, data.

    Raises :class:`WeightsError` if the record is missing or unreadable.
    """
    path = bundled_path(spec).with_suffix(".json")
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); {_REINSTALL}") from error
    return record


def load_weights(
    network: nn.Module,
    weights: str | Path | None,
    spec: NetworkSpec,
    *,
    progress: Progress | None = None,
) -> WeightsSource:
    """Load parameters into ``network`` in place and say where they came from.

    ``weights`` is None (the bundled ones, else the published ones, from the cache or
    downloaded into it, of which ``progress`` is told), ``"random"`` (drawn from a seed made of
    the network's name: for latency, not for accuracy) or a file's path.
    Raises :class:`WeightsError` if there are none, or they do not fit.
    """
    if weights == RANDOM:
        seed = randomize(network, spec.name, spec.input_shape)
        return WeightsSource("random", f"seed {seed}", None, {})
    if weights is not None:
        return load_checkpoint(network, Path(weights), spec)
    if is_bundled(spec):
        return _load_bundled(network, spec)
    if spec.published is not None:
        return _load_published(network, spec, spec.published, progress)
    raise WeightsError(
        f"no trained weights of {spec.name} ship with the package; give a checkpoint with "
        f"--weights FILE, or --weights random for latency alone"
    )


def _load_bundled(network: nn.Module, spec: NetworkSpec) -> WeightsSource:
    path, record = bundled_path(spec), bundled_record(spec)
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    if record.get("weights_sha256") != digest:
        raise WeightsError(
            f"{path} is not the file that its record describes (SHA-256 {digest}, "
            f"expected {record.get('weights_sha256')}); {_REINSTALL}"
        )
    load_content(network, content, path, spec)
    return WeightsSource("bundled", path.name, digest, record)


def _load_published(
    network: nn.Module, spec: NetworkSpec, published: Published, progress: Progress | None
) -> WeightsSource:
    from repr_models.weights.download import fetch

    path = fetch(published, progress)
    content = read_file(path)
    load_content(network, content, path, spec, published.renames)
    record = {"source": published.source, "published_top1": published.top1}
    return WeightsSource("published", published.url, hashlib.sha256(content).hexdigest(), record)


def load_checkpoint(
    network: nn.Module, path: str | Path, spec: NetworkSpec | None = None
) -> WeightsSource:
    """Load a ``.safetensors`` file or a ``torch.save`` file into ``network``, strictly, in place.

    Understands a state dict nested under ``state_dict``, ``model`` and the like, the
    prefixes ``module.`` of DataParallel and ``_orig_mod.`` of torch.compile, and the files of
    :mod:`repr_models.weights.codec`. With ``spec``, the names of its published checkpoint are
    understood, and what serves training alone may be missing. Code in a pickle is refused, not
    run. Raises :class:`WeightsError`, which lists missing and unexpected keys and differing
    shapes, and then leaves ``network`` as it was.
    """
    path = Path(path)
    content = read_file(path)
    renames = spec.published.renames if spec is not None and spec.published is not None else ()
    load_content(network, content, path, spec, renames)
    return WeightsSource("file", path.name, hashlib.sha256(content).hexdigest(), {})


def randomize(network: nn.Module, name: str, input_shape: Sequence[int]) -> int:
    """Draw every parameter from a seed made of ``name``, in place; returns the seed.

    The same name gives the same network, whatever its own initialisation was. Weights of
    convolutions and linear layers keep the signal's size: variance 2 / fan_in (He et al.
    2015, §2.2). Scales and shifts of normalisations are drawn away from the identity,
    since folding an identity would prove nothing; BatchNorm statistics are those of four
    noise images of ``input_shape`` sent through the network, without which the signal of
    a deep network dies out or explodes. They are the same up to the rounding of the
    machine's convolutions.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    seed = zlib.crc32(name.encode())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.ndim > 1:
                draw = torch.randn(parameter.shape, generator=generator)
                draw *= (2.0 / parameter[0].numel()) ** 0.5
            else:
                low, high = (0.5, 1.5) if key.endswith("weight") else (-0.1, 0.1)
                draw = torch.rand(parameter.shape, generator=generator) * (high - low) + low
            parameter.copy_(draw)

        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        settings = [(module, module.momentum) for module in norms if module.track_running_stats]
        if not settings:
            return seed
        training = network.training
        network.eval()
        for module, _ in settings:
            module.reset_running_stats()
            module.momentum = None  # the plain average: here, of one batch
            module.train()
        network(_noise(input_shape, generator))
        for module, momentum in settings:
            module.momentum = momentum
        network.train(training)
    return seed


def _noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Four samples of noise at every octave, whose spectrum falls off as that of photographs.

    White noise looks alike everywhere to deep layers: their statistics would not fit images.
    """
    import torch
    from torch.nn import functional as F

    noise = torch.randn(4, *shape, generator=generator)
    if len(shape) == 3:
        side = min(shape[1:])
        while side := side // 2:
            coarse = torch.randn(4, shape[0], side, side, generator=generator)
            noise += F.interpolate(coarse, size=tuple(shape[1:]), mode="bilinear")
        noise /= noise.std()
    return noise
