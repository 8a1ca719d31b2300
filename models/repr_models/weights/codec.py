"""The codec of bundled checkpoints: fp16 and int8 weights in one safetensors file, and back.

What travels with the package must be small, and weights are what is large in it:

- tensors of one dimension (biases, BatchNorm's parameters and statistics) and integers stay as
  they are: they are few, and BatchNorm's variances do not bear rounding;
- tensors of more dimensions become fp16;
- of these, the ones with ``INT8_VALUES`` values or more become int8 with a float32 scale for
  each output channel (axis 0): ``value = scale * code``, codes -127..127, symmetric, rounded to
  nearest even. Smaller ones would save less than 8 KiB each, and are the first and the depthwise
  layers that eight bits hurt most.

The file says of itself how it is stored, in its metadata. A file without that is read as it is.
Version 1 is of networks whose parameter-free shortcuts padded zeros behind the channels, version 2
of those that pad them on both sides (:mod:`repr_models.weights.padding`); all else is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from repr_models.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

INT8_VALUES = 8_192
"""From how many values on a tensor is stored in int8."""

METADATA_KEY = "repr-deploy"  # one key: safetensors writes several in no fixed order
SCALE_SUFFIX = "::scale"  # no name of a parameter holds a colon
VERSION = 2
_WAY_OUT = "install the package again, or save the tensors alone"


def encode(state: Mapping[str, Tensor], *, exact: bool = False) -> bytes:
    """The file of ``state``: tensors by name, float ones float32 or narrower, on any device.

    ``exact``: all as they are. The same tensors give the same bytes. Raises :class:`WeightsError`
    for a name that ends as those of the scales do and, unless ``exact``, values that are not finite.
    """
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    encoding: dict[str, str] = {}
    for name, value in state.items():
        if name.endswith(SCALE_SUFFIX):
            raise WeightsError(f"{name!r} cannot be stored: {SCALE_SUFFIX!r} marks scales")
        tensor = value.detach().cpu().contiguous()
        if exact or not (tensor.is_floating_point() and tensor.ndim > 1):
            stored[name] = tensor
            continue
        tensor = tensor.float()
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{name} holds values that are not finite, which cannot be stored")
        half = tensor.half()
        if tensor.numel() >= INT8_VALUES:
            stored[name], stored[name + SCALE_SUFFIX] = _to_int8(tensor)
            encoding[name] = "int8"
        elif bool(half.isfinite().all()):
            stored[name] = half
            encoding[name] = "fp16"
        else:  # beyond fp16's range
            stored[name] = tensor
    described = json.dumps({"version": VERSION, "encoding": encoding}, sort_keys=True)
    return save(stored, metadata={METADATA_KEY: described})


def _to_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 of the tensor's shape and scales float32 (channels,)."""
    import torch

    rows = tensor.flatten(1)
    scale = rows.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes.reshape(tensor.shape), scale


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file of :func:`encode`, float32 again; of any other file, as they are.

    ``tensors`` and ``metadata`` are what safetensors reads. Raises :class:`WeightsError`,
    which does not name the file, if they contradict each other.
    """
    import torch

    if METADATA_KEY not in metadata:
        return dict(tensors)
    decoded = dict(tensors)
    for name, how in _described(metadata)[1].items():
        if name not in tensors:
            raise WeightsError(f"its metadata describes {name}, which it does not hold; {_WAY_OUT}")
        if how == "fp16":
            if tensors[name].dtype != torch.float16:
                raise WeightsError(
                    f"{name} is said to be fp16 and is {_type(tensors[name])}; {_WAY_OUT}"
                )
            decoded[name] = tensors[name].float()
        elif how == "int8":
            scale = decoded.pop(name + SCALE_SUFFIX, None)
            decoded[name] = _from_int8(name, tensors[name], scale)
        else:
            raise WeightsError(
                f"{name} is stored as {how!r}, which this version does not read; update the package"
            )
    if strays := [name for name in decoded if name.endswith(SCALE_SUFFIX)]:
        raise WeightsError(f"it holds {strays[0]}, a scale of no int8 tensor; {_WAY_OUT}")
    return decoded


def version_of(metadata: Mapping[str, str]) -> int | None:
    """The version of a file of :func:`encode`, None of any other; raises :class:`WeightsError`."""
    return _described(metadata)[0] if METADATA_KEY in metadata else None


def _described(metadata: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    try:
        described = json.loads(metadata[METADATA_KEY])
        version, encoding = described["version"], described["encoding"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"its metadata on how it is stored is damaged; {_WAY_OUT}") from error
    if version not in range(1, VERSION + 1):
        raise WeightsError(
            f"it is stored in version {version!r}, this one reads up to {VERSION}; "
            f"update the package"
        )
    if not isinstance(encoding, dict):
        raise WeightsError(f"its metadata on how it is stored is damaged; {_WAY_OUT}")
    return version, encoding


def _from_int8(name: str, tensor: Tensor, scale: Tensor | None) -> Tensor:
    import torch

    if tensor.dtype != torch.int8 or tensor.ndim < 2:
        raise WeightsError(
            f"{name} is said to be int8 of two dimensions or more and is {_type(tensor)} of "
            f"{tensor.ndim}; {_WAY_OUT}"
        )
    if scale is None:
        raise WeightsError(f"{name} is int8 and has no scale; {_WAY_OUT}")
    if scale.dtype != torch.float32 or scale.shape != tensor.shape[:1]:
        raise WeightsError(
            f"the scale of {name} is {_type(scale)} {tuple(scale.shape)}, expected float32 "
            f"({tensor.shape[0]},); {_WAY_OUT}"
        )
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise WeightsError(f"the scale of {name} is not finite and above 0; {_WAY_OUT}")
    return tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe(content: bytes) -> dict[str, Any]:
    """What a record says of the file ``content``: its bytes, and the values of each type."""
    from safetensors.torch import load

    values: dict[str, int] = {}
    for tensor in load(content).values():
        values[_type(tensor)] = values.get(_type(tensor), 0) + tensor.numel()
    return {"bytes": len(content), "values": dict(sorted(values.items()))}
