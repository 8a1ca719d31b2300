"""The whole export: what it writes, what it promises, and that a failure writes nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import repr_export.pipeline as pipeline
from repr_export.errors import FoldContractError, OptionError, ParityError
from repr_export.options import ExportOptions
from repr_export.pipeline import Exported, export
from repr_models.data.cifar10 import bundled_subset
from repr_models.registry import resolve
from repr_models.spec import FoldContract
from repr_models.weights.loading import load_weights
from repr_runtime import load, preflight, read_manifest

RANDOM = ExportOptions(weights="random")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export("lenet5", tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export("resnet20", tmp_path_factory.mktemp("artifacts"), RANDOM)


def test_the_artifact_is_whole_and_passes_its_own_test(lenet: Exported) -> None:
    checks = preflight(lenet.path, verify=True)
    assert [check.name for check in checks] == ["manifest", "files", "runs here", "self-test"]
    assert all(check.passed for check in checks), checks
    assert read_manifest(lenet.path) == lenet.manifest
    assert {p.name for p in lenet.path.iterdir()} == {"manifest.json", "model.onnx", "golden.npz"}


def test_the_manifest_says_what_was_exported(lenet: Exported) -> None:
    manifest = lenet.manifest
    assert (lenet.path.name, lenet.note) == ("lenet5", "lenet5 is lenet5.cifar10")
    assert manifest.network.parameters == 62_006
    # by hand: 6 maps of 28x28 from 3x5x5, 16 of 10x10 from 6x5x5, then 400-120-84-10
    by_hand = 6 * 28 * 28 * 75 + 16 * 10 * 10 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    assert manifest.network.multiply_adds == by_hand
    assert manifest.weights.kind == "bundled"
    assert manifest.weights.record["accuracy"]["test_top1"] > 0.65
    assert manifest.labels is not None
    assert manifest.labels[3] == "cat"
    assert manifest.inputs[0].shape == ("batch", 3, 32, 32)
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.versions["opset"] == "20"


def test_parity_is_on_real_images_and_on_noise(lenet: Exported) -> None:
    rows = lenet.manifest.receipts["parity"]["differences"]
    assert [row["samples"] for row in rows] == ["real", "noise"]
    for row in rows:
        assert row["count"] >= 8
        assert 0 <= row["relative"] <= 1e-4
        assert row["max_abs"] == pytest.approx(row["relative"] * row["range"])
        assert row["top1_agreement"] == 1.0


def test_predictions_on_real_images_are_those_of_torch(lenet: Exported) -> None:
    spec = resolve("lenet5")
    network = spec.build()
    load_weights(network, None, spec)
    network.eval()
    subset = bundled_subset()
    with load(lenet.path, device="cpu") as session:
        inputs = session.preprocess(subset.images)
        ours = session.run(inputs)["logits"].argmax(1)
        labels = [p.label for p in session.classify(subset.images[:50])]
    with torch.no_grad():
        theirs = network(torch.from_numpy(inputs)).argmax(1).numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert labels == [spec.dataset.labels[i] for i in theirs[:50]]


def test_batchnorm_is_folded_and_random_weights_are_labelled_so(resnet: Exported) -> None:
    assert resnet.manifest.receipts["fold"]["summary"] == "19 of 19 BatchNorms folded"
    nodes = onnx.load(resnet.path / "model.onnx").graph.node
    assert "BatchNormalization" not in {node.op_type for node in nodes}
    assert (resnet.manifest.weights.kind, resnet.manifest.weights.record) == ("random", {})


def test_the_batch_is_free_or_fixed_and_the_opset_another_as_asked(
    resnet: Exported, tmp_path: Path
) -> None:
    image = np.zeros((5, 3, 32, 32), np.float32)
    with load(resnet.path, device="cpu") as session:
        assert session.batch_size is None
        assert session.run(image)["logits"].shape == (5, 10)
    fixed = export("resnet20", tmp_path, replace(RANDOM, batch=3, opset=18))
    proto = onnx.load(fixed.path / "model.onnx")
    assert [o.version for o in proto.opset_import if not o.domain] == [18]
    with load(fixed.path, device="cpu") as session:
        assert session.batch_size == 3
        session.self_test()
        assert len(session.classify(bundled_subset().images[:7])) == 7


def test_two_exports_are_equal_to_the_byte(resnet: Exported, tmp_path: Path) -> None:
    again = export("resnet20", tmp_path, RANDOM)
    for name in ("model.onnx", "golden.npz", "manifest.json"):
        assert (again.path / name).read_bytes() == (resnet.path / name).read_bytes(), name


def test_a_broken_contract_fails_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import repr_export.sources.opening as sources

    wrong = replace(resolve("lenet5"), fold=FoldContract(batchnorms=2))
    monkeypatch.setattr(sources, "resolve", lambda _: wrong)
    with pytest.raises(FoldContractError, match=r"0 of 0 .* promises 2 of 2"):
        export("lenet5", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_fails_and_keeps_the_artifact_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export("lenet5", tmp_path)
    content = {p.name: p.read_bytes() for p in before.path.iterdir()}
    whole = pipeline.serialize

    def slightly_off(model: object) -> bytes:
        proto = onnx.ModelProto.FromString(whole(model))  # type: ignore[arg-type]
        bias = next(t for t in proto.graph.initializer if t.name == "fc3.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 0.02  # of logits that spread over some twenty
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return proto.SerializeToString()

    monkeypatch.setattr(pipeline, "serialize", slightly_off)
    with pytest.raises(ParityError, match="No artifact was written"):
        export("lenet5", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["lenet5"]
    assert {p.name: p.read_bytes() for p in before.path.iterdir()} == content
    with pytest.raises(ParityError):
        export("lenet5", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_labels_must_be_as_many_as_classes(graphs: Any, tmp_path: Path) -> None:
    text = "g (float[n,3,2,2] x) => (float[n,4] y) { f = Flatten(x) y = Gemm(f, w) }"
    (tmp_path / "small.onnx").write_bytes(graphs.content(text, w=graphs.draw(12, 4)))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    options = ExportOptions(labels=tmp_path / "labels.txt")
    with pytest.raises(OptionError, match="3 labels, the network has 4 classes"):
        export(str(tmp_path / "small.onnx"), tmp_path / "out", options)


@pytest.mark.large
@pytest.mark.slow
def test_an_imagenet_network_is_proven_at_its_full_size(tmp_path: Path) -> None:
    manifest = export("resnet18.imagenet", tmp_path, RANDOM).manifest
    assert manifest.receipts["fold"]["summary"] == "20 of 20 BatchNorms folded"
    assert all(row["relative"] <= 1e-4 for row in manifest.receipts["parity"]["differences"])


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from repr_export import cli
from repr_export.options import ExportOptions
from repr_export.sources import onnx as onnx_source
from repr_runtime.artifact.reading import read_file, read_manifest
from repr_runtime.errors import ArtifactNotFoundError

out, rng = Path(sys.argv[1]), random.Random(0)
names = ["a", "b"]
kills = {"early": 0, "writing": 0, "done": 0}
source = "lenet5"
def export(name):
    return cli.main([source, "-o", str(out), "--name", name, "--quiet"])

# All that an export imports and sets up is there before the forks, which then only export;
# without threads, which a fork would not have.
torch.set_num_threads(1)
assert export("first") == 0
source = str(out / "first/model.onnx")  # from here without torch's tracing, nine tenths of the time
onnx_source.crash_of = lambda *_: ""  # nor with a process of its own for a first run
assert export("second") == 0
began = time.monotonic()
assert export("second") == 0
seconds = time.monotonic() - began

def whole(name):
    try:
        manifest = read_manifest(out / name)
    except ArtifactNotFoundError:
        assert not (out / name).exists(), "a folder that is no artifact"
        return False
    for entry in manifest.files:
        read_file(out / name, entry)
    return True

for turn in range(50):
    name = names[turn % 2]
    existed = whole(name)
    child = os.fork()
    if child == 0:
        os._exit(export(name))
    began = time.monotonic()
    # Half are killed at a random moment, half when their files begin to appear.
    deadline = began + rng.uniform(0, seconds) if turn % 4 < 2 else float("inf")
    what = "early"
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, status
            what, seconds = "done", time.monotonic() - began
            break
        if deadline == float("inf") and list(out.glob(f".{name}.partial.*.{child}.*")):
            time.sleep(rng.uniform(0, 0.004))
            what = "writing"
            break
        time.sleep(0.0005)
    if what != "done":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    kills[what] += 1
    assert whole(name) or not existed, f"the artifact {name} is gone"
print(kills)
"""


@pytest.mark.large
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fifty_kills_leave_whole_artifacts_or_none(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a forked child has no threads of its parent
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    kills = json.loads(run.stdout.strip().replace("'", '"'))
    assert kills["early"] + kills["writing"] >= 25, kills
    assert kills["writing"] >= 10, kills
    # What the killed runs left behind goes with the next export, and changes nothing in it.
    done = export("lenet5", tmp_path, ExportOptions(name="a"))
    assert not list(tmp_path.glob(".a.partial*"))
    with load(done.path, device="cpu") as session:
        session.self_test()
