"""Muon: orthogonal steps of what is convolved, SGD's of all else."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models import ImageSet, TrainingError, resolve
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import start, train_epoch
from repr_models.training.optimizer import make_optimizer, orthogonalised
from repr_models.training.recipe import Recipe

CPU = torch.device("cpu")
MUON = Recipe(epochs=3, batch_size=8, learning_rate=0.1, optimizer="muon")


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.same = nn.Conv2d(3, 8, 3, bias=False)
        self.groups = nn.Conv2d(8, 12, 3, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.groups(self.first(x) + self.same(x)))
        return cast("Tensor", self.head(self.norm(x).mean((2, 3))))

    def convolutions(self) -> dict[Tensor, int]:
        return {m.weight: m.groups for m in self.modules() if isinstance(m, nn.Conv2d)}


def take(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 9, 9, generator=generator)
    labels = torch.randint(5, (6,), generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize("shape", [(2, 16, 144), (3, 24, 10), (1, 8, 8), (5, 1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalised_keeps_directions_and_makes_them_equally_long(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(matrices.to(dtype))
    assert found.dtype == dtype
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    among = left.mT @ found.float() @ right.mT
    along = among.diagonal(dim1=1, dim2=2)
    # What was hardly there (of 8x8 the last one) is on its way.
    assert along.max() < 1.25
    assert along[:, :-1].numel() == 0 or along[:, :-1].min() > 0.45
    torch.testing.assert_close(among, torch.diag_embed(along), rtol=0, atol=0.03)


def test_a_step_of_a_convolution_is_orthogonal_in_each_of_its_groups() -> None:
    network = _Network()
    optimizer = make_optimizer(network, MUON)
    momentum = {weight: torch.zeros_like(weight) for weight in network.convolutions()}
    for step in range(3):
        before = {weight: weight.detach().clone() for weight in momentum}
        take(network, optimizer, step)
        for weight, groups in network.convolutions().items():
            assert weight.grad is not None
            momentum[weight] = 0.9 * momentum[weight] + weight.grad
            wanted = weight.grad + 0.9 * momentum[weight]
            for own, old, along in zip(
                weight.chunk(groups),
                before[weight].chunk(groups),
                wanted.chunk(groups),
                strict=True,
            ):
                matrix = orthogonalised(along.flatten(1)[None])[0].view_as(along)
                moved = old - 0.1 * 0.2 * matrix
                torch.testing.assert_close(own, moved * len(own) ** 0.5 / moved.norm())


def test_all_else_steps_as_by_sgd() -> None:
    one, other = _Network(), _Network()
    optimizers = make_optimizer(one, MUON), make_optimizer(other, Recipe(learning_rate=0.1))
    for step in range(3):
        with torch.no_grad():  # what comes out of the convolutions is the same
            for mine, theirs in zip(one.convolutions(), other.convolutions(), strict=True):
                theirs.copy_(mine)
        for network, optimizer in zip((one, other), optimizers, strict=True):
            take(network, optimizer, step)
    theirs_by_name = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        if parameter.ndim < 4:
            torch.testing.assert_close(parameter, theirs_by_name[name], msg=name)


def test_a_learning_rate_may_lie_on_the_device() -> None:
    one, other = _Network(), _Network()
    optimizers = [make_optimizer(network, MUON) for network in (one, other)]
    for group in optimizers[1].param_groups:
        group["lr"] = torch.tensor(0.1)
    for network, optimizer in zip((one, other), optimizers, strict=True):
        take(network, optimizer, 0)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_has_no_gradient_stays() -> None:
    network = _Network()
    optimizer = make_optimizer(network, MUON)
    before = network.same.weight.detach().clone()
    network.same.weight.requires_grad_(False)
    take(network, optimizer, 0)
    assert torch.equal(network.same.weight, before)


def test_a_network_that_normalises_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match="--optimizer sgd"):
        start(resolve("alexnet.cifar10"), MUON, 0, CPU)


def test_it_learns_and_a_resumed_run_is_the_same_run(
    colours: Callable[[int, int], ImageSet],
) -> None:
    spec = resolve("resnet20.cifar10")
    data = ResidentImages(colours(240, 0), spec, CPU)
    recipe = replace(MUON, batch_size=16, learning_rate=0.03)
    whole = start(spec, recipe, 0, CPU)
    train_epoch(whole, data)
    resumed = start(spec, recipe, 1, CPU)
    resumed.seed = 0
    resumed.restore(copy.deepcopy(whole.as_dict()))
    losses = [
        [train_epoch(state, data)["train_loss"] for _ in range(2)] for state in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert losses[0][-1] < 1.0, losses
