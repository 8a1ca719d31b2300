"""Steps in a CUDA graph: here of a fake graph, which runs again what was captured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from repr_models import resolve
from repr_models.data.images import ImageSet
from repr_models.training import captured
from repr_models.training.augment import ResidentImages
from repr_models.training.captured import CapturedStep
from repr_models.training.loop import TrainingState, start, take_step, train_epoch
from repr_models.training.recipe import OPTIMIZERS, Recipe

CPU = torch.device("cpu")


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


class _Graph:
    """Runs again what ``take_step`` was called with while it was captured."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        for call in self.calls:
            take_step(*call)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    capturing: list[_Graph] = []

    @contextmanager
    def capture(graph: _Graph) -> Iterator[None]:
        capturing.append(graph)
        yield
        capturing.remove(graph)

    def step(*call: Any) -> None:
        if capturing:  # nothing runs while it is captured
            capturing[-1].calls.append(call)
        else:
            take_step(*call)

    monkeypatch.setattr(captured, "take_step", step)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # put back afterwards
    for name, value in (
        ("CUDAGraph", _Graph),
        ("Stream", _Stream),
        ("current_stream", _Stream),
        ("stream", nullcontext),
        ("graph", capture),
        ("synchronize", lambda: None),
    ):
        monkeypatch.setattr(torch.cuda, name, value)


def trained(state: TrainingState, data: ResidentImages, *, in_graph: bool) -> dict[str, Tensor]:
    step = CapturedStep(state, data, compiled=False) if in_graph else None
    for _ in range(2):
        train_epoch(state, data, take=step and step.take)
    return state.network.state_dict()


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_steps_train_as_others_do(
    optimizer: str, colours: Callable[[int, int], ImageSet]
) -> None:
    """From the first step on: warming up and timing leave no trace, in statistics nor momentum."""
    spec = resolve("resnet20.cifar10")
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.05, optimizer=optimizer)
    data = ResidentImages(colours(16, 0), spec, CPU)
    one, other = (start(spec, recipe, 0, CPU) for _ in range(2))
    expected = trained(one, data, in_graph=False)
    got = trained(other, data, in_graph=True)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.usefixtures("graphs")
def test_cudnn_tries_no_algorithms_of_grouped_convolutions(
    colours: Callable[[int, int], ImageSet],
) -> None:
    """Trying them took minutes."""
    data = ResidentImages(colours(32, 0), resolve("shufflenet_v2.cifar10"), CPU)
    for name, tries in (("shufflenet_v2.cifar10", False), ("resnet20.cifar10", True)):
        state = start(resolve(name), Recipe(epochs=3, batch_size=8), 0, CPU)
        CapturedStep(state, data, compiled=False)
        assert torch.backends.cudnn.benchmark == tries


@pytest.mark.usefixtures("graphs")
def test_a_resumed_run_keeps_its_momentum(colours: Callable[[int, int], ImageSet]) -> None:
    spec = resolve("resnet20.cifar10")
    data = ResidentImages(colours(32, 0), spec, CPU)
    state = start(spec, Recipe(epochs=3, batch_size=8), 0, CPU)
    train_epoch(state, data)
    before = [s["momentum_buffer"].clone() for s in state.optimizer.state.values()]
    CapturedStep(state, data, compiled=False)
    after = [s["momentum_buffer"] for s in state.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(b.any() for b in before)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "optimizer"), [("fp32", "sgd"), ("bf16", "sgd"), ("bf16", "muon")]
)
def test_steps_captured_on_a_gpu_learn_as_others_do(
    precision: str, optimizer: str, colours: Callable[[int, int], ImageSet]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    device = torch.device("cuda")
    spec = resolve("shufflenet_v2.cifar10")
    recipe = Recipe(4, 16, learning_rate=0.05, precision=precision, optimizer=optimizer)
    data = ResidentImages(colours(160, 0), spec, device)
    losses = []
    for in_graph in (False, True):
        state = start(spec, recipe, 0, device)
        step = CapturedStep(state, data, compiled=False) if in_graph else None
        losses.append(
            [train_epoch(state, data, take=step and step.take)["train_loss"] for _ in range(4)]
        )
    eager, graph = losses
    assert graph[0] == pytest.approx(eager[0], rel=0.1)
    assert graph[-1] < graph[0] - 0.3
