"""Hostile but sealed manifests: every field of every kind of artifact, and each outcome typed or right.

Some each time; ``REPR_MUTANTS=10000 pytest tests/runtime/artifact/test_mutants.py`` makes
that many, of the seed ``REPR_MUTANTS_SEED``, and says with ``-s`` what came of them.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_place import Place
from mutants import mutants, seal
from onnx import helper

from repr_runtime import Batcher, ReproError, load, read_manifest
from repr_runtime.cli import main
from repr_runtime.errors import LONGEST_TEXT, ManifestError

MANY = int(os.environ.get("REPR_MUTANTS", "120"))
SEED = int(os.environ.get("REPR_MUTANTS_SEED", "0"))
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)


def plain(tiny: Any, folder: Path) -> Path:
    """What real ones hold, too: a record, an engine that nothing here runs, nested receipts."""
    manifest, _ = tiny.parts()
    record = {
        "accuracy": {"test_top1": 0.5, "last": [1, 2]},
        "data": {"test": {"description": "10 images"}},
        "published_top1": 0.7,
        "bar": 0.6,
    }
    rows = [{"layer": "conv", "drop": 0.01, "share": 3}, {"layer": "fc", "drop": 0.02, "share": 4}]
    receipts = {
        **manifest.receipts,
        "fold": {"summary": "1 of 1", "folded": ["a"]},
        "parity": {"summary": "2e-6", "sets": [{"name": "real", "max_abs": 1e-6}]},
        "precision": {"model.int8.onnx": {"summary": "98 %", "sensitivity": rows}},
    }
    receipts["golden"] = {
        **receipts["golden"],
        "description": "3 of noise",
        "inseparable": "",
        "tolerances": {"model.int8.onnx": {"logits": 1e3}},
    }
    more = {
        f"model.int8.{target}.onnx": (tiny.graph(), "graph", "int8", target)
        for target in ("cpu", "tensorrt")
    }
    weights = replace(manifest.weights, kind="bundled", sha256="ab" * 32, record=record)
    return Path(tiny.write(folder, more=more, weights=weights, receipts=receipts))


def centred(tiny: Any, folder: Path) -> Path:
    """Samples that cannot be told apart, without labels or preprocessing."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"]),
        helper.make_node("Sub", ["input", "mean"], ["logits"]),
    ]
    x = tiny.inputs(3).reshape(3, 48)
    receipt = {"samples": 3, "tolerance": {"logits": 1e-6}, "inseparable": "of one another"}
    return Path(
        tiny.write_model(
            *(folder, nodes, {"input": ("n", 48)}, {"logits": ("n", 48)}),
            golden={"input.input": x, "output.logits": x - x.mean(0)},
            receipts={"golden": receipt},
        )
    )


def asked(folder: Path, precision: str, device: str) -> Iterator[tuple[str, Any]]:
    """Everything that an artifact is asked, each by its name, and what it answers."""
    with load(folder, device=device, precision=precision, threads=1) as session:
        x = np.ones((2, *session.inputs[0].shape[1:]), np.float32)
        yield "run", session.run(x)["logits"].tolist()
        yield "self-test", lambda: session.self_test().samples
        yield "classify", lambda: [p.index for p in session.classify(IMAGES)]

        def batched() -> Any:
            with Batcher(session, max_batch=4) as batcher:
                return batcher.run(x[0], timeout=60)["logits"].tolist()

        yield "batcher", batched


def outcomes(folder: Path, precision: str, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for name, ask in asked(folder, precision, device):
            try:
                found[name] = ask() if callable(ask) else ask
            except ReproError as error:
                found[name] = typed(error)
    except ReproError as error:
        found["load"] = typed(error)
    return found


def typed(error: ReproError) -> type[ReproError]:
    words = str(error)
    assert len(words) <= LONGEST_TEXT, len(words)
    assert words.replace("\n", "").isprintable(), words
    words.encode()
    return type(error)


@pytest.mark.parametrize("kind", ["plain", "centred", "engines"])
def test_each_outcome_is_typed_or_right(
    kind: str,
    tiny: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    precision, device = ("int8" if kind == "plain" else "fp32"), "cpu"
    if kind == "engines":
        place = Place(tmp_path / "engines", tiny, request.getfixturevalue("monkeypatch"))
        folder, device = place.write("tensorrt", "tensorrt-rtx"), "auto"
    else:
        folder = (plain if kind == "plain" else centred)(tiny, tmp_path / kind)
    good = json.loads((folder / "manifest.json").read_bytes())
    right = outcomes(folder, precision, device)
    assert not isinstance(right["self-test"], type)
    counts: Counter[str] = Counter()
    for what, data in islice(mutants(good, SEED), MANY // 3):
        seal(folder, data)
        found = outcomes(folder, precision, device)
        for name, answer in found.items():
            counts[f"{name}: {answer.__name__ if isinstance(answer, type) else 'right'}"] += 1
            other = (
                name == "batcher" and kind == "centred" and not read_manifest(folder).inseparable
            )
            other |= name == "classify" and data.get("preprocessing") != good["preprocessing"]
            other |= name == "self-test"  # its count of samples, and its bounds, are the receipt's
            assert isinstance(answer, type) or answer == right.get(name) or other, (what, name)
        inspected(folder, device, precision, capsys, what)
    report = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    with capsys.disabled():
        if "REPR_MUTANTS" in os.environ:
            print(f"\n{kind}, {MANY // 3} mutants of seed {SEED}: {report}")
    assert counts["run: right"]
    assert counts["load: ManifestError"]


def inspected(
    folder: Path, device: str, precision: str, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """`repr-inspect`, in words and in JSON: neither terminal nor parser meets what it cannot take."""
    more = ["--device", device, "--precision", precision, "--verify"]
    assert main([str(folder), *more]) in (0, 1), what
    shown = capsys.readouterr()
    assert shown.err == "", what
    assert shown.out.replace("\n", "").isprintable(), what
    assert max(map(len, shown.out.split("\n"))) < 20_000, what
    assert main([str(folder), *more, "--json"]) in (0, 1), what
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_what_real_artifacts_hold_is_within_the_bounds(tiny: Any, tmp_path: Path) -> None:
    """21,000 labels of several words, and the receipts of a thousand layers."""
    labels = tuple(f"{'one of the words, and more of them ' * 10}{i}" for i in range(21_000))
    rows = [{"layer": f"/a/b/{i}", "drop": i / 7, "kept": None, "share": i} for i in range(5000)]
    receipts = {**tiny.parts()[0].receipts, "precision": {"sensitivity": rows}}
    path = tiny.write(tmp_path / "a", labels=labels, receipts=receipts)
    assert read_manifest(path).labels == labels


def test_nothing_that_was_not_sealed_is_parsed(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repr_runtime.artifact import parsing

    content = (artifact / "manifest.json").read_bytes()
    (artifact / "manifest.json").write_bytes(content + b" ")
    parsed: list[bytes] = []
    read: Callable[[bytes], Any] = parsing.read_json
    monkeypatch.setattr(parsing, "read_json", lambda c: parsed.append(c) or read(c))
    with pytest.raises(ManifestError, match="altered"):
        load(artifact)
    assert parsed == []
