"""Training: the schedule, the augmentation, learning, and that a resumed epoch is the same epoch."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repr_models import CIFAR10, FoldContract, ImageSet, NetworkSpec, TrainingError, resolve
from repr_models.networks.resnet import ResNet
from repr_models.networks.resnet_blocks import BasicBlock
from repr_models.training import loop
from repr_models.training.augment import ResidentImages, augment
from repr_models.training.loop import evaluate, refuse_sizes, start, train_epoch
from repr_models.training.recipe import Recipe

CPU = torch.device("cpu")


Colours = Callable[[int, int], ImageSet]


# --- the schedule ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, 0.2 * 1e-3 / 2),  # almost 0, but a step
        (0.5, 0.2 * 0.501 / 2),
        (1.5, 0.2 * 1.501 / 2),
        (2.0, 0.2),  # the peak
        (4.0, 0.2 * 0.5 * (1 + math.cos(math.pi / 4))),
        (6.0, 0.1),  # half of the decay
        (8.0, 0.2 * 0.5 * (1 - math.sqrt(0.5))),
        (10.0, 0.0),
        (11.0, 0.0),
    ],
)
def test_the_rate_rises_for_two_epochs_and_falls_by_a_cosine(epoch: float, expected: float) -> None:
    recipe = Recipe(epochs=10, learning_rate=0.2, warmup_epochs=2)
    assert recipe.rate(epoch) == pytest.approx(expected, abs=1e-12)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert Recipe(epochs=4, warmup_epochs=0, learning_rate=0.3).rate(0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", v) for v in (0, -1)),
        ("batch_size", 0),
        *(("learning_rate", v) for v in (0.0, -0.1, math.nan, math.inf)),
        *(("momentum", v) for v in (-0.1, 1.0)),
        *(("weight_decay", v) for v in (-1e-4, math.nan)),
        ("warmup_epochs", -1.0),
        *(("label_smoothing", v) for v in (-0.1, 1.0)),
        ("precision", "fp16"),
        ("padding", "edge"),
        ("optimizer", "adam"),
        ("initial_size", 0),
    ],
)
def test_a_recipe_that_cannot_be_trained_with_is_refused(field: str, value: float | str) -> None:
    with pytest.raises(TrainingError, match=f"got {value}|got '{value}'"):
        replace(Recipe(), **{field: value})  # type: ignore[arg-type]


def test_images_grow_for_six_tenths_of_the_epochs() -> None:
    recipe = Recipe(epochs=10, initial_size=20)
    assert [recipe.size_at(e, 32) for e in range(11)] == [20, 20, 24, 24, 28, 28, *5 * [32]]
    assert recipe.as_dict()["initial_size"] == 20
    assert {Recipe(epochs=10).size_at(e, 32) for e in range(11)} == {32}
    assert Recipe(initial_size=32).size_at(0, 32) == 32


# --- the augmentation -----------------------------------------------------------------------


def test_every_augmented_image_is_the_crop_and_flip_that_was_drawn() -> None:
    images = torch.randn(40, 3, 8, 6)
    before = images.clone()
    result = augment(images, torch.Generator().manual_seed(3))
    assert torch.equal(images, before)
    assert result.shape == images.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    # the same draws by hand: rows, columns, flip
    draw = torch.rand(3, 40, generator=torch.Generator().manual_seed(3))
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    for i in range(40):
        top, left = int(draw[0, i] * 9), int(draw[1, i] * 9)
        expected = padded[i, :, top : top + 8, left : left + 6]
        if draw[2, i] < 0.5:
            expected = expected.flip(2)
        assert torch.equal(result[i], expected)


# --- the test -------------------------------------------------------------------------------


def test_evaluate_counts_the_right_answers_in_eval_mode() -> None:
    class Blue(nn.Module):
        """Says class 2 where the third channel is bright, else class 0; wrong in training mode."""

        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, 2] = x[:, 2].mean((1, 2))
            return -logits if self.training else logits

    images = np.zeros((7, 32, 32, 3), np.uint8)
    images[:4, ..., 2] = 255
    labels = np.array([2, 2, 2, 5, 0, 0, 1], np.int64)
    data = ResidentImages(ImageSet(images, labels, "blue"), resolve("lenet5.cifar10"), CPU)
    for batch_size in (1, 3, 7, 500):
        assert evaluate(Blue(), data, batch_size) == 5 / 7


# --- training -------------------------------------------------------------------------------


def test_biases_and_batchnorms_carry_no_weight_decay() -> None:
    state = start(resolve("resnet20.cifar10"), Recipe(weight_decay=0.5), 0, CPU)
    names = {parameter: name for name, parameter in state.network.named_parameters()}
    decays = {
        names[parameter]: group["weight_decay"]
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(decays) == len(names)
    for name, decay in decays.items():
        free = "bn" in name or name.endswith("bias")
        assert decay == (0.0 if free else 0.5), name
    assert all(g["nesterov"] and g["momentum"] == 0.9 for g in state.optimizer.param_groups)


def test_the_seed_decides_the_first_parameters() -> None:
    spec = resolve("lenet5.cifar10")
    first, same, other = (start(spec, Recipe(), seed, CPU).network for seed in (1, 1, 2))
    assert torch.equal(first.get_parameter("fc1.weight"), same.get_parameter("fc1.weight"))
    assert not torch.equal(first.get_parameter("fc1.weight"), other.get_parameter("fc1.weight"))


@pytest.mark.parametrize(
    ("name", "precision", "channels_first"),
    [("resnet56_gn", "bf16", True), ("resnet56_gn", "fp32", False), ("resnet20", "bf16", False)],
)
def test_group_norms_in_bf16_lie_channels_first_with_their_images(
    name: str, precision: str, channels_first: bool, colours: Colours
) -> None:
    spec = resolve(f"{name}.cifar10")
    recipe = Recipe(epochs=1, batch_size=2, precision=precision)
    state = start(spec, recipe, 0, CPU)
    seen: list[Tensor] = []
    state.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    train_epoch(state, ResidentImages(colours(2, 0), spec, CPU))
    lying = (seen[0], state.network.get_parameter("conv1.weight"))
    assert [tensor.is_contiguous() for tensor in lying] == 2 * [channels_first]


def small_resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1], [8, 16], 10, stem="cifar", shortcut="pad")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_separable_set_is_learnt(precision: str, colours: Colours) -> None:
    spec = NetworkSpec(small_resnet, "small.cifar10", "resnet", CIFAR10, 0, FoldContract(5))
    recipe = Recipe(epochs=10, batch_size=20, learning_rate=0.1, precision=precision)
    state = start(spec, recipe, 0, CPU)
    data, unseen = (ResidentImages(colours(*of), spec, CPU) for of in ((200, 0), (100, 5)))
    for images in (data, unseen):  # a quarter of the pixels shows it as well
        images.images = nn.functional.avg_pool2d(images.images, 2)
    rows = [train_epoch(state, data) for _ in range(recipe.epochs)]
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    assert rows[0]["train_loss"] > 1
    assert rows[-1]["train_loss"] < 0.3
    assert rows[-1]["train_top1"] > 0.85
    assert evaluate(state.network, unseen) > 0.9
    assert rows[-1]["learning_rate"] == 0
    assert all(p.dtype == torch.float32 for p in state.network.parameters())


class WithDropout(nn.Module):
    """Draws from torch's own stream in every step, as AlexNet and VGG do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.drop(self.bn(self.conv(x)).relu().flatten(1)))
        return result


def test_an_epoch_after_resuming_is_the_epoch_without(colours: Colours) -> None:
    spec = NetworkSpec(WithDropout, "dropout.cifar10", "test", CIFAR10, 0, FoldContract(1))
    recipe = Recipe(epochs=2, batch_size=8)
    data = ResidentImages(colours(24, 0), spec, CPU)
    whole = start(spec, recipe, 7, CPU)
    first = train_epoch(whole, data)
    saved = copy.deepcopy(whole.as_dict())
    second = train_epoch(whole, data)

    torch.manual_seed(99)  # what another process would have drawn
    resumed = start(spec, recipe, 7, CPU)
    resumed.restore(saved)
    assert resumed.epoch == 1
    again = train_epoch(resumed, data)
    assert again["train_loss"] == second["train_loss"] != first["train_loss"]
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_each_epoch_draws_its_own_order_and_crops(colours: Colours) -> None:
    """At a rate of almost nothing the network stays, and only what it sees can change its loss."""
    spec = resolve("lenet5.cifar10")
    state = start(spec, Recipe(batch_size=8, learning_rate=1e-12), 0, CPU)
    data = ResidentImages(colours(16, 0), spec, CPU)
    first, second = (train_epoch(state, data)["train_loss"] for _ in range(2))
    assert abs(first - second) > 1e-4


def test_what_the_network_sees_is_as_large_as_the_epoch_wants(
    colours: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = NetworkSpec(small_resnet, "small.cifar10", "resnet", CIFAR10, 0, FoldContract(5))
    state = start(spec, Recipe(epochs=5, batch_size=8, initial_size=24), 0, CPU)
    data = ResidentImages(colours(8, 0), spec, CPU)
    refuse_sizes(state, data)
    seen = list[Tensor]()
    state.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    monkeypatch.setattr(loop, "augment", lambda images, *_: images)
    for _ in range(5):
        train_epoch(state, data)
    assert [images.shape[2:] for images in seen] == [(s, s) for s in (24, 24, 28, 32, 32)]
    # The mean colour of an image is the same at each size.
    means = [images.mean((2, 3)).sort(0).values for images in seen]
    assert all(torch.allclose(mean, means[-1], atol=0.03) for mean in means)


def test_ticks_count_the_batches_and_a_rest_is_left_out(colours: Colours) -> None:
    spec = resolve("lenet5.cifar10")
    recipe = Recipe(epochs=1, batch_size=8)
    ticks: list[tuple[int, int]] = []
    train_epoch(
        start(spec, recipe, 0, CPU),
        ResidentImages(colours(29, 0), spec, CPU),
        lambda done, total: ticks.append((done, total)),
    )
    assert ticks == [(1, 3), (2, 3), (3, 3)]
