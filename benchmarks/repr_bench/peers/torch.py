"""The network in PyTorch itself, with the weights that the artifact was made of: eager, compiled."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from repr_bench.peers.base import (
    Arrays,
    Peer,
    PeerAbsentError,
    Prepared,
    Runner,
    Work,
    not_installed,
    repeated,
)
from repr_bench.statistics import intervals as statistics
from repr_runtime.machine import usable_cores

if TYPE_CHECKING:
    import torch
    from torch import nn

    from repr_models.spec import NetworkSpec

_TRIAL_SECONDS = 0.3
_TRIAL_CALLS = 5
_INSTALL = "pip install 'repr-deploy[bench]'"


class TorchRunner:
    """Eager mode on the CPU, in the memory layout (contiguous, channels_last) that is the faster.

    Inputs lie ready as tensors of that layout: what it costs to make them is not the peer's.
    """

    def __init__(self, work: Work) -> None:
        import torch

        torch.set_num_threads(work.threads or usable_cores())
        self._network: Any = build_network(work).eval()
        self._torch = torch
        self._like_last = False

    def prepare(self, arrays: Arrays) -> Prepared:
        layouts = {"contiguous": self._torch.contiguous_format}
        if arrays[0].ndim == 4:
            layouts["channels_last"] = self._torch.channels_last
        calls = {name: self._call(layout, arrays) for name, layout in layouts.items()}
        chosen = min(calls, key=lambda name: _median_seconds(calls[name]))
        return Prepared(
            logits=lambda given: self._call(layouts[chosen], given)().numpy(),
            call=calls[chosen],
            burst=repeated(calls[chosen]),
            settings=f"torch {self._torch.__version__} eager, {chosen}, {_threads(self._torch)}",
        )

    def _call(self, layout: Any, arrays: Arrays) -> partial[Any]:
        # The weights have the layout of the inputs, or every call would reorder them.
        tensors = [
            self._torch.from_numpy(array).contiguous(memory_format=layout) for array in arrays
        ]
        return partial(self._run, layout, tensors)

    def _run(self, layout: Any, tensors: list[torch.Tensor]) -> torch.Tensor:
        last = layout is self._torch.channels_last
        if last is not self._like_last:  # once a slice, in its first call, which is not counted
            self._network.to(memory_format=layout)
            self._like_last = last
        with self._torch.inference_mode():
            found: torch.Tensor = self._network(*tensors)
            return found

    def close(self) -> None:
        del self._network


class CompiledRunner:
    """``torch.compile`` with its defaults, compiled anew for each batch size."""

    def __init__(self, work: Work) -> None:
        import torch

        torch.set_num_threads(work.threads or usable_cores())
        self._network = build_network(work).eval()
        self._torch = torch

    def prepare(self, arrays: Arrays) -> Prepared:
        library = self._torch
        compiled = library.compile(self._network, dynamic=False)

        def run(tensors: list[torch.Tensor]) -> torch.Tensor:
            with library.inference_mode():
                found: torch.Tensor = compiled(*tensors)
                return found

        def logits(given: Arrays) -> NDArray[Any]:
            found: NDArray[Any] = run([library.from_numpy(a) for a in given]).numpy()
            return found

        call = partial(run, [library.from_numpy(array) for array in arrays])
        call()  # it compiles here
        settings = f"torch.compile of torch {library.__version__}, {_threads(library)}"
        return Prepared(logits, call, repeated(call), settings)

    def close(self) -> None:
        self._torch.compiler.reset()
        del self._network


def build_network(work: Work) -> nn.Module:
    """The registered network that the artifact was made of, with the very same parameters.

    Raises :class:`PeerAbsentError` where there is none, or its weights are not at hand.
    """
    from repr_models.errors import ModelsError
    from repr_models.registry import resolve

    network, weights = work.manifest.network, work.manifest.weights
    if work.precision != "fp32":
        raise PeerAbsentError(f"PyTorch has no {work.precision} graph of it to compare with")
    if network.source != "registry":
        raise PeerAbsentError("the artifact was not made of a registered network")
    if weights.kind not in ("bundled", "random"):
        raise PeerAbsentError(
            f"its weights came from a {weights.kind} source, and only bundled and random ones can "
            f"be had again"
        )
    try:
        spec = resolve(network.name)
        return _loaded(spec, work)
    except ModelsError as error:
        raise PeerAbsentError(str(error)) from error


def _loaded(spec: NetworkSpec, work: Work) -> nn.Module:
    from repr_models.weights.loading import RANDOM, load_weights

    wanted = work.manifest.weights
    network = spec.build()
    source = load_weights(network, RANDOM if wanted.kind == RANDOM else None, spec)
    same = (source.kind, source.sha256) == (wanted.kind, wanted.sha256)
    if not same or (wanted.kind == RANDOM and source.location != wanted.location):
        raise PeerAbsentError(
            f"it was made of other weights ({wanted.kind}, {wanted.location}) than this version's; "
            f"export it again"
        )
    return network


def _median_seconds(call: partial[Any]) -> float:
    """The median of a few calls, after as many to warm up."""
    for _ in range(2):
        call()
    samples, begin = list[float](), time.perf_counter()
    while len(samples) < _TRIAL_CALLS or time.perf_counter() - begin < _TRIAL_SECONDS:
        before = time.perf_counter()
        call()
        samples.append(time.perf_counter() - before)
    return statistics.percentile(samples, 50)


def _threads(torch: Any) -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


def _eager(work: Work) -> Runner:
    return TorchRunner(work)


def _compiled(work: Work) -> Runner:
    return CompiledRunner(work)


PEERS = (
    Peer("torch", _eager, not_installed("torch", _INSTALL)),
    Peer("torch.compile", _compiled, not_installed("torch", _INSTALL)),
)
