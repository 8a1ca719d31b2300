"""Training the runs of a study, and the record of each: what was done and what came of it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.data.images import ImageSet
from repr_models.errors import TrainingError
from repr_models.spec import NetworkSpec
from repr_models.studies.catalogue import GROUPS, REDUCTION, Run
from repr_models.studies.networks import network_spec
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate, start, train_epoch
from repr_models.training.recipe import Recipe
from repr_models.training.record import make_record

CPU = torch.device("cpu")
_SIGNAL_IMAGES = 256


def reduced(source: ImageSet, spec: NetworkSpec) -> ResidentImages:
    """The normalised images with every 2x2 pixels averaged, (N, 3, H / 2, W / 2) float32."""
    resident = ResidentImages(source, spec, CPU)
    resident.images = F.avg_pool2d(resident.images, 2)
    return resident


def settings(run: Run, train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """All that decides what ``run`` comes to; equal settings need no second run."""
    said = asdict(run)
    del said["name"]
    return {
        **said,
        "groups": GROUPS if run.norm == "group" else None,
        "recipe": Recipe(**run.recipe).as_dict(),  # type: ignore[arg-type]
        "reduction": REDUCTION,
        "train_sha256": train.sha256,
        "test_sha256": test.sha256,
    }


def initial_signal(network: nn.Module, data: ResidentImages) -> dict[str, list[float]]:
    """Standard deviations through the layers of a network not yet trained, the first layer first.

    ``output_std`` is of each convolution's and linear layer's outputs for the first 256 images,
    ``gradient_std`` of its weights' gradient by their cross-entropy.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    outputs: list[float] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(_rounded(output.std()))

    hooks = [layer.register_forward_hook(note) for layer in layers]
    logits = network(data.images[:_SIGNAL_IMAGES])
    loss = F.cross_entropy(logits, data.labels[:_SIGNAL_IMAGES])
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
    for hook in hooks:
        hook.remove()
    return {"output_std": outputs, "gradient_std": [_rounded(g.std()) for g in gradients]}


def _rounded(value: Tensor) -> float:
    return float(f"{value.item():.4g}")


def train_run(
    run: Run,
    train_data: ResidentImages,
    test_data: ResidentImages,
    tick: Callable[[float], None] = lambda _epochs: None,
) -> dict[str, Any]:
    """Train ``run`` on the CPU, on :func:`reduced` images; returns its record.

    ``tick`` gets the epochs done, as a fraction. A run whose loss becomes infinite ends there,
    and its record says so under ``diverged``.
    Raises :class:`TrainingError` if the images do not fill one batch.
    """
    recipe = Recipe(**run.recipe)  # type: ignore[arg-type]
    spec = network_spec(run)
    # measured on another copy, since BatchNorm would remember it
    signal = initial_signal(start(spec, recipe, run.seed, CPU).network, train_data)
    state = start(spec, recipe, run.seed, CPU)
    diverged = None
    while state.epoch < recipe.epochs:
        before = state.epoch
        began = time.process_time()
        try:
            row = train_epoch(
                state, train_data, lambda done, total: tick(state.epoch + done / total)
            )
        except TrainingError as error:
            if state.epoch == before:  # not one step was made: not the run's outcome
                raise
            diverged = str(error).split(";")[0]
            break
        row["cpu_seconds"] = time.process_time() - began
        row["test_top1"] = evaluate(state.network, test_data)
        state.history.append(row)
    top1 = {name: state.history[-1][name] for name in ("test_top1", "train_top1") if state.history}
    images = {"train": train_data.source, "test": test_data.source}
    record = make_record(state, images, {"accuracy": top1})
    record["parameters"] = sum(parameter.numel() for parameter in state.network.parameters())
    return {
        **record,
        "settings": settings(run, train_data.source, test_data.source),
        "signal": signal,
        "diverged": diverged,
    }
