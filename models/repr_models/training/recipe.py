"""The recipe: how a network is trained, and its learning rate at any time.

He et al. 2016 §4.2 (padding by 4, random crop and flip, SGD, weight decay) with Nesterov
momentum, or Muon, a linear warm-up and a cosine decay to zero (Loshchilov, Hutter 2017).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from repr_models.errors import TrainingError

PADDINGS = ("zeros", "reflection")
"""What lies around an image, for random crops of it."""
OPTIMIZERS = ("sgd", "muon")
_SIZE_STEP = 4
_GROWN_AFTER = 0.6


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
    padding: str = "zeros"
    precision: str = "fp32"
    optimizer: str = "sgd"
    initial_size: int | None = None
    """Pixels of a side in the first epoch, from which images grow (Howard 2018, DAWNBench)."""

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
        for what, word, known in (
            ("padding", self.padding, PADDINGS),
            ("the optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, ("fp32", "bf16")),
        ):
            if word not in known:
                raise TrainingError(f"{what} must be {' or '.join(known)}, got {word!r}")
        if self.initial_size is not None and self.initial_size < 1:
            raise TrainingError(f"the initial size must be 1 or more, got {self.initial_size}")

    def as_dict(self) -> dict[str, Any]:
        """Its fields by name, as records and runs say it; what came later only where it is used."""
        found = asdict(self)
        if self.padding == PADDINGS[0]:
            del found["padding"]
        if self.optimizer == OPTIMIZERS[0]:
            del found["optimizer"]
        if self.initial_size is None:
            del found["initial_size"]
        return found

    def size_at(self, epoch: int, full: int) -> int:
        """Pixels of a side in the epoch of that number, from 0; ``full`` from 0.6 of the epochs on.

        Until then it grows in steps of 4, for equally many epochs each.
        """
        sizes = range(self.initial_size or full, full, _SIZE_STEP)
        step = int(epoch / (_GROWN_AFTER * self.epochs) * len(sizes))
        return sizes[step] if step < len(sizes) else full

    def cost_at(self, epoch: int, full: int) -> float:
        """What the epoch of that number costs, by its pixels, of one at ``full`` size."""
        return (self.size_at(epoch, full) / full) ** 2

    def rate(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs (a fraction counts).

        Linear from (almost) 0 to the peak over the warm-up, then half a cosine to 0.
        """
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1e-3) / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
