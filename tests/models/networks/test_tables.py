"""What the papers state of whole networks: depths, the maps of their stages, what they cost."""

import pytest
from layer_costs import on_meta, output_shapes
from torch import nn

from repr_models import resolve

# convolutions and linear layers, without the projections, which the papers do not count
DEPTHS = {
    **{f"plain{depth}.cifar10": depth for depth in (20, 32, 44, 56)},
    **{f"resnet{depth}.cifar10": depth for depth in (20, 32, 44, 50, 56, 110)},
    **{f"preact_resnet{depth}.cifar10": depth for depth in (164, 1001)},
    "resnet56_gn.cifar10": 56,
    "resnext29.cifar10": 29,
    "densenet_bc100.cifar10": 100,
    **{f"resnet{depth}.imagenet": depth for depth in (18, 34, 50, 101, 152)},
    "resnet50_gn.imagenet": 50,
    "resnext50_32x4d.imagenet": 50,
    "resnext101_32x8d.imagenet": 101,
    **{f"densenet{depth}.imagenet": depth for depth in (121, 169, 201)},
    **{f"vgg{name}.imagenet": int(name[:2]) for name in ("16", "19", "16_bn", "19_bn")},
    # one linear layer stands for the paper's three
    "vgg16.cifar10": 16 - 2,
    "vgg19.cifar10": 19 - 2,
    "lenet5.cifar10": 5,
    "alexnet.cifar10": 8,
    "alexnet.imagenet": 8,
    "mobilenet_v1.cifar10": 28,
    "mobilenet_v1.imagenet": 28,
}


@pytest.mark.parametrize(("name", "depth"), DEPTHS.items())
def test_the_name_or_the_paper_counts_the_weighted_layers(name: str, depth: int) -> None:
    weighted = [
        module
        for where, module in on_meta(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and ".downsample" not in where
    ]
    assert len(weighted) == depth


V1_UNITS = ("features.3", "features.11", "features.15")
# (channels, side) behind modules; the networks of CIFAR-10 are the papers' fit for 32x32 images
MAPS: dict[str, dict[str, tuple[int, int]]] = {
    "lenet5.cifar10": {"conv1": (6, 28), "conv2": (16, 10)},
    "alexnet.cifar10": {"features.0": (48, 32), "features.3": (112, 15), "features.12": (112, 3)},
    "vgg19.cifar10": {"features.6": (32, 16), "features.13": (64, 8), "features.52": (256, 1)},
    "googlenet.cifar10": {
        "inception3a": (128, 16),
        "inception3b": (240, 16),
        "inception4a": (256, 8),
        "inception4e": (416, 8),
        "inception5b": (512, 4),
    },
    "googlenet.imagenet": {
        "inception3a": (256, 28),
        "inception3b": (480, 28),
        "inception4a": (512, 14),
        "inception4d": (528, 14),
        "inception4e": (832, 14),
        "inception5b": (1024, 7),
    },
    "inception_v3.imagenet": {
        "maxpool1": (64, 73),
        "maxpool2": (192, 35),
        "Mixed_5d": (288, 35),
        "Mixed_6a": (768, 17),
        "Mixed_7a": (1280, 8),
        "Mixed_7c": (2048, 8),
    },
    "inception_v4.imagenet": {
        "features.3": (160, 73),
        "features.5": (384, 35),
        "features.10": (1024, 17),
        "features.18": (1536, 8),
    },
    "inception_resnet.cifar10": {
        "conv2d_2a": (48, 32),
        "mixed_3a": (128, 16),
        "mixed_6a": (352, 8),
        "mixed_7a": (600, 4),
        "block8": (600, 4),
    },
    "inception_resnet_v2.imagenet": {
        "mixed_5b": (320, 35),
        "mixed_6a": (1088, 17),
        "mixed_7a": (2080, 8),
    },
    "xception.cifar10": {"block1": (96, 16), "block2": (192, 8), "block9": (384, 4)},
    "xception.imagenet": {"block1": (128, 74), "block3": (728, 19), "block12": (1024, 10)},
    "resnet20.cifar10": {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)},
    "preact_resnet164.cifar10": {"layer1": (64, 32), "layer2": (128, 16), "bn2": (256, 8)},
    "resnext29.cifar10": {"layer1": (128, 32), "layer2": (256, 16), "layer3": (512, 8)},
    "densenet_bc100.cifar10": {
        "features.denseblock1": (216, 32),
        "features.transition1": (108, 16),
        "features.denseblock2": (300, 16),
        "features.transition2": (150, 8),
        "features.denseblock3": (342, 8),
    },
    "mobilenet_v1.cifar10": {
        "blocks.0": (32, 32),
        "blocks.1": (64, 16),
        "blocks.2": (128, 8),
        "blocks.3": (256, 8),
        "blocks.4": (512, 4),
    },
    "mobilenet_v2.cifar10": {
        "features.1": (16, 32),
        "features.3": (24, 16),
        "features.6": (24, 8),
        "features.10": (48, 8),
        "features.13": (72, 8),
        "features.16": (120, 4),
        "features.17": (240, 4),
    },
    "shufflenet_v1.imagenet": {
        "first_conv": (24, 112),
        "maxpool": (24, 56),
        **dict(zip(V1_UNITS, [(240, 28), (480, 14), (960, 7)], strict=True)),
    },
    "shufflenet_v1.cifar10": dict(zip(V1_UNITS, [(240, 16), (480, 8), (960, 4)], strict=True)),
    "shufflenet_v2.cifar10": {"stage2": (116, 16), "stage3": (232, 8), "stage4": (464, 4)},
}


@pytest.mark.parametrize("name", MAPS)
def test_the_maps_are_those_of_the_papers_tables(name: str) -> None:
    side = resolve(name).input_shape[1]
    found = output_shapes(on_meta(name), MAPS[name], side)
    assert found == [(width, size, size) for width, size in MAPS[name].values()]


@pytest.mark.parametrize(
    ("name", "published", "rel"),
    [
        ("mobilenet_v1.imagenet", 569e6, 1e-3),  # Table 4
        ("mobilenet_v2.imagenet", 300e6, 5e-3),
        ("shufflenet_v1.imagenet", 137e6, 5e-3),
        ("shufflenet_v2.imagenet", 146e6, 1e-2),
        ("resnet50.imagenet", 4.09e9, 2e-3),  # torchvision's "GFLOPS" of ResNet50_Weights
        ("resnet20.cifar10", 40.6e6, 2e-3),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, published: float, rel: float) -> None:
    assert resolve(name).multiply_adds == pytest.approx(published, rel=rel)
