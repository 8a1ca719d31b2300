"""Initialisation of weights by the two rules that the tutorial derives.

Xavier: Glorot, Bengio, "Understanding the difficulty of training deep feedforward
neural networks", AISTATS 2010, §4.2.1: Var[w] = 2 / (fan_in + fan_out).
MSRA: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, §2.2:
Var[w] = 2 / fan, the 2 because a rectifier stops half of the signal.
"""

import math

from torch import nn


def init_xavier(network: nn.Module) -> None:
    """Xavier weights and zero biases for every convolution and linear layer, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_msra(network: nn.Module) -> None:
    """MSRA weights for every convolution (by fan-out, the backward form of the paper), in place.

    A weight of a grouped convolution meets the outputs of its own group alone.
    Linear layers get variance 1 / fan_in, as the last one, without a rectifier behind it, needs.
    BatchNorm starts as the identity.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # torch's own kaiming_normal_ knows no groups.
            fan_out = module.weight[:, 0].numel() / module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
