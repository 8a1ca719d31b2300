"""The torch network that an artifact was exported from, where it can be built again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from repr_runtime import Manifest

Network = Callable[[NDArray[Any]], NDArray[Any]]
"""From inputs (n, 3, height, width) float32 to logits (n, classes)."""


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
    network.eval()

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = network(torch.from_numpy(inputs)).numpy()
        return logits

    return run
