"""The optimizers: SGD with Nesterov's momentum, and Muon."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repr_models.errors import TrainingError
from repr_models.training.recipe import Recipe

_ORTHOGONAL = 0.2
"""Of the learning rate, for orthogonal updates; models/README.md says what others brought."""
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 3


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What trains ``network`` by ``recipe``. Biases and norms' parameters carry no weight decay.

    Raises :class:`TrainingError` for Muon and a network that normalises nothing.
    """
    if recipe.optimizer == "muon":
        return Muon(network, recipe)
    on_gpu = next(network.parameters()).is_cuda
    return torch.optim.SGD(
        _by_decay(list(network.parameters()), recipe),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        # On a GPU one kernel updates all, and takes a learning rate that lies there.
        fused=True if on_gpu else None,
    )


def _by_decay(parameters: Sequence[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    return [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """SGD whose steps of convolutions are made orthogonal (Jordan et al. 2024, Muon; airbench).

    A convolution's weight is a matrix a group: (outputs, inputs · kernel). It steps along the
    orthogonal matrix nearest to its momentum, so that all its directions move equally far, and its norm
    stays the root of its outputs; what scale that takes from the network, its norms give back. All
    other parameters step as by SGD with Nesterov's momentum.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        if not normalises(network):
            raise TrainingError(
                f"{type(network).__name__} does not normalise what its convolutions give, which Muon "
                f"counts on; give --optimizer sgd"
            )
        self._groups = {
            module.weight: module.groups
            for module in network.modules()
            if isinstance(module, nn.Conv2d)
        }
        self._dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        others = [p for p in network.parameters() if p not in self._groups]
        convolved = {"params": list(self._groups), "orthogonal": True}
        defaults = {
            "lr": recipe.learning_rate,
            "momentum": recipe.momentum,
            "weight_decay": 0.0,
            "orthogonal": False,
        }
        super().__init__([convolved, *_by_decay(others, recipe)], defaults)
        with torch.no_grad():
            self._rescale(list(self._groups))

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """One step in place, of the parameters that have a gradient; waits for no device."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            momentum, rate = group["momentum"], group["lr"]
            gradients = [p.grad for p in parameters]
            if group["weight_decay"]:
                decay = torch._foreach_mul(parameters, group["weight_decay"])
                gradients = list(torch._foreach_add(gradients, decay))
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            updates = list(torch._foreach_add(gradients, buffers, alpha=momentum))
            if group["orthogonal"]:
                updates = self._orthogonal(parameters, updates)
                rate = rate * _ORTHOGONAL
            torch._foreach_mul_(updates, rate)
            torch._foreach_sub_(parameters, updates)
            if group["orthogonal"]:
                self._rescale(parameters)

    def _matrices(self, parameter: Tensor, values: Tensor) -> Tensor:
        """``values`` of a weight, a matrix a group: (groups, outputs, inputs · kernel)."""
        groups = self._groups[parameter]
        return values.reshape(groups, len(values) // groups, -1)

    def _orthogonal(self, parameters: Sequence[Tensor], updates: Sequence[Tensor]) -> list[Tensor]:
        """For each update what is orthogonal in its place; equal shapes are dealt with at once."""
        alike = defaultdict[torch.Size, list[int]](list)
        matrices = [self._matrices(p, u) for p, u in zip(parameters, updates, strict=True)]
        for index, matrix in enumerate(matrices):
            alike[matrix.shape[1:]].append(index)
        found = list(updates)
        for indices in alike.values():
            stacked = orthogonalised(torch.cat([matrices[i] for i in indices]).to(self._dtype))
            parts = torch.split(stacked, [len(matrices[i]) for i in indices])
            for i, part in zip(indices, parts, strict=True):
                found[i] = part.reshape(updates[i].shape).to(updates[i].dtype)
        return found

    def _rescale(self, parameters: Sequence[Tensor]) -> None:
        """Each matrix to the norm that an orthogonal one of so many outputs has."""
        for parameter in parameters:
            matrix = self._matrices(parameter, parameter)
            norms = matrix.norm(dim=(1, 2), keepdim=True)
            scale = matrix.shape[1] ** 0.5 / norms
            # Rounding is left alone, so that a step at a rate of zero changes nothing.
            scale = torch.where((scale - 1).abs() < 1e-6, 1.0, scale)
            parameter.mul_(scale.expand((*matrix.shape[:2], 1)).reshape(-1, 1, 1, 1))


def normalises(network: nn.Module) -> bool:
    """Whether a network has BatchNorms or GroupNorms."""
    return any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in network.modules())


def orthogonalised(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to ``matrices`` (N, rows, columns), roughly, in their dtype.

    Three rounds of the iteration of Newton and Schulz, of fifth degree, with coefficients that
    bring singular values near 1 fast and not exactly (Jordan et al. 2024). They go over the square
    X Xᵀ, a ninth of the size of a 3×3 convolution's matrix X, which is multiplied once, at the end.
    """
    high = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if high else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    square = x @ x.mT
    product = factor = _polynomial(square)
    for _ in range(_ITERATIONS - 1):
        square = factor @ square @ factor
        factor = _polynomial(square)
        product = factor @ product
    x = product @ x
    return x.mT if high else x


def _polynomial(square: Tensor) -> Tensor:
    """The sum a + b S + c S², of square matrices S (N, rows, rows)."""
    a, b, c = _NEWTON_SCHULZ
    value = torch.baddbmm(square, square, square, beta=b, alpha=c)
    value.diagonal(dim1=1, dim2=2).add_(a)
    return value
