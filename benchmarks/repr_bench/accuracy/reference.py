"""The network that an artifact was exported from, where it can be had again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from repr_bench.artifacts import export_options
from repr_bench.request import is_own

if TYPE_CHECKING:
    from repr_runtime import Manifest

TORCH = "the torch network"
ORIGINAL = "the original network"

Network = Callable[[NDArray[Any]], NDArray[Any]]
"""From inputs (n, 3, height, width) float32 to logits (n, classes)."""


def original_network(
    target: str, own: Sequence[str], precisions: Sequence[str], manifest: Manifest
) -> tuple[Network, str] | None:
    """What ``manifest`` was exported from, and what it is called; None if it cannot be had.

    It is ``target``, where that was exported to the cache with ``own``, options of `repr-export`,
    in ``precisions``, and takes any batch size; else see :func:`torch_network`. Raises what opening it raises.
    """
    if not is_own(target) and not own:
        network = torch_network(manifest)
        return None if network is None else (network, TORCH)
    from repr_export.sources.opening import open_source

    first = manifest.inputs[0]
    if len(manifest.inputs) > 1 or not isinstance(first.shape[0], str):
        return None
    source = open_source(target, export_options(target, own, precisions))

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        return next(iter(source.reference({first.name: inputs}).values()))

    return run, ORIGINAL


def torch_network(manifest: Manifest) -> Network | None:
    """The registered network with the very bundled weights that ``manifest`` names, in fp32.

    None if it is no registered network, its weights are not those bundled with this version
    (they may be fetched or changed, but only these are surely the same), or torch is missing.
    """
    from repr_models.errors import UnknownNetworkError
    from repr_models.registry import resolve
    from repr_models.weights.bundled import bundled_record, is_bundled
    from repr_models.weights.loading import load_weights

    if manifest.weights.kind != "bundled" or manifest.network.source != "registry":
        return None
    try:
        spec = resolve(manifest.network.name)
    except UnknownNetworkError:
        return None
    if not is_bundled(spec) or manifest.weights.sha256 != bundled_record(spec)["weights_sha256"]:
        return None
    try:
        import torch
    except ImportError:
        return None
    network = spec.build()
    load_weights(network, None, spec)
    # With the channels last, torch takes down to half of its CPU time, for the same sums.
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        images = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits: NDArray[Any] = network(images).numpy()
        return logits

    return run
