"""Torch networks of several inputs, or other types, or several outputs: called by name, answered flat."""

import dataclasses
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from repr_export import pipeline
from repr_export.errors import CaptureError, OptionError, RunError
from repr_export.options import ExportOptions
from repr_export.precision.options import PrecisionOptions
from repr_export.sources.calling import Call, Input
from repr_export.sources.capture import run_once
from repr_runtime import load


class Recurrent(nn.Module):
    """An image and a state whose batch is its second axis; what it returns is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(10, 5)

    def forward(self, image: Any, state: Any, scale: Any = None) -> dict[str, Any]:
        seen = self.norm(self.conv(image)).relu().mean((2, 3))
        scores = self.head(torch.cat([seen, state.mean(0)], 1))
        if scale is not None:
            scores = scores * scale
        return {"scores": scores, "conv2d": [seen, None, (scores.exp(), state)], "image": image}


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    longest: torch.Tensor
    loss: torch.Tensor | None = None


class Text(nn.Module):
    """Token ids and a mask, which is also the name of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        self.mask = nn.Parameter(torch.ones(8))

    def forward(self, tokens: Any, *, mask: Any) -> Answer:
        words = torch.where(mask.unsqueeze(-1), self.embed(tokens) * self.mask, 0)
        return Answer(self.layers(words.sum(1)), tokens.argmax(1))


def export(factory: str, out: Path, **chosen: Any) -> pipeline.Exported:
    return pipeline.export(f"{__name__}:{factory}", out, ExportOptions(**chosen))


def test_two_inputs_of_their_own_batch_axes_and_nested_outputs(tmp_path: Path) -> None:
    shapes = {"state": (2, "N", 6), "image": (3, 8, 8)}  # in any order
    done = export("Recurrent", tmp_path, input_shapes=shapes, weights="random", compare_layers=True)
    assert [str(spec) for spec in (*done.manifest.inputs, *done.manifest.outputs)] == [
        *("image: float32[batch, 3, 8, 8]", "state: float32[2, batch, 6]"),
        *("scores: float32[batch, 5]", "conv2d_0: float32[batch, 4]"),
        *("conv2d_2_0: float32[batch, 5]", "conv2d_2_1: float32[2, batch, 6]"),
        "output_image: float32[batch, 3, 8, 8]",
    ]
    assert done.manifest.receipts["fold"]["summary"] == "1 of 1 BatchNorms folded"
    names = {weight.name for weight in onnx.load(done.path / "model.onnx").graph.initializer}
    assert {"conv.weight", "head.weight", "head.bias"} <= names
    state = np.ones((2, 7, 6), np.float32)
    with load(done.path, device="cpu") as session:
        session.self_test()
        found = session.run(image=np.zeros((7, 3, 8, 8), np.float32), state=state)
        np.testing.assert_array_equal(found["conv2d_2_1"], state)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Arrays that :class:`Text` takes, by name."""
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "text.npz", tokens=draw.integers(0, 30, (18, 7)), mask=draw.random((18, 7)) > 0.3
    )
    return tmp_path / "text.npz"


def test_ids_and_a_mask_by_samples(text: Path, tmp_path: Path) -> None:
    int8 = PrecisionOptions(names=("int8",), calibration=text, max_drop=100)
    done = export("Text", tmp_path, samples=text, batch=2, precision=int8)
    assert [str(spec) for spec in (*done.manifest.inputs, *done.manifest.outputs)] == [
        *("tokens: int64[2, 7]", "mask: bool[2, 7]", "logits: float32[2, 8]", "longest: int64[2]"),
    ]
    with load(done.path, device="cpu") as session:
        session.self_test()


def test_one_sample_is_enough_to_prove_it_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", input=np.ones((1, 4), np.float32))
    done = pipeline.export(
        "torch.nn:ReLU", tmp_path, ExportOptions(samples=tmp_path / "one.npz", name="one")
    )
    assert str(done.manifest.inputs[0]) == "input: float32[batch, 4]"


def test_wrong_names_and_types_are_said(text: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", tokens=np.ones((2, 7)), mask=np.ones((2, 7), bool))
    for chosen, kind, message in (
        (
            {"input_shapes": {"token": (7,), "mask": (7,)}},
            OptionError,
            "takes no 'token', but tokens, mask; did you mean tokens",
        ),
        (
            {"input_shape": (7,)},
            OptionError,
            "nothing gives mask; .*--input tokens=SHAPE --input mask=SHAPE",
        ),
        (
            {"input_shapes": {"tokens": (7,), "mask": (7,)}},
            CaptureError,
            r"tokens, float32 tensor of shape \(2, 7\) and .*Long.*--samples FILE.npz",
        ),
        ({"samples": tmp_path / "wide.npz"}, OptionError, "'tokens' is float64; .*as float32"),
        (
            {"samples": text, "input_shapes": {"tokens": (2, "N", 7)}},
            OptionError,
            r"--input tokens=2xNx7 does not fit .*\[18, 7\]",
        ),
        (
            {"samples": text, "input_shapes": {"state": (2,)}},
            OptionError,
            r"text\.npz holds no 'state', but tokens, mask",
        ),
    ):
        with pytest.raises(kind, match=message):
            export("Text", tmp_path, **chosen)


def test_a_sample_that_the_network_cannot_take_is_said(tmp_path: Path) -> None:
    tokens, mask = np.zeros((6, 7), np.int64), np.ones((6, 7), bool)
    tokens[5] = 30  # of 0..29
    np.savez(tmp_path / "far.npz", tokens=tokens, mask=mask)
    with pytest.raises(RunError, match=r"tokens, int64 tensor .*out of range.*check .*--samples"):
        export("Text", tmp_path, samples=tmp_path / "far.npz")


Pair = namedtuple("Pair", ["left", "right"])


class Returns(nn.Module):
    """What ``made`` makes of its input."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: torch.Tensor) -> Any:
        return self.made(x)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda x: x, ["logits"]),
        (lambda x: (x, [x]), ["output0", "output1_0"]),
        (lambda x: Pair(x, None), ["left"]),
        (lambda x: Answer(x, x), ["logits", "longest"]),
        (lambda x: x.max(1), ["output0", "output1"]),
        (lambda x: {"a": (x, 0.5)}, "returns float as a_1, expected tensors"),
        (lambda _: {"loss": None}, "returns no tensor"),
    ],
)
def test_outputs_have_the_names_of_where_they_are(made: Any, expected: Any) -> None:
    call = Call(Returns(made), [Input("input", np.zeros((1, 4), np.float32))])
    if isinstance(expected, list):
        assert list(run_once(call, None)) == expected
        return
    with pytest.raises(CaptureError, match=expected):
        run_once(call, None)
