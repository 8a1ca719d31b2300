"""The network in PyTorch itself, with the weights that the artifact was made of: eager, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed
from repr_bench.peers.trials import median_seconds
from repr_runtime.machine import usable_cores

if TYPE_CHECKING:
    import torch
    from torch import nn

INSTALL = "pip install 'repr-deploy[bench]'"


class _Runner:
    """A network, and the library on as many threads as were asked for."""

    def __init__(self, workload: Workload) -> None:
        import torch

        if workload.precision == "bf16" and not computes_bf16(torch):
            raise PeerAbsentError(
                "PyTorch would only emulate bf16 here: the CPU has neither AVX512-BF16 nor AMX"
            )
        torch.set_num_threads(workload.threads or usable_cores())
        self._torch: Any = torch
        self._dtype: Any = torch.bfloat16 if workload.precision == "bf16" else torch.float32
        self._network: Any = build_network(workload, ("fp32", "bf16")).eval().to(self._dtype)

    def _settings(self, way: str) -> str:
        count = self._torch.get_num_threads()
        kind = ", bfloat16" if self._dtype == self._torch.bfloat16 else ""
        return f"{way}{kind}, {count} thread{'s' if count > 1 else ''}"

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        found: torch.Tensor = self._torch.from_numpy(array).to(self._dtype)
        return found

    def _run(self, network: Any, tensors: list[torch.Tensor]) -> torch.Tensor:
        with self._torch.inference_mode():
            found: torch.Tensor = network(*tensors)
            return found.float()

    def close(self) -> None:
        del self._network


class TorchRunner(_Runner):
    """Eager mode on the CPU, in the memory layout (contiguous, channels_last) that is the faster.

    Inputs lie ready as tensors of that layout and of the precision: what it costs to make them is
    not the peer's. The output is float32.
    """

    _like_last = False

    def prepare(self, arrays: Arrays) -> Prepared:
        layouts = {"contiguous": self._torch.contiguous_format}
        if arrays[0].ndim == 4:
            layouts["channels_last"] = self._torch.channels_last
        calls = {name: self._call(layout, arrays) for name, layout in layouts.items()}
        chosen = min(calls, key=lambda name: median_seconds(calls[name]))
        return Prepared(
            logits=lambda given: self._call(layouts[chosen], given)().numpy(),
            call=calls[chosen],
            settings=self._settings(f"torch {self._torch.__version__} eager, {chosen}"),
        )

    def _call(self, layout: Any, arrays: Arrays) -> partial[Any]:
        # The weights have the layout of the inputs, or every call would reorder them.
        tensors = [self._tensor(array).contiguous(memory_format=layout) for array in arrays]
        return partial(self._run_in, layout, tensors)

    def _run_in(self, layout: Any, tensors: list[torch.Tensor]) -> torch.Tensor:
        last = layout is self._torch.channels_last
        if last is not self._like_last:  # once a slice, in its first call, which is not counted
            self._network.to(memory_format=layout)
            self._like_last = last
        return self._run(self._network, tensors)


class CompiledRunner(_Runner):
    """``torch.compile`` with its defaults, compiled anew for each batch size."""

    def prepare(self, arrays: Arrays) -> Prepared:
        compiled = self._torch.compile(self._network, dynamic=False)

        def call_of(given: Arrays) -> partial[torch.Tensor]:
            return partial(self._run, compiled, [self._tensor(each) for each in given])

        call = call_of(arrays)
        call()  # it compiles here
        settings = self._settings(f"torch.compile of torch {self._torch.__version__}")
        return Prepared(lambda given: call_of(given)().numpy(), call, settings)

    def close(self) -> None:
        self._torch.compiler.reset()
        super().close()


def computes_bf16(torch: Any) -> bool:
    """Whether this CPU has instructions that PyTorch computes bfloat16 with."""
    asked = (f"_is_{name}_supported" for name in ("avx512_bf16", "amx_tile", "arm_bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def build_network(workload: Workload, precisions: Sequence[str] = ("fp32",)) -> nn.Module:
    """The registered network that the artifact was made of, with the very same parameters.

    They are float32; ``precisions`` are those that the caller can turn them into. Raises
    :class:`PeerAbsentError` where there is none, or its weights are not at hand.
    """
    from repr_models.errors import ModelsError
    from repr_models.registry import resolve
    from repr_models.weights.loading import RANDOM, load_weights

    network, weights = workload.manifest.network, workload.manifest.weights
    if workload.precision not in precisions:
        raise PeerAbsentError(f"PyTorch has no {workload.precision} graph of it to compare with")
    if network.source != "registry":
        raise PeerAbsentError("the artifact was not made of a registered network")
    if weights.kind not in ("bundled", "random"):
        raise PeerAbsentError(
            f"its weights came from a {weights.kind} source, and only bundled and random ones can "
            f"be had again"
        )
    try:
        spec = resolve(network.name)
        built = spec.build()
        source = load_weights(built, RANDOM if weights.kind == RANDOM else None, spec)
    except ModelsError as error:
        raise PeerAbsentError(str(error)) from error
    same = (source.kind, source.sha256) == (weights.kind, weights.sha256)
    if not same or (weights.kind == RANDOM and source.location != weights.location):
        raise PeerAbsentError(
            f"it was made of other weights ({weights.kind}, {weights.location}) than this version's; "
            f"export it again"
        )
    return built


PEERS = (
    Peer("torch", TorchRunner, not_installed("torch", INSTALL)),
    Peer("torch.compile", CompiledRunner, not_installed("torch", INSTALL)),
)
