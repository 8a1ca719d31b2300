"""DenseNet: what each layer reads, the sizes of Table 1, and names of older checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from layer_costs import of_kind, on_meta
from torch import nn

from repr_models import load_checkpoint, resolve
from repr_models.networks.densenet import LEGACY_NAMES, DenseBlock, DenseNet, Transition

IMAGENET = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
NAMES = ("densenet_bc100.cifar10", *(f"densenet{depth}.imagenet" for depth in IMAGENET))


@pytest.mark.parametrize(("name", "depth"), [*zip(NAMES, (100, *IMAGENET), strict=True)])
def test_the_name_counts_the_weighted_layers(name: str, depth: int) -> None:
    weighted = [m for m in on_meta(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth


@pytest.mark.parametrize("depth", IMAGENET)
def test_the_blocks_are_those_of_table_1(depth: int) -> None:
    network = on_meta(f"densenet{depth}.imagenet")
    blocks = of_kind(network, DenseBlock)
    assert tuple(len(list(block.children())) for block in blocks) == IMAGENET[depth]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        (
            "densenet_bc100.cifar10",
            [(216, 32), (108, 16), (300, 16), (150, 8), (342, 8)],
        ),
        (
            "densenet121.imagenet",
            [(256, 56), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (1024, 7)],
        ),
    ],
)
def test_blocks_add_k_channels_a_layer_and_transitions_halve(
    name: str, stages: list[tuple[int, int]]
) -> None:
    network, seen = on_meta(name), []
    for module in network.modules():
        if isinstance(module, DenseBlock | Transition):
            module.register_forward_hook(
                lambda _module, _inputs, output: seen.append((output.shape[1], output.shape[2]))
            )
    side = resolve(name).input_shape[1]
    network.eval()(torch.empty(1, 3, side, side, device="meta"))
    assert seen == stages


def test_a_bottleneck_gives_4k_channels_to_the_3x3() -> None:
    for name, k in (("densenet_bc100.cifar10", 12), ("densenet121.imagenet", 32)):
        layer = on_meta(name).get_submodule("features.denseblock2.denselayer3")
        first, second = layer.get_submodule("conv1"), layer.get_submodule("conv2")
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert (first.kernel_size, first.out_channels) == ((1, 1), 4 * k)
        assert (second.kernel_size, second.out_channels) == ((3, 3), k)


def test_a_layer_reads_all_maps_before_it_unchanged_and_adds_its_own_behind() -> None:
    block = DenseBlock(3, 5, 2).eval()
    x = torch.randn(2, 5, 6, 6)
    expected = x
    for layer in block.children():
        expected = torch.cat((expected, layer(expected.clone())), dim=1)
    out = block(x.clone())
    assert out.shape == (2, 11, 6, 6)
    assert torch.equal(out, expected)
    assert torch.equal(out[:, :5], x)  # the rectifiers work in place, but not on these


def test_every_layer_reaches_the_last_map_of_its_block() -> None:
    """Cut any one layer off and the last layer's new maps change."""
    block = DenseBlock(4, 6, 3).eval()
    x = torch.randn(1, 6, 5, 5)
    whole = block(x)[:, -3:]
    for layer in list(block.children())[:-1]:
        convolution = layer.get_submodule("conv2")
        assert isinstance(convolution, nn.Conv2d)
        kept = convolution.weight.detach().clone()
        nn.init.zeros_(convolution.weight)
        assert not torch.allclose(block(x)[:, -3:], whole)
        convolution.weight.data.copy_(kept)


def test_the_stem_for_cifar_is_one_bare_convolution() -> None:
    names = [
        name
        for name, _ in on_meta("densenet_bc100.cifar10").get_submodule("features").named_children()
    ]
    assert names == [
        "conv0",
        "denseblock1",
        "transition1",
        "denseblock2",
        "transition2",
        "denseblock3",
        "norm5",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_kept_batchnorms_are_those_not_behind_a_convolution_of_their_own(name: str) -> None:
    """norm2 of each layer and the stem's norm0 fold; all others read what others read too."""
    norms = [n for n, m in on_meta(name).named_modules() if isinstance(m, nn.BatchNorm2d)]
    foldable = [n for n in norms if n.endswith(("norm2", "features.norm0"))]
    fold = resolve(name).fold
    assert (fold.batchnorms, fold.folded) == (len(norms), len(foldable))
    assert "concatenation" in fold.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "features.denseblock1.denselayer1.norm.1.weight",
            "features.denseblock1.denselayer1.norm1.weight",
        ),
        (
            "features.denseblock4.denselayer16.conv.2.weight",
            "features.denseblock4.denselayer16.conv2.weight",
        ),
        (
            "features.denseblock3.denselayer10.norm.2.running_var",
            "features.denseblock3.denselayer10.norm2.running_var",
        ),
        ("features.transition1.norm.weight", "features.transition1.norm.weight"),
        ("features.norm0.weight", "features.norm0.weight"),
        ("classifier.weight", "classifier.weight"),
        (
            "features.denseblock1.denselayer1.norm1.weight",
            "features.denseblock1.denselayer1.norm1.weight",
        ),
    ],
)
def test_an_older_name_becomes_todays(old: str, new: str) -> None:
    ((pattern, replacement),) = LEGACY_NAMES
    assert re.sub(pattern, replacement, old) == new


def test_a_checkpoint_with_the_older_names_fits(tmp_path: Path) -> None:
    """As published: dots within a layer's names, and no counters of batches."""
    network = DenseNet(4, [2, 1], 3, stem="imagenet")
    state = network.state_dict()
    published = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        parts = key.split(".")
        if any(part.startswith("denselayer") for part in parts):
            parts[-2] = f"{parts[-2][:-1]}.{parts[-2][-1]}"
        published[".".join(parts)] = value + 1
    assert "features.denseblock1.denselayer2.norm.1.running_mean" in published
    assert not set(published) <= set(state)

    path = tmp_path / "densenet.pth"
    torch.save(published, path)
    load_checkpoint(network, path, resolve("densenet121.imagenet"))  # strictly
    weight = network.get_parameter("features.denseblock1.denselayer2.conv1.weight")
    key = "features.denseblock1.denselayer2.conv.1.weight"
    assert torch.equal(weight, published[key])


@pytest.mark.parametrize("depth", IMAGENET)
def test_every_published_checkpoint_is_renamed(depth: int) -> None:
    published = resolve(f"densenet{depth}.imagenet").published
    assert published is not None
    assert published.renames == LEGACY_NAMES
    assert published.url.endswith(f"/densenet{depth}-{published.sha256[:8]}.pth")
