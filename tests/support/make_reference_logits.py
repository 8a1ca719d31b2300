"""Writes ``reference_logits/NAME.json`` with a library's own network; no test, run by hand.

In an environment with torchvision and timm (whose wheels want a CUDA build of torch):

    python make_reference_logits.py vgg16.imagenet torchvision:vgg16 64
    python make_reference_logits.py xception.imagenet timm:legacy_xception 128
    python make_reference_logits.py googlenet.imagenet torchvision:googlenet 64 \
        '{"aux_logits": true, "init_weights": false}'

The last arguments are the images' side, the constructor's keyword arguments and the weights'
gain (:func:`named_tensors.named_values`). Only the first 16 logits of each image are kept, and
the norm of all of them.

    python make_reference_logits.py own

writes ``own_logits.json``: those of the networks here that no library has, as they are now.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from named_tensors import fill, images, state_dict_sha256
from torch import nn

from repr_models import CIFAR10, networks

FOLDER = Path(__file__).parents[1] / "models" / "networks"


def main(name: str, reference: str, side: str, arguments: str = "{}", gain: str = "1") -> None:
    """Make the file of the variant ``name`` from ``LIBRARY:CONSTRUCTOR``."""
    library, constructor = reference.split(":")
    module = importlib.import_module({"torchvision": "torchvision.models"}.get(library, library))
    options = json.loads(arguments)
    make = getattr(module, constructor) if library != "timm" else module.create_model
    network = make(constructor, **options) if library == "timm" else make(weights=None, **options)
    network = network.double().eval()
    row = {
        "source": f"{library} {importlib.import_module(library).__version__}",
        "reference": reference,
        "arguments": options,
        **described(network, int(side), float(gain)),
    }
    (FOLDER / "reference_logits" / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")


def described(network: nn.Module, side: int, gain: float) -> dict[str, Any]:
    """The network's names, shapes and logits."""
    fill(network, gain)
    with torch.no_grad():
        logits = network(images(side))
    state = network.state_dict()
    print("spread", float((logits[0] - logits[1]).abs().max()))
    return {
        "side": side,
        "gain": gain,
        "tensors": len(state),
        "state_dict_sha256": state_dict_sha256(state),
        "parameters": sum(p.numel() for p in network.parameters()),
        "logits": [[float(f"{value:.12g}") for value in row[:16]] for row in logits.tolist()],
        "norms": [float(f"{value:.12g}") for value in logits.norm(dim=1).tolist()],
    }


def own() -> None:
    """Make the file of the networks that no library has; without shortcuts they need a gain."""
    rows = []
    for spec in networks():
        if not (FOLDER / "reference_logits" / f"{spec.name}.json").exists():
            gain = {"mobilenet": 2.5, **dict.fromkeys(("resnet", "resnext", "groupnorm"), 1.0)}.get(
                spec.family, 1.7
            )
            side = spec.smallest_side if spec.dataset is CIFAR10 else 64
            with torch.device("meta"):
                network = spec.build().double().eval()
            print(spec.name)
            rows.append(f'"{spec.name}": {json.dumps(described(network, side, gain))}')
    (FOLDER / "own_logits.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    own() if sys.argv[1:] == ["own"] else main(*sys.argv[1:])
