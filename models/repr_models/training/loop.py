"""The loop: a network and its optimizer, one epoch, the test.

Auxiliary heads and the order of the images are dealt with here; the checkpoint is that of the
last epoch, none is picked by its test accuracy.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.errors import TrainingError
from repr_models.spec import NetworkSpec
from repr_models.training.augment import ResidentImages, augment
from repr_models.training.cpu import quicken
from repr_models.training.optimizer import make_optimizer
from repr_models.training.recipe import Recipe

TakeStep = Callable[[Tensor, Tensor, Tensor, float], None]
"""One step on images and labels, adding to totals as :func:`take_step` does, at a learning rate."""


@dataclass
class TrainingState:
    """A network in training: what is done, on what, and how far it is, in whole epochs."""

    spec: NetworkSpec
    recipe: Recipe
    seed: int
    device: torch.device
    network: nn.Module
    optimizer: torch.optim.Optimizer
    memory_format: torch.memory_format = torch.channels_last
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """What resuming needs, on any device: tensors and plain values, for ``torch.save``."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what :meth:`as_dict` gave."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch = saved["epoch"]
        self.history = saved["history"]


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed there, and faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network there, its weights laid out as :class:`ResidentImages` are."""
    # torch's stubs know no .to() with a memory format.
    placed: nn.Module = network.to(  # type: ignore[call-overload]
        device=device, memory_format=torch.channels_last
    )
    return placed


def _prepare(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.memory_format:
    """Make the network, in place, train faster in bfloat16 on a CPU; returns how images shall lie.

    torch has a fast GroupNorm in bfloat16 for channels first alone: a step of resnet56_gn takes
    0.52 times as long (torch 2.13, AVX512-BF16, one thread).
    """
    if not (recipe.precision == "bf16" and device.type == "cpu"):
        return torch.channels_last
    quicken(network)
    if not any(isinstance(module, nn.GroupNorm) for module in network.modules()):
        return torch.channels_last
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return torch.contiguous_format


def start(spec: NetworkSpec, recipe: Recipe, seed: int, device: torch.device) -> TrainingState:
    """A fresh network of ``spec``, initialised from ``seed``, and its optimizer.

    Raises :class:`TrainingError` if that is not for this network.
    """
    torch.manual_seed(seed)
    network = on_device(spec.build(), device)
    memory_format = _prepare(network, recipe, device)
    optimizer = make_optimizer(network, recipe)
    return TrainingState(spec, recipe, seed, device, network, optimizer, memory_format)


def take_step(state: TrainingState, images: Tensor, labels: Tensor, totals: Tensor) -> None:
    """Forward, backward and update in place; adds the loss and the right answers to ``totals`` (2,).

    ``images`` (N, 3, H, W) float32 and ``labels`` (N,) int64 lie on the network's device.
    Nothing here waits for the device, so that a CUDA graph can hold it.
    """
    recipe = state.recipe
    low = recipe.precision == "bf16"
    images = images.contiguous(memory_format=state.memory_format)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
        output = state.network(images)
    # Auxiliary heads come behind the logits, and count 0.3 each (Szegedy et al. 2015, §5).
    logits, *auxiliary = output if isinstance(output, tuple) else (output,)
    smoothing = recipe.label_smoothing
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    for head in auxiliary:
        loss = loss + 0.3 * F.cross_entropy(head.float(), labels, label_smoothing=smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    totals[0] += loss.detach()
    totals[1] += (logits.detach().argmax(1) == labels).sum()


def train_epoch(
    state: TrainingState,
    data: ResidentImages,
    tick: Callable[[int, int], None] | None = None,
    take: TakeStep | None = None,
) -> dict[str, float]:
    """One epoch in place; returns its mean loss, training accuracy (augmented) and seconds.

    The order, the augmentation and torch's own stream (dropout) follow from the seed and
    the epoch alone, so a resumed run sees what an uninterrupted one sees. Images that do
    not fill a last batch are left out of this epoch. ``tick`` gets (batches done, batches).
    ``take`` takes the steps, if given, on a GPU. Raises :class:`TrainingError` if the images do not
    fill one batch or the loss diverges.
    """
    began = time.perf_counter()
    recipe, device = state.recipe, data.images.device
    epoch_seed = state.seed * 1_000_003 + state.epoch
    torch.manual_seed(epoch_seed)
    generator = torch.Generator().manual_seed(epoch_seed)
    order = torch.randperm(len(data), generator=generator).to(device)
    batches = count_batches(data, recipe)
    totals = torch.zeros(2, device=device)
    size = recipe.size_at(state.epoch, data.images.shape[-1])
    state.network.train()
    for step in range(batches):
        rate = recipe.rate(state.epoch + step / batches)
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images, labels = (
            augment(data.images[chosen], generator, recipe.padding),
            data.labels[chosen],
        )
        if size != images.shape[-1]:
            images = _resized(images, size)
        if take is not None:
            take(images, labels, totals, rate)
        else:
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            take_step(state, images, labels, totals)
        if tick is not None:
            tick(step + 1, batches)
    state.epoch += 1
    loss_sum, correct = totals.tolist()
    mean_loss = loss_sum / batches
    if not math.isfinite(mean_loss):
        raise TrainingError(
            f"training diverged in epoch {state.epoch} (loss {mean_loss}); "
            f"lower --learning-rate and --restart"
        )
    return {
        "epoch": state.epoch,
        "learning_rate": recipe.rate(state.epoch),
        "train_loss": mean_loss,
        "train_top1": correct / (batches * recipe.batch_size),
        "seconds": time.perf_counter() - began,
    }


def _resized(images: Tensor, size: int) -> Tensor:
    """``images`` (N, 3, H, W) smaller, each of its pixels what lay around it there."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def refuse_sizes(state: TrainingState, data: ResidentImages) -> None:
    """Raise :class:`TrainingError` if the network does not run at each size that training starts with."""
    recipe, full = state.recipe, data.images.shape[-1]
    if recipe.initial_size is None:
        return
    if recipe.initial_size > full:
        raise TrainingError(f"images have {full} pixels a side, less than {recipe.initial_size}")
    if state.device.type == "cuda":
        raise TrainingError("on a GPU steps are captured at one size; leave --initial-size out")
    state.network.eval()
    for size in sorted({recipe.size_at(epoch, full) for epoch in range(recipe.epochs)}):
        try:
            with torch.no_grad():
                state.network(_resized(data.images[:2], size))
        except RuntimeError as error:
            raise TrainingError(
                f"{state.spec.name} does not take images of {size}x{size}: give a larger "
                f"--initial-size, or leave it out"
            ) from error


def count_batches(data: ResidentImages, recipe: Recipe) -> int:
    """The whole batches of an epoch; raises :class:`TrainingError` if there is none."""
    batches = len(data) // recipe.batch_size
    if not batches:
        raise TrainingError(
            f"{len(data)} images do not fill one batch of {recipe.batch_size}; lower --batch-size"
        )
    return batches


@torch.no_grad()
def evaluate(network: nn.Module, data: ResidentImages, batch_size: int = 500) -> float:
    """Top-1 accuracy (0 to 1) of ``network`` in eval mode and float32."""
    network.eval()
    correct = 0
    with torch.compiler.set_stance("force_eager"):  # blocks compiled for training are not anew
        for begin in range(0, len(data), batch_size):
            logits = network(data.images[begin : begin + batch_size])
            correct += int((logits.argmax(1) == data.labels[begin : begin + batch_size]).sum())
    return correct / len(data)
