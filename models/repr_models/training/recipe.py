"""Training on CIFAR-10: the recipe, one epoch, the test and the record of what was done.

Recipe: He et al. 2016 §4.2 (padding by 4, random crop and flip, SGD, weight decay) with
Nesterov momentum, a linear warm-up and a cosine decay to zero (Loshchilov, Hutter 2017).
The checkpoint is that of the last epoch: none is picked by its test accuracy.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.data.images import ImageSet
from repr_models.errors import TrainingError
from repr_models.spec import NetworkSpec


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the learning rate is the peak of the schedule.

    Raises :class:`TrainingError` for values that cannot be trained with.
    """

    epochs: int = 160
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for what, value in (
            ("epochs", self.epochs),
            ("batch size", self.batch_size),
            ("learning rate", self.learning_rate),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise TrainingError(f"the {what} must be finite and more than 0, got {value}")
        for what, value, limit in (
            ("momentum", self.momentum, 1.0),
            ("weight decay", self.weight_decay, math.inf),
            ("warm-up", self.warmup_epochs, math.inf),
            ("label smoothing", self.label_smoothing, 1.0),
        ):
            if not 0 <= value < limit:
                raise TrainingError(f"the {what} must lie in 0 <= value < {limit}, got {value}")
        if self.precision not in ("fp32", "bf16"):
            raise TrainingError(f"precision must be fp32 or bf16, got {self.precision!r}")

    def rate(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs (a fraction counts).

        Linear from (almost) 0 to the peak over the warm-up, then half a cosine to 0.
        """
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1e-3) / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass
class TrainingState:
    """Everything that resuming needs: after ``epoch`` whole epochs, on any device."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int
    history: list[dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for ``torch.save``."""
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


def start(spec: NetworkSpec, recipe: Recipe, seed: int, device: torch.device) -> TrainingState:
    """A fresh network of ``spec``, initialised from ``seed``, and its optimizer.

    Biases and BatchNorm parameters carry no weight decay.
    """
    torch.manual_seed(seed)
    network = spec.build()
    # torch's stubs know no .to() with a memory format.
    network = network.to(  # type: ignore[call-overload]
        device=device, memory_format=torch.channels_last
    )
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )
    return TrainingState(network, optimizer, 0, [])


class ResidentImages:
    """A data set on the device: normalised images (N, 3, H, W) float32 and labels (N,) int64."""

    def __init__(self, data: ImageSet, spec: NetworkSpec, device: torch.device) -> None:
        pre = spec.preprocessing
        mean = torch.tensor(pre.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(pre.std).view(1, 3, 1, 1) * 255
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))).float()
        self.images = ((images - mean) / std).to(device, memory_format=torch.channels_last)
        self.labels = torch.from_numpy(data.labels).to(device)

    def __len__(self) -> int:
        return len(self.images)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, 3, H, W) padded by 4 zeros, cropped at a random place and flipped or not.

    The result has the shape of ``images``; the draws come from ``generator``, on the CPU.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    draw = torch.rand(3, count, generator=generator)
    offsets = (draw[:2] * 9).long()
    columns = offsets[1].view(-1, 1) + torch.arange(width)
    columns = torch.where(draw[2].view(-1, 1) < 0.5, columns.flip(1), columns)
    rows = (offsets[0].view(-1, 1) + torch.arange(height)).to(images.device)
    index = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Advanced indices around a slice: the result is (N, H, W, 3), which is channels_last.
    picked = padded[index, :, rows.view(count, -1, 1), columns.to(images.device).view(count, 1, -1)]
    return picked.permute(0, 3, 1, 2)


def train_epoch(
    state: TrainingState,
    data: ResidentImages,
    recipe: Recipe,
    seed: int,
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """One epoch in place; returns its mean loss, training accuracy (augmented) and seconds.

    The order, the augmentation and torch's own stream (dropout) follow from ``seed`` and
    the epoch alone, so a resumed run sees what an uninterrupted one sees. Images that do
    not fill a last batch are left out of this epoch. ``tick`` gets (batches done, batches).
    Raises :class:`TrainingError` if the images do not fill one batch or the loss diverges.
    """
    began = time.perf_counter()
    device = data.images.device
    epoch_seed = seed * 1_000_003 + state.epoch
    torch.manual_seed(epoch_seed)
    generator = torch.Generator().manual_seed(epoch_seed)
    order = torch.randperm(len(data), generator=generator)
    batches = len(data) // recipe.batch_size
    if not batches:
        raise TrainingError(
            f"{len(data)} images do not fill one batch of {recipe.batch_size}; lower --batch-size"
        )
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    state.network.train()
    for step in range(batches):
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.rate(state.epoch + step / batches)
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size].to(device)
        images, labels = augment(data.images[chosen], generator), data.labels[chosen]
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
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
        loss_sum += loss.detach()
        correct += (logits.detach().argmax(1) == labels).sum()
        if tick is not None:
            tick(step + 1, batches)
    state.epoch += 1
    mean_loss = float(loss_sum) / batches
    if not math.isfinite(mean_loss):
        raise TrainingError(
            f"training diverged in epoch {state.epoch} (loss {mean_loss}); "
            f"lower --learning-rate and --restart"
        )
    return {
        "epoch": state.epoch,
        "learning_rate": recipe.rate(state.epoch),
        "train_loss": mean_loss,
        "train_top1": float(correct) / (batches * recipe.batch_size),
        "seconds": time.perf_counter() - began,
    }


@torch.no_grad()
def evaluate(network: nn.Module, data: ResidentImages, batch_size: int = 500) -> float:
    """Top-1 accuracy (0 to 1) of ``network`` in eval mode and float32."""
    network.eval()
    correct = 0
    for begin in range(0, len(data), batch_size):
        logits = network(data.images[begin : begin + batch_size])
        correct += int((logits.argmax(1) == data.labels[begin : begin + batch_size]).sum())
    return correct / len(data)


def make_record(
    spec: NetworkSpec,
    recipe: Recipe,
    seed: int,
    state: TrainingState,
    train_data: ImageSet,
    test_data: ImageSet,
    top1: dict[str, float],
    weights_sha256: str,
    storage: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """What a checkpoint's JSON says of it: enough to make it again and to judge it.

    ``top1`` was measured with the weights as they are stored, which ``storage`` describes.
    """
    return {
        "schema": 1,
        "network": spec.name,
        "weights_sha256": weights_sha256,
        "storage": storage,
        "parameters": spec.parameters,
        "accuracy": top1,
        "recipe": asdict(recipe),
        "seed": seed,
        "data": {
            "train": {"description": train_data.description, "sha256": train_data.sha256},
            "test": {"description": test_data.description, "sha256": test_data.sha256},
        },
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "history": state.history,
    }
