"""A capture costs no more than it must: no sources parsed for nothing, no threads for a small run."""

import inspect
from typing import Any

import onnxscript.values
import pytest
import torch
from onnxscript.function_libs.torch_lib.ops import core
from torch import nn

from repr_export.sources.calling import call_on
from repr_export.sources.capture import capture, run_once


class Threads(nn.Module):
    """Says how many threads it runs on; of a million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1_000_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), torch.get_num_threads())


@pytest.mark.parametrize(("shape", "threads"), [((3, 8, 8), 1), ((3, 200, 200), 2)])
def test_a_small_run_takes_one_thread(shape: tuple[int, ...], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        outputs = run_once(call_on(Threads(), shape), None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert outputs["logits"].tolist() == [threads, threads]


def test_a_capture_parses_no_function_that_it_does_not_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[object] = []
    source: Any = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda of: parsed.append(of) or source(of))
    before = onnxscript.values.TracedOnnxFunction.function_ir
    model = capture(call_on(nn.Conv2d(3, 4, 3), (3, 8, 8)), batch=None, opset=20)
    assert [node.op_type for node in model.graph if node.op_type == "Conv"] == ["Conv"]
    assert len(parsed) < 100  # of some 500
    assert onnxscript.values.TracedOnnxFunction.function_ir is before
    function = next(
        value
        for value in vars(core).values()
        if isinstance(value, onnxscript.values.TracedOnnxFunction)
    )
    assert function.function_ir.domain == function.opset.domain
