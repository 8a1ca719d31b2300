"""The network in PyTorch itself on a GPU, in the precision of the graph: eager, and compiled.

Host to host an input lies ready in pinned memory as float32, is copied, cast there, and float32
comes back: what an artifact's graph is given and gives. TF32 is off, as in ours.
"""

from __future__ import annotations

import copy
import importlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from repr_bench.measuring.tf32 import allow_tf32
from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed
from repr_bench.peers.torch import INSTALL, build_network
from repr_bench.peers.trials import median_seconds
from repr_runtime.cuda.driver import cuda_status

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_TRIAL_SECONDS = 0.1
_RECOMPILED = 1000
_GRAPH_CALLS = 3
"""A CUDA graph is made of the second call of a compiled network, and replayed from the third on."""


class GpuRunner:
    """Eager mode, in the memory layout that is the faster for the batch.

    All weights are of the graph's precision (no autocast); cuDNN tries its algorithms out.
    ``device`` "cpu" runs the same there, for tests.
    """

    way, _grad = "eager", "inference_mode"

    def __init__(self, workload: Workload, device: str = "cuda") -> None:
        import torch

        self._torch: Any = torch
        self._device, self._precision = device, workload.precision
        allow_tf32(allowed=False)
        torch.backends.cudnn.benchmark = True
        network = build_network(workload, tuple(_DTYPES)).eval()
        self._dtype: Any = getattr(torch, _DTYPES[workload.precision])
        network = network.to(device, self._dtype)
        self._networks: dict[str, Any] = {
            "contiguous": network,
            "channels_last": copy.deepcopy(network).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        }

    def prepare(self, arrays: Arrays) -> Prepared:
        layouts = ["contiguous", "channels_last"] if arrays[0].ndim == 4 else ["contiguous"]
        took = {
            layout: median_seconds(self._host_call(layout, arrays), _TRIAL_SECONDS)
            for layout in layouts
        }
        return self._prepared(min(took, key=lambda layout: took[layout]), arrays)

    def _prepared(self, layout: str, arrays: Arrays) -> Prepared:
        network = self._networks[layout]
        pinned = self._pinned(layout, arrays)
        there = [tensor.to(self._device) for tensor in pinned]
        settings = (
            f"torch {self._torch.__version__} {self.way}, {_DTYPES[self._precision]}, TF32 off, "
            f"{layout}, from pinned memory"
        )
        return Prepared(
            logits=lambda given: self._host_call(layout, given)().numpy(),
            call=self._host_call(layout, arrays),
            settings=settings,
            at_once=partial(self._burst, network, pinned),
            on_gpu=partial(self._on_gpu, network, there),
        )

    def _pinned(self, layout: str, arrays: Arrays) -> list[torch.Tensor]:
        formats = {"channels_last": self._torch.channels_last}
        form = formats.get(layout, self._torch.contiguous_format)
        tensors = [self._torch.from_numpy(each).contiguous(memory_format=form) for each in arrays]
        return [each.pin_memory() for each in tensors] if self._device == "cuda" else tensors

    def _host_call(self, layout: str, arrays: Arrays) -> Callable[[], torch.Tensor]:
        pinned, network = self._pinned(layout, arrays), self._networks[layout]
        return lambda: self._run(network, pinned).cpu()  # which waits for it

    def _run(self, network: Any, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The first output as float32 on the device; what is queued need not be done."""
        with self._without_gradients():
            there = [each.to(self._device, non_blocking=True).to(self._dtype) for each in tensors]
            found: torch.Tensor = network(*there)
            return found.float()

    def _without_gradients(self) -> Any:
        return getattr(self._torch, self._grad)()

    def _on_gpu(self, network: Any, tensors: list[torch.Tensor]) -> None:
        self._run(network, tensors)
        self._wait()

    def _burst(self, network: Any, tensors: list[torch.Tensor], times: int) -> None:
        """Batch after batch is queued, and waited for once."""
        target = None
        for _ in range(times):
            found = self._run(network, tensors)
            if target is None:
                target = self._torch.empty(found.shape, pin_memory=self._device == "cuda")
            target.copy_(found, non_blocking=True)
        self._wait()

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def close(self) -> None:
        del self._networks
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


class CompiledGpuRunner(GpuRunner):
    """``torch.compile`` in one of its modes, channels_last, compiled anew for each batch size.

    Compiling for all of them has ``workload.compile_seconds``. It runs under ``no_grad``: what a
    CUDA graph keeps from run to run breaks where it was made in inference mode.
    """

    _grad = "no_grad"

    def __init__(self, workload: Workload, mode: str, device: str = "cuda") -> None:
        super().__init__(workload, device)
        self.way = f"compiled, mode {mode}"
        self._mode, self._left = mode, workload.compile_seconds
        self._plain = dict(self._networks)
        let_compile_often()

    def prepare(self, arrays: Arrays) -> Prepared:
        layout = "channels_last" if arrays[0].ndim == 4 else "contiguous"
        before = time.monotonic()
        try:
            with given_up_after(self._left):
                self._networks = dict(self._plain)
                self._networks[layout] = self._torch.compile(
                    self._plain[layout], mode=self._mode, dynamic=False
                )
                prepared = self._prepared(layout, arrays)
                for _ in range(_GRAPH_CALLS):
                    prepared.call()
        except GivenUp:
            self._left = 0.0
            stop_compiling()
            raise PeerAbsentError(
                f"compiling in mode {self._mode} took longer than it may (--compile-seconds)"
            ) from None
        finally:
            self._left -= time.monotonic() - before
        return prepared

    def close(self) -> None:
        self._plain.clear()
        self._torch.compiler.reset()
        super().close()


def let_compile_often() -> None:
    """Beyond its limit of one function's compilations, torch runs it eagerly, with a warning."""
    config: Any = importlib.import_module("torch._dynamo.config")
    config.recompile_limit = _RECOMPILED


def stop_compiling() -> None:
    """What torch's own processes still compile would disturb the others."""
    with suppress(Exception):  # a private name, and none that must be there
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()


class GivenUp(BaseException):
    """No ``Exception``: a compiler takes those for a candidate that does not work, and goes on."""


@contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """Raise :class:`GivenUp` in the block after so many seconds, and again each second.

    Only the main thread can be interrupted so; in others the block comes to its end.
    """
    if seconds <= 0:
        raise GivenUp
    if seconds == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise GivenUp

    handler = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _why_not() -> str | None:
    if not cuda_status().devices:
        return cuda_status().reason
    if (reason := not_installed("torch", INSTALL)()) is not None:
        return reason
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} has no CUDA here"


def _compiled(mode: str) -> Callable[[Workload], CompiledGpuRunner]:
    return partial(CompiledGpuRunner, mode=mode)


PEERS = (
    Peer("torch-cuda", GpuRunner, _why_not, device="gpu"),
    Peer("torch.compile-cuda", _compiled("reduce-overhead"), _why_not, device="gpu"),
    Peer("torch.max-autotune-cuda", _compiled("max-autotune"), _why_not, device="gpu"),
)
