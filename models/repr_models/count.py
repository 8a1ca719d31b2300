"""Counts the multiply-adds of the registered networks, and stores them for those who ask.

python -m repr_models.count          # count every registered network, write multiply_adds.json
python -m repr_models.count --check  # write nothing; exit status 1 if the file is out of date
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from repr_models.registry import networks
from repr_models.spec import MULTIPLY_ADDS_FILE, stored_multiply_adds

COMMAND = "python -m repr_models.count"


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class says so
    """Adds up what torch's own formulas say of each convolution and matrix product."""

    flops: int = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def multiply_adds(network: nn.Module, side: int) -> int:
    """Multiply-adds of the way of one image (3, side, side) through ``network`` in eval mode.

    One multiply-add is one product added to a sum, in convolutions and matrix products alone, as
    ``repr_export.graph.multiply_adds`` counts them in the exported graph. Nothing is computed: the
    network is made of shapes without values, so that even the largest takes seconds.
    """
    counter = _Counter()  # type: ignore[no-untyped-call]
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.flops // 2  # torch counts the addition too


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, or 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Count and store multiply-adds.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args(argv)
    with torch.device("meta"):
        counts = {
            spec.name: multiply_adds(spec.build().eval(), spec.input_shape[1])
            for spec in networks()
        }
    if args.check:
        wrong = sorted({name for name, _ in counts.items() ^ stored_multiply_adds().items()})
        if wrong:
            print(f"{MULTIPLY_ADDS_FILE} is out of date for {', '.join(wrong)}: {COMMAND}")
        return 1 if wrong else 0
    path = Path(str(resources.files("repr_models"))) / MULTIPLY_ADDS_FILE
    path.write_text(json.dumps(counts, indent=1) + "\n", "utf-8")
    print(f"{path}: {len(counts)} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
