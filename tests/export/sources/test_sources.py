"""What can be exported besides registered networks: factories and ONNX files, right and wrong."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from repr_export.errors import CaptureError, GraphError, OptionError, TargetError
from repr_export.options import ExportOptions
from repr_export.pipeline import export
from repr_export.sources.opening import open_source
from repr_models.data.cifar10 import bundled_subset
from repr_runtime import load

NETWORKS = '''
import torch
from torch import nn

class Small(nn.Module):
    """Convolution with a bias of its own and BatchNorm with an eps that is not torch's.

    Another BatchNorm is in front of the padding, which its shift does not reach.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=True)
        self.bn = nn.BatchNorm2d(8, eps=1e-3)
        self.head = nn.Linear(8, 5)
        self.before = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(self.before(x)))).mean((2, 3)))

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 1))

    def forward(self, x):
        return x.flatten(1)[:, :4] * self.scale

def fails():
    return nn.Linear("a", 1)

def number():
    return 3

ready = Small()
'''


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "their_networks.py").write_text(NETWORKS)
    (tmp_path / "broken_networks.py").write_text("import no_such_dependency_of_theirs\n")
    (tmp_path / "raising_networks.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_networks"
    for name in ("their_networks", "broken_networks", "raising_networks"):
        sys.modules.pop(name, None)


def checkpoint(module: str, path: Path) -> nn.Module:
    """Weights as after training: BatchNorm far from the identity, some scales negative."""
    network: nn.Module = __import__(module).Small()
    generator = torch.Generator().manual_seed(5)
    state = network.state_dict()
    for key, tensor in state.items():
        if tensor.dtype == torch.float32:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if key.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 1e-2)
    others = {f"module.{key.replace('head', 'linear')}": v for key, v in state.items()}
    torch.save({"epoch": 3, "state_dict": others}, path)
    return network.eval()


def test_a_factory_with_conv_bias_another_eps_and_a_batchnorm_that_stays(
    user_module: str, tmp_path: Path
) -> None:
    network = checkpoint(user_module, tmp_path / "small.pth")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    options = ExportOptions(
        weights=tmp_path / "small.pth",
        input_shape=(3, 32, 32),
        labels=tmp_path / "labels.txt",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    done = export(f"{user_module}:Small", tmp_path / "out", options)
    assert done.path == tmp_path / "out" / "Small"
    assert done.note == "its last layer, linear, was taken for head"
    fold = done.manifest.receipts["fold"]
    assert fold["summary"] == "1 of 2 BatchNorms folded"
    assert "pad" in fold["refused"][0]["reason"]
    graph = onnx.load(done.path / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("BatchNormalization") == 1
    assert done.manifest.weights.kind == "file"
    differences = done.manifest.receipts["parity"]["differences"]
    assert [row["samples"] for row in differences] == ["real", "noise"]
    images = bundled_subset().images[:20]
    with load(done.path, device="cpu") as session, torch.no_grad():
        inputs = session.preprocess(images)
        expected = network(torch.from_numpy(inputs)).numpy()
        got = session.run(inputs)["logits"]
        assert np.abs(got - expected).max() <= 1e-4 * np.ptp(expected)
        names = [p.label for p in session.classify(images)]
    assert names == [("ant", "bee", "cat", "dog", "eel")[i] for i in expected.argmax(1)]


def test_a_module_object_is_taken_as_it_is(user_module: str) -> None:
    source = open_source(f"{user_module}:ready", ExportOptions(input_shape=(3, 8, 8)))
    assert source.weights.kind == "factory"
    assert source.identity.name == "ready"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("their_networks:Smal", "did you mean Small"),
        ("their_networks:fails", r"their_networks:fails\(\) fails: TypeError"),
        ("their_networks:number", "returns int, expected a torch.nn.Module"),
        ("no_such_module_at_all:x", "no module 'no_such_module_at_all'"),
        ("broken_networks:x", "needs the module 'no_such_dependency_of_theirs'"),
        ("raising_networks:x", "RuntimeError: no licence"),
        (":x", "not of the form"),
        ("resnet_20", r"did you mean .*resnet20.*package\.module:factory"),
    ],
)
@pytest.mark.usefixtures("user_module")
def test_a_target_that_is_not_there(target: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        open_source(target, ExportOptions(input_shape=(3, 8, 8)))


def test_a_factory_needs_an_input_shape_that_fits(user_module: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--input 3x224x224"):
        open_source(f"{user_module}:Small", ExportOptions())
    for weights in (None, "random"):
        options = ExportOptions(weights=weights, input_shape=(4, 8, 8))
        with pytest.raises(CaptureError, match=r"fails on .* of shape .*--input"):
            export(f"{user_module}:Small", tmp_path, options)
    assert not list(tmp_path.glob("Small"))


def test_a_network_that_needs_a_fixed_batch(user_module: str, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="--batch N"):
        export(f"{user_module}:Fixed", tmp_path, ExportOptions(input_shape=(3, 8, 8)))
    done = export(f"{user_module}:Fixed", tmp_path, ExportOptions(input_shape=(3, 8, 8), batch=2))
    assert done.manifest.inputs[0].shape == (2, 3, 8, 8)


def test_a_registered_network_brings_its_own() -> None:
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for options in (
        *(ExportOptions(input_shape=(3, 8, 8)), ExportOptions(labels=Path("x"))),
        ExportOptions(mean=zero, std=one),
    ):
        with pytest.raises(OptionError, match=r"does not go with lenet5\.cifar10"):
            open_source("lenet5", options)


@pytest.fixture
def classifier(graphs: Any, tmp_path: Path) -> Callable[..., str]:
    """Conv, BatchNorm, Relu, mean and Gemm with names that torch would not give, old IR version."""

    def write(batch: int | str = "n", more: str = "") -> str:
        content = graphs.content(
            f"""g (float[{batch},3,8,8] image{more}) => (float[{batch},6] scores) {{
                c = Conv <pads=[1,1,1,1]> (image, k) n = BN<epsilon=0.01>(c) r = Relu(n)
                p = GlobalAveragePool(r) f = Flatten(p) scores = Gemm <transB=1> (f, w) }}""",
            opset=13,
            ir_version=8,
            k=graphs.draw(4, 3, 3, 3),
            **{"w": graphs.draw(6, 4), **graphs.batchnorm(4)},
        )
        path = tmp_path / "theirs.onnx"
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize("default", ["", ", float[6,4] w"])  # of an input: it stays one
def test_an_onnx_file_goes_the_same_way(classifier: Any, tmp_path: Path, default: str) -> None:
    done = export(classifier(more=default), tmp_path / "out")
    assert done.manifest.receipts["fold"]["summary"] == "1 of 1 BatchNorms folded"
    assert done.manifest.weights.kind == "onnx"
    assert [spec.name for spec in done.manifest.inputs] == ["image"]
    # Conv with the bias that the fold gave it (4 * 27 + 4) and Gemm (6 * 4)
    assert done.manifest.network.parameters == 4 * 27 + 4 + 24
    assert done.manifest.network.multiply_adds == 8 * 8 * 4 * 27 + 24
    with load(done.path, device="cpu") as session:
        session.self_test()
        assert session.run(image=np.zeros((9, 3, 8, 8), np.float32))["scores"].shape == (9, 6)


def test_an_onnx_file_with_a_batch_fixed_on_the_way(classifier: Any, tmp_path: Path) -> None:
    done = export(classifier(), tmp_path / "out", ExportOptions(batch=4, opset=17))
    assert done.manifest.inputs[0].shape == (4, 3, 8, 8)
    assert done.manifest.outputs[0].shape == (4, 6)
    assert done.manifest.versions["opset"] == "17"
    with pytest.raises(OptionError, match="fixed to 1, not 4"):
        export(classifier(1), tmp_path / "out", ExportOptions(batch=4))


def test_onnx_files_that_are_none(classifier: Any, tmp_path: Path) -> None:
    target = classifier()
    with pytest.raises(OptionError, match="--weights does not go with"):
        open_source(target, ExportOptions(weights="random"))
    for damaged in (b"not a graph at all", Path(target).read_bytes()[:500]):
        (tmp_path / "no.onnx").write_bytes(damaged)
        with pytest.raises(GraphError, match="not a valid ONNX file"):
            open_source(str(tmp_path / "no.onnx"), ExportOptions())


def test_free_dimensions_need_an_input_shape(graphs: Any, tmp_path: Path) -> None:
    target = str(tmp_path / "free.onnx")
    content = graphs.content("g (float[n,3,h,w] x) => (float[n,3,h,w] y) { y = Relu(x) }")
    Path(target).write_bytes(content)
    for options, message in (
        ({}, "leaves h, w free"),
        ({"input_shape": (4, 8, 8)}, "does not fit"),
    ):
        with pytest.raises(OptionError, match=message):
            export(target, tmp_path / "out", ExportOptions(**options))
    done = export(target, tmp_path / "out", ExportOptions(input_shape=(3, 8, 8)))
    with load(done.path, device="cpu") as session:
        session.self_test()
        assert session.run(np.ones((1, 3, 5, 6), np.float32))["y"].shape == (1, 3, 5, 6)


def test_labels_files_that_are_none(classifier: Any, tmp_path: Path) -> None:
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "empty.txt").write_text("")
    for name, message in (
        *(("gap.txt", "no empty line"), ("empty.txt", "one class a line")),
        ("none.txt", "cannot be read"),
    ):
        with pytest.raises(OptionError, match=message):
            open_source(classifier(), ExportOptions(labels=tmp_path / name))
