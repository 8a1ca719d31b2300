"""Checkpoint files of every format, read without running code, and fitted to a network."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repr_models.errors import WeightsError
from repr_models.weights.codec import decode, version_of
from repr_models.weights.padding import with_zeros_on_both_sides

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repr_models.spec import NetworkSpec

LARGEST = 16 * 2**30
"""Bytes of a checkpoint's file at most, which is read at once."""

Renames = Sequence[tuple[str, str]]
_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_HEADS = ("fc", "linear", "head", "classifier")
_STATED_KEYS = ("best_prec1", "best_acc1", "best_acc", "acc")
_LISTED = 8


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that a network has: the top-1 that it states, 0 to 1, and what was changed in it.

    ``rewritten`` has a sentence for each change, but for names that its publisher is known to give.
    """

    top1: float | None
    rewritten: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The bytes of a checkpoint; raises :class:`WeightsError`."""
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}; give the path of a file, or 'random'")
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > LARGEST:
                raise WeightsError(
                    f"{path} has {size:,} bytes, a checkpoint at most {LARGEST:,}; save the tensors alone"
                )
            return stream.read()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        size = path.stat().st_size
        raise WeightsError(
            f"{path} has {size:,} bytes, for which there is no memory here"
        ) from error


def load_content(
    network: nn.Module,
    content: bytes,
    path: Path,
    spec: NetworkSpec | None = None,
    renames: Renames = (),
) -> Loaded:
    """Load the checkpoint ``content`` into ``network``, in place.

    ``path`` says by its suffix what it is a file of, and messages name it. Keys are renamed by
    the regular expressions ``renames``, in order, and those of a head of another usual name. All
    parameters and buffers must be there and fit, except that those which serve training alone, by
    ``spec``, may be missing together: they keep their values then. Shortcuts padded otherwise are
    moved (:mod:`repr_models.weights.padding`). Raises :class:`WeightsError`, and leaves
    ``network`` as it was.
    """
    version = None
    if path.suffix.lower() == ".safetensors":
        loaded, version = _parse_safetensors(content, path)
    else:
        loaded = _parse_pickle(content, path)
    state = _renamed(_state_dict(loaded, path), renames, path)
    state, head = _with_head_of(network, state)
    _check_fit(network, state, path, spec)
    fitted = with_zeros_on_both_sides(network, state, version)
    try:
        network.load_state_dict(fitted, strict=True)
    except Exception as error:  # of tensors that are sparse, quantized or nowhere
        raise WeightsError(
            f"{path} does not fit the network: {' '.join(str(error).split())[:300]}"
        ) from error
    moved = "" if fitted is state else "the zero channels of its shortcuts were moved to both sides"
    return Loaded(_stated_top1(loaded), tuple(filter(None, (head, moved))))


def _stated_top1(loaded: object) -> float | None:
    """What a training script kept of its test beside the state dict, in percent or as a share."""
    found = loaded if isinstance(loaded, Mapping) else {}
    for key in _STATED_KEYS:
        try:
            stated = float(found[key])
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
            continue
        if 0 < stated <= 100:
            return round(stated if stated <= 1 else stated / 100, 6)  # it may be a float32
    return None


def _parse_safetensors(content: bytes, path: Path) -> tuple[object, int | None]:
    """The tensors, and the codec's version where it wrote the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}); fetch or save it again"
        ) from error
    try:
        metadata = _metadata(content)
        return decode(tensors, metadata), version_of(metadata)
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be decoded: {error}") from error


def _metadata(content: bytes) -> dict[str, str]:
    """The free text of a whole safetensors file, whose header is JSON behind its length."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata


def _parse_pickle(content: bytes, path: Path) -> object:
    import torch

    way_out = "save the tensors alone, with torch.save(network.state_dict(), FILE)"
    _require_unpacked(content, path, way_out)
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


def _require_unpacked(content: bytes, path: Path, way_out: str) -> None:
    """Whether an archive says of itself that it has no more than it has: torch packs nothing."""
    if not content.startswith(b"PK"):
        return  # torch's older format, in which all stands for itself
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            stated = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # what zipfile raises shares no base
        raise WeightsError(f"{path} is damaged or is not a torch.save file; {way_out}") from error
    if stated > len(content):
        raise WeightsError(
            f"{path} has {len(content):,} bytes and says that {stated:,} are in it; {way_out}"
        )


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
    strange = [
        str(key)
        for key, value in state.items()
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_nested
    ]
    if strange:
        raise WeightsError(
            f"{path} holds values that are not dense tensors ({_listed(strange)}); a state dict is "
            f"looked for at the top and under {', '.join(_NESTED_KEYS)}"
        )
    tensors = {str(key): value for key, value in state.items()}
    while leading := [p for p in _PREFIXES if tensors and all(k.startswith(p) for k in tensors)]:
        tensors = {key.removeprefix(leading[0]): value for key, value in tensors.items()}
    return tensors


def _renamed(state: dict[str, Tensor], renames: Renames, path: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise WeightsError(f"{path} has two tensors for {new}: {key} is its old name")
        renamed[new] = value
    return renamed


def _with_head_of(network: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """``state`` with its last layer called as the network's, if both have a usual name; what was done."""
    own = network.state_dict()

    def head(keys: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
        return [n for n in _HEADS if f"{n}.weight" in keys and f"{n}.weight" not in others]

    match head(own, state), head(state, own):
        case [wanted], [given]:
            renamed = {
                f"{wanted}.{key.removeprefix(f'{given}.')}"
                if key.startswith(f"{given}.")
                else key: v
                for key, v in state.items()
            }
            return renamed, f"its last layer, {given}, was taken for {wanted}"
    return state, ""


def _check_fit(
    network: nn.Module, state: dict[str, Tensor], path: Path, spec: NetworkSpec | None
) -> None:
    """Raise unless ``state`` fits; what it may lack is added to it from ``network``."""
    own = network.state_dict()
    heads = [key for key in own if spec is not None and spec.is_training_only(key)]
    if not any(key in state for key in heads):
        state.update({key: own[key] for key in heads})
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
        "of another type": [
            f"{key} is {state[key].dtype}, the network's is {own[key].dtype}"
            for key in own
            if key in state and own[key].is_floating_point() > state[key].is_floating_point()
        ],
    }
    found = [f"{what}: {_listed(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{path} does not fit the network; {'; '.join(found)}")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{', '.join(f'{key:.100}' for key in keys[:_LISTED])}{more}"
