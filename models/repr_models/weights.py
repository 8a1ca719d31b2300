"""Where a network's parameters come from: the package, a file of the user's, or a seeded draw."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_models.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from repr_models.registry import NetworkSpec

RANDOM = "random"
_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_LISTED = 8
_REINSTALL = "install the package again"


@dataclass(frozen=True)
class WeightsSource:
    """Which parameters a network got: ``kind`` is ``bundled``, ``file`` or ``random``.

    ``location`` is the file's name or the seed, ``sha256`` that of the file (None for
    random ones), ``record`` what training wrote of it (empty where there is none).
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
    network: nn.Module, weights: str | Path | None, spec: NetworkSpec
) -> WeightsSource:
    """Load parameters into ``network`` in place and say where they came from.

    ``weights`` is None (bundled), ``"random"`` (drawn from a seed made of the network's
    name: for latency, not for accuracy) or a file's path.
    Raises :class:`WeightsError` if there are none, or they do not fit.
    """
    if weights == RANDOM:
        seed = randomize(network, spec.name, spec.input_shape)
        return WeightsSource("random", f"seed {seed}", None, {})
    if weights is not None:
        return load_checkpoint(network, Path(weights))
    if not is_bundled(spec):
        raise WeightsError(
            f"no trained weights of {spec.name} ship with the package; give a checkpoint with "
            f"--weights FILE, or --weights random for latency alone"
        )
    path, record = bundled_path(spec), bundled_record(spec)
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if record.get("weights_sha256") != digest:
        raise WeightsError(
            f"{path} is not the file that its record describes (SHA-256 {digest}, "
            f"expected {record.get('weights_sha256')}); {_REINSTALL}"
        )
    _load(network, content, path)
    return WeightsSource("bundled", path.name, digest, record)


def load_checkpoint(network: nn.Module, path: str | Path) -> WeightsSource:
    """Load a ``.safetensors`` file or a ``torch.save`` file into ``network``, strictly, in place.

    Understands a state dict nested under ``state_dict``, ``model`` and the like, and the
    prefixes ``module.`` of DataParallel and ``_orig_mod.`` of torch.compile. Code in a
    pickle is refused, not run. Raises :class:`WeightsError`, which lists missing and
    unexpected keys and differing shapes, and then leaves ``network`` as it was.
    """
    path = Path(path)
    content = _read(path)
    _load(network, content, path)
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


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}; give the path of a file, or 'random'")
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def _load(network: nn.Module, content: bytes, path: Path) -> None:
    if path.suffix.lower() == ".safetensors":
        loaded = _parse_safetensors(content, path)
    else:
        loaded = _parse_pickle(content, path)
    state = _state_dict(loaded, path)
    _check_fit(network, state, path)
    network.load_state_dict(state, strict=True)


def _parse_safetensors(content: bytes, path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}); fetch or save it again"
        ) from error


def _parse_pickle(content: bytes, path: Path) -> object:
    import torch

    way_out = "save the tensors alone, with torch.save(network.state_dict(), FILE)"
    try:
        with warnings.catch_warnings():
            # About pickle protocols; what matters is said by the error that follows.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"asks for {asked[1]}, which is code and was not run"
            if asked
            else "holds a pickle of something else than tensors"
        )
        raise WeightsError(f"{path} {reason}; {way_out}") from error
    except Exception as error:  # torch raises many kinds here, all of them about this file
        raise WeightsError(f"{path} is damaged or is not a torch.save file; {way_out}") from error


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    import torch

    state = loaded
    for _ in range(3):  # a state dict may lie one or two dicts deep
        if not isinstance(state, Mapping):
            break
        nested = next((k for k in _NESTED_KEYS if isinstance(state.get(k), Mapping)), None)
        if nested is None:
            break
        state = state[nested]
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a dict of tensors")
    strange = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"{path} holds values that are not tensors ({_listed(strange)}); a state dict is "
            f"looked for at the top and under {', '.join(_NESTED_KEYS)}"
        )
    tensors = {str(key): value for key, value in state.items()}
    while prefix := next((p for p in _PREFIXES if _all_start_with(tensors, p)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _all_start_with(keys: Mapping[str, object], prefix: str) -> bool:
    return bool(keys) and all(key.startswith(prefix) for key in keys)


def _check_fit(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    # Old checkpoints lack this counter, which evaluation does not read.
    for key in own:
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = own[key]
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} is {tuple(state[key].shape)}, the network's is {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = [f"{what}: {_listed(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{path} does not fit the network; {'; '.join(found)}")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{', '.join(keys[:_LISTED])}{more}"
