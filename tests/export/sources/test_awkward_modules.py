"""Torch modules that are unlike a classifier of images: exported right, or refused in a sentence."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repr_export.cli import main
from repr_export.errors import CaptureError, OptionError, ParityError, TargetError
from repr_export.options import ExportOptions
from repr_export.pipeline import export
from repr_export.sources import torch as source
from repr_export.sources.opening import open_source
from repr_runtime import load

SHAPE = (3, 2, 2)


class Flat(nn.Module):
    """Twelve features to five."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x.flatten(1))
        return result


class Decides(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class WithGradient(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return super().forward(x)


class HalfInside(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x.flatten(1).half())
        return result


class Complex(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(super().forward(x))


def half() -> nn.Module:
    return WithGradient().half()


def half_inside() -> nn.Module:
    return HalfInside().half()


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(Flat(), torch.zeros(1, *SHAPE))  # type: ignore[no-any-return, no-untyped-call]


class Loud(Flat):
    """Takes any arguments, as wrappers do; prints and warns at each run."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        print("running")
        warnings.warn("old", stacklevel=1)
        return super().forward(*inputs)


class Counts(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return super().forward(x) + self.runs


def around_scripted() -> nn.Module:
    return nn.Sequential(scripted())


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})  # type: ignore[no-any-return, no-untyped-call]


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Flat()


def exits() -> nn.Module:
    raise SystemExit("usage: model.py --size N")


def options(**chosen: object) -> ExportOptions:
    return ExportOptions(input_shape=SHAPE, **chosen)  # type: ignore[arg-type]


def test_half_precision_becomes_float32_and_a_gradient_is_none(tmp_path: Path) -> None:
    done = export(f"{__name__}:half", tmp_path, options())
    assert done.note == "its weights are float16; exported in float32"
    assert done.manifest.outputs[0].dtype == "float32"


def test_an_output_that_is_the_input(tmp_path: Path) -> None:
    done = export("torch.nn:Identity", tmp_path, options())
    x = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    with load(done.path, device="cpu") as session:
        np.testing.assert_array_equal(session.run(input=x)["logits"], x)


def test_a_decision_by_a_value_is_named_and_torch_says_nothing_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = r"depends on .* values .*\(test_awkward_modules\.py, line \d+: if x\.sum\(\) > 0:\).*torch\.cond$"
    with pytest.raises(CaptureError, match=line):
        export(f"{__name__}:Decides", tmp_path, options())
    assert capfd.readouterr() == ("", "")


def test_what_no_graph_can_be_made_of() -> None:
    for factory, kind, message in (
        (
            "half_inside",
            CaptureError,
            r"same dtype.*casts to float32 alone \(its weights are float16",
        ),
        ("Complex", CaptureError, "complex64.*let it return a dense tensor of float32"),
        ("scripted", TargetError, "is TorchScript.*give the module that it was made of"),
        ("around_scripted", TargetError, "is TorchScript, or holds some"),
        ("quantized", TargetError, "is quantized by torch.* --int8 quantizes it"),
        ("on_meta", TargetError, "weights on the device 'meta'"),
        ("exits", TargetError, "fails: SystemExit: usage: model.py --size N"),
    ):
        with pytest.raises(kind, match=message):
            open_source(f"{__name__}:{factory}", options())


def test_what_a_network_prints_is_no_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [f"{__name__}:Loud", "--input", "3x2x2", "--json", "-o", str(tmp_path)]
    assert main(command) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["manifest"]["network"]["name"] == "Loud"
    assert "old" not in said.err


def test_a_network_that_changes_its_own_state(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"another output 'logits' each time .*its own state"):
        export(f"{__name__}:Counts", tmp_path, options())


def test_labels_are_counted_before_anything_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    monkeypatch.setattr(source, "capture", lambda *_, **__: pytest.fail("it traces"))
    with pytest.raises(
        OptionError, match="4 labels, the network has 5 classes; --labels takes one"
    ):
        export(f"{__name__}:Flat", tmp_path, options(labels=tmp_path / "labels.txt"))


@pytest.mark.parametrize(
    ("shape", "resize", "expected"),
    [
        *(((3, 48, 192), None, None), ((3, 48, 192), 64, 64), ((3, 32, 32), None, 32)),
        ((3, 48, 192), 40, "--resize 40 makes images too small for .* 48x192; give 48 or more"),
    ],
)
def test_images_keep_their_size_where_the_input_is_no_square(
    shape: tuple[int, ...], resize: int | None, expected: int | str | None
) -> None:
    given = ExportOptions(input_shape=shape, mean=(0.5,) * 3, std=(0.2,) * 3, resize=resize)
    if isinstance(expected, str):
        with pytest.raises(OptionError, match=expected):
            open_source("torch.nn:Identity", given)
        return
    images = open_source("torch.nn:Identity", given).preprocessing
    assert images is not None
    assert (images.resize, images.crop) == (expected, shape[1:])
