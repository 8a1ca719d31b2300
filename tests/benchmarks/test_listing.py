"""The list of networks: all of each where there is room, readable where there is not."""

import io
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import pytest
from rich.console import Console

from repr_bench.listing import Entry, Weights, entries, print_list, to_json
from repr_models import registry
from repr_models.spec import FoldContract, Published
from repr_models.weights import bundled as weights

BEHIND = "behind an addition, whose other reader needs the sum"
LENET = Entry(
    name="lenet5.cifar10",
    architecture="lenet5",
    dataset="cifar10",
    family="lenet",
    input_shape=(3, 32, 32),
    classes=10,
    parameters=62_006,
    multiply_adds=651_720,
    batchnorms=0,
    folded=0,
    kept_because="",
    bar=0.7,
    below_bar=False,
    weights=Weights("bundled", "lenet5.cifar10.safetensors", 0.7437, "ab" * 32),
    left_out="",
    artifact="artifacts/lenet5",
)
BELOW = replace(
    LENET,
    name="preact_resnet1001.cifar10",
    architecture="preact_resnet1001",
    parameters=10_327_706,
    multiply_adds=1_234_567_890,
    batchnorms=1000,
    folded=667,
    kept_because=BEHIND,
    bar=0.925,
    below_bar=True,
    weights=replace(LENET.weights, top1=0.9201),
    left_out="92.01 %, below its bar of 92.5 %",
    artifact=None,
)
PUBLISHED = replace(
    BELOW,
    name="inception_resnet_v2.imagenet",
    architecture="inception_resnet_v2",
    dataset="imagenet",
    multiply_adds=13_000_000_000,
    batchnorms=224,
    folded=224,
    kept_because="",
    bar=None,
    below_bar=False,
    weights=Weights("published", "torchvision Some_Weights.IMAGENET1K_V1", 0.8, "ab" * 4, "u"),
    left_out="no bundled weights",
)
BARE = replace(
    PUBLISHED,
    name="vgg16.imagenet",
    architecture="vgg16",
    multiply_adds=None,
    weights=Weights("none"),
    batchnorms=0,
    folded=0,
)
ZOO = [LENET, BELOW, PUBLISHED, BARE]


def printed(width: int) -> list[str]:
    stream = io.StringIO()
    print_list(ZOO, Console(file=stream, width=width, force_terminal=True, highlight=False))
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()]


def test_wide_shows_everything_on_a_line_a_network() -> None:
    lines = printed(200)
    assert [re.split(r"  +", line) for line in lines[1:5]] == [
        ["lenet5.cifar10", "0.06", "0.65", "74.37 ≥ 70", "-", "bundled", "artifacts/lenet5"],
        [
            *("preact_resnet1001.cifar10", "10.33", "1,234.57", "92.01 < 92.5"),
            *("667 of 1000 [1]", "bundled", "-"),
        ],
        [
            *("inception_resnet_v2.imagenet", "10.33", "13,000.00", "80.00", "224 of 224"),
            *("torchvision Some_Weights.IMAGENET1K_V1", "-"),
        ],
        ["vgg16.imagenet", "10.33", "-", "-", "-", "-", "-"],
    ]
    below = " ".join(lines[5:])
    assert f"[1] the others stay: {BEHIND}" in below
    assert "Measured without names given: lenet5.cifar10." in below


def test_eighty_columns_lack_nothing_but_the_artifact() -> None:
    lines = printed(80)
    assert max(map(len, lines)) <= 80
    assert [re.split(r"  +", line) for line in lines[: lines.index("")]] == [
        ["network", "params M", "madds M", "top-1 %", "folded", "weights"],
        ["for cifar10:"],
        ["lenet5", "0.06", "0.65", "74.37 ≥ 70", "-", "bundled"],
        ["preact_resnet1001", "10.3", "1,235", "92.01 < 92.5", "667/1000 [1]", "bundled"],
        ["for imagenet:"],
        ["inception_resnet_v2", "10.3", "13,000", "80.00", "224/224", "torchvision"],
        ["vgg16", "10.3", "-", "-", "-", "-"],
    ]
    assert "No room" not in " ".join(lines)


def test_narrower_drops_columns_and_says_which() -> None:
    lines = printed(72)
    assert max(map(len, lines)) <= 72
    assert "madds M" not in lines[0]
    assert "params M" in lines[0]
    assert "No room for madds M: in --json" in " ".join(lines)
    assert "92.01 < 92.5" in " ".join(lines)


def test_none_at_its_bar_means_all_bundled(capsys: pytest.CaptureFixture[str]) -> None:
    print_list([BELOW, BARE], Console(width=200))
    assert f"Measured without names given: {BELOW.name}." in capsys.readouterr().out


def test_json_holds_what_the_table_leaves_out() -> None:
    body = json.loads(to_json(ZOO))
    assert body["schema"] == 1
    _, below, published, _ = body["networks"]
    assert below == {**asdict(BELOW), "input_shape": [3, 32, 32]}
    assert published["weights"]["url"] == "u"


def test_entries_are_those_of_the_registry_each_data_set_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> None:
        raise AssertionError("a network was built to be listed")

    known = {spec.name: replace(spec, builder=explode) for spec in registry.networks()}
    known["lenet5.cifar10"] = replace(known["lenet5.cifar10"], bar=0.99)
    known["resnet50.imagenet"] = replace(
        known["resnet50.imagenet"],
        published=Published("library W", "https://example.org/a.pth", "ab" * 4, 0.76),
        fold=FoldContract(53, 3, BEHIND),
    )
    monkeypatch.setattr(registry, "registered", known)
    (tmp_path / "lenet5").mkdir()
    (tmp_path / "lenet5" / "manifest.json").write_text("{}")
    found = {entry.name: entry for entry in entries(tmp_path)}
    assert set(found) == {spec.name for spec in registry.networks()}
    sets = [dataset for dataset, _ in groupby(entry.dataset for entry in found.values())]
    assert len(sets) == len(set(sets)) > 1
    bundled = {name for name, entry in found.items() if entry.weights.kind == "bundled"}
    assert bundled == {spec.name for spec in registry.networks() if weights.is_bundled(spec)}
    assert all(0.1 < (found[name].weights.top1 or 0) < 1 for name in bundled)
    lenet, resnet = found["lenet5.cifar10"], found["resnet50.imagenet"]
    assert (lenet.parameters, lenet.multiply_adds) == (62_006, 651_720)
    record = weights.bundled_record(registry.resolve("lenet5"))
    assert lenet.weights.top1 == record["accuracy"]["test_top1"]
    assert (lenet.below_bar, lenet.artifact) == (True, str(tmp_path / "lenet5"))
    assert "below its bar of 99 %" in lenet.left_out
    assert (resnet.batchnorms, resnet.folded, resnet.kept_because) == (53, 50, BEHIND)
    assert resnet.weights == Weights(
        "published", "library W", 0.76, "ab" * 4, "https://example.org/a.pth"
    )
    assert (resnet.below_bar, resnet.left_out) == (False, "no bundled weights")


def test_listing_imports_neither_exporter_nor_runtime_libraries() -> None:
    code = (
        "import sys; from repr_bench.cli import main; main(['--list', '--quiet']); "
        "slow = {'onnx', 'onnx_ir', 'onnxscript', 'repr_export', 'matplotlib'}; "
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
