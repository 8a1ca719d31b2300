"""A training step in a CUDA graph: small networks are bound by the launches of their kernels.

A captured step reads its images, labels and learning rate where they lie, and one launch runs
all of its kernels.
"""

import time

import torch
from torch import Tensor, nn

from repr_models.training.augment import ResidentImages
from repr_models.training.compiled import compile_blocks
from repr_models.training.loop import TrainingState, count_batches, take_step

_WARM_UP = 3


class CapturedStep:
    """The steps of ``state`` on a GPU, each one launch; the state is as before when it is made.

    With ``compiled`` its blocks run through torch.compile. For networks with convolutions of groups
    or single channels cuDNN is not asked to try its algorithms: on an H100 (torch 2.11, bf16) such
    networks had taken no step after two minutes of that. Raises ``RuntimeError`` as torch does if a
    network cannot be compiled or its step not captured.
    """

    def __init__(self, state: TrainingState, data: ResidentImages, *, compiled: bool) -> None:
        count_batches(data, state.recipe)
        self._state = state
        self._images = data.images[: state.recipe.batch_size].clone()
        self._labels = data.labels[: state.recipe.batch_size].clone()
        self._totals = torch.zeros(2, device=state.device)
        self._rate = torch.zeros((), device=state.device)
        for group in state.optimizer.param_groups:
            group["lr"] = self._rate
        grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in state.network.modules())
        torch.backends.cudnn.benchmark = not grouped
        state.network.train()
        if compiled:
            compile_blocks(state.network)
        self._graph = self._capture()
        self.seconds = self._time()
        """What one step takes, measured here."""

    def take(self, images: Tensor, labels: Tensor, totals: Tensor, rate: float) -> None:
        """One step at the learning rate ``rate``; what it adds to ``totals`` is as in ``take_step``."""
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._rate.fill_(rate)
        self._totals.zero_()
        self._graph.replay()
        totals += self._totals

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up on a stream of its own, as capture wants, and capture, at a learning rate of zero.

        That leaves parameters as they are; statistics and momentum are put back.
        """
        state = self._state
        self._rate.zero_()
        kept = {name: value.clone() for name, value in state.network.named_buffers()}
        momentum = {p: s["momentum_buffer"].clone() for p, s in state.optimizer.state.items() if s}
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                take_step(state, self._images, self._labels, self._totals)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            take_step(state, self._images, self._labels, self._totals)
        self._restore = kept, momentum
        self._put_back()
        return graph

    def _put_back(self) -> None:
        kept, momentum = self._restore
        for name, value in self._state.network.named_buffers():
            value.copy_(kept[name])
        for parameter, own in self._state.optimizer.state.items():
            if parameter in momentum:
                own["momentum_buffer"].copy_(momentum[parameter])
            else:
                own["momentum_buffer"].zero_()

    def _time(self) -> float:
        """Seconds of a step, by the clock, others on the device included."""
        torch.cuda.synchronize()
        began, steps = time.perf_counter(), 0
        while steps < 5 or time.perf_counter() - began < 0.5:
            self._graph.replay()
            torch.cuda.synchronize()
            steps += 1
        seconds = (time.perf_counter() - began) / steps
        self._put_back()
        return seconds
