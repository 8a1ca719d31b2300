"""The networks of the studies: a plain or residual network, its BatchNorms exchanged, its weights redrawn.

Sources
-------
He et al. 2016 §4.2 for the networks; Wu, He, "Group Normalization", ECCV 2018, §3.1 for GroupNorm
and §4.1 for BatchNorm by workers, each of which normalises its own few images.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.networks.initialisation import init_xavier
from repr_models.networks.resnet import ResNet
from repr_models.networks.resnet_blocks import BasicBlock, BlockOptions
from repr_models.spec import CIFAR10, FoldContract, NetworkSpec
from repr_models.studies.catalogue import GROUPS, Run


class ChannelBias(nn.Module):
    """What BatchNorm leaves behind when it is taken away: a trained bias, zero at first.

    (N, channels, H, W) to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, 1, 1)


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises every ``images`` consecutive images of a batch by themselves.

    So does BatchNorm on several workers, each of which sees ``images`` images. Means and variances
    for the test are running averages, as ever, of the mean over the workers' statistics. Input and
    output (N, channels, H, W); in training mode N must be a multiple of ``images``, or else
    ``ValueError`` is raised.
    """

    def __init__(self, channels: int, images: int) -> None:
        super().__init__(channels)
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.images:
            raise ValueError(f"{len(x)} images are no multiple of the {self.images} of a worker")
        workers = torch.split(x, self.images)
        return torch.cat(
            [
                F.batch_norm(
                    worker,
                    self.running_mean,
                    self.running_var,
                    self.weight,
                    self.bias,
                    training=True,
                    momentum=0.1 / len(workers),  # 0.1 a step, all workers together
                    eps=self.eps,
                )
                for worker in workers
            ]
        )


def exchange_batchnorms(network: nn.Module, make: Callable[[int], nn.Module]) -> None:
    """Put ``make(channels)`` in the place of every BatchNorm of ``network``."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, make(module.num_features))


def build(run: Run) -> nn.Module:
    """The network of ``run``, initialised from torch's stream; (N, 3, H, W) to logits (N, 10)."""
    blocks = (run.depth - 2) // 2  # each of two layers; the stem and the linear layer are two more
    network = ResNet(
        BasicBlock,
        [(blocks + 2) // 3, (blocks + 1) // 3, blocks // 3],
        [16, 32, 64],
        CIFAR10.class_count,
        stem="cifar",
        shortcut="pad",
        options=BlockOptions(residual=run.residual),
    )
    if run.norm == "none":
        exchange_batchnorms(network, ChannelBias)
    elif run.norm == "group":
        exchange_batchnorms(network, lambda channels: nn.GroupNorm(GROUPS, channels))
    elif run.norm_batch is not None:
        images = run.norm_batch
        exchange_batchnorms(network, lambda channels: GhostBatchNorm2d(channels, images))
    if run.init == "msra-forward":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif run.init == "xavier":
        init_xavier(network)  # without BatchNorm; biases are zero by either rule
    return network


def network_spec(run: Run) -> NetworkSpec:
    """What training needs to know of the network of ``run``."""
    return NetworkSpec(
        name=run.name,
        family="study",
        dataset=CIFAR10,
        builder=lambda: build(run),
        parameters=0,
        fold=FoldContract(batchnorms=0),
    )
