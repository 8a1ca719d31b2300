"""Blocks through torch.compile: which, how often, and for training alone."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from repr_models import resolve
from repr_models.data.images import ImageSet
from repr_models.training import queue
from repr_models.training.augment import ResidentImages
from repr_models.training.compiled import compile_blocks, pays
from repr_models.training.loop import evaluate, start, take_step
from repr_models.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def compiled() -> Iterator[list[GraphModule]]:
    """What :func:`backend` was given to compile."""
    torch.compiler.reset()
    _graphs.clear()
    yield _graphs
    torch.compiler.reset()


_graphs: list[GraphModule] = []


def backend(graph: GraphModule, _inputs: Sequence[Tensor]) -> Callable[..., object]:
    _graphs.append(graph)
    return graph.forward


def test_it_pays_where_blocks_repeat() -> None:
    gaining = {
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "preact_resnet164"),
        *("plain20", "plain56", "resnet56_gn", "vgg16", "vgg19", "alexnet"),
    }
    assert {name for name in queue.ORDER if pays(resolve(f"{name}.cifar10").build())} == gaining
    options = queue.few_epochs(resolve("resnet20.cifar10"), on_gpu=True)
    assert "--compile" in options
    assert "--compile" not in queue.few_epochs(resolve("resnet20.cifar10"), on_gpu=False)
    assert "--compile" not in queue.few_epochs(resolve("xception.cifar10"), on_gpu=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks
@pytest.mark.parametrize(("name", "shapes"), [("resnet20", 5), ("vgg16", 1)])
def test_each_shape_of_a_block_is_compiled_once_and_trains_as_before(
    name: str, shapes: int, compiled: list[GraphModule]
) -> None:
    spec = resolve(f"{name}.cifar10")
    states = [start(spec, Recipe(batch_size=4), 0, CPU) for _ in range(2)]
    compile_blocks(states[1].network, backend)
    images, labels = torch.randn(4, *spec.input_shape), torch.arange(4)
    totals = torch.zeros(2, 2)
    for state, total in zip(states, totals, strict=True):
        state.network.train()
        for _ in range(2):
            take_step(state, images, labels, total)
    assert len(compiled) == shapes
    torch.testing.assert_close(totals[0, 0], totals[1, 0], rtol=1e-4, atol=0)
    assert states[0].network.state_dict().keys() == states[1].network.state_dict().keys()


def test_the_test_compiles_nothing(
    compiled: list[GraphModule], colours: Callable[[int, int], ImageSet]
) -> None:
    spec = resolve("resnet20.cifar10")
    network: nn.Module = spec.build()
    compile_blocks(network, backend)
    evaluate(network, ResidentImages(colours(8, 0), spec, CPU))
    assert not compiled
