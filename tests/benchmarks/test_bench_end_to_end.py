"""From a network's name to the table: what is shown is what torch says of the same images."""

import re
from pathlib import Path
from typing import Any

import pytest

from repr_bench import cli
from repr_bench.results.file import read_results
from repr_models.data.cifar10 import bundled_subset
from repr_models.registry import resolve
from repr_models.weights.loading import load_weights


@pytest.mark.slow
def test_top1_in_the_table_is_torchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from repr_runtime.artifact.manifest import PreprocessingInfo
    from repr_runtime.preprocess import preprocess

    monkeypatch.chdir(tmp_path)
    command = ["lenet5", "--seconds", "0.1", "--batch", "1", "--json", "r.json"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert "exporting lenet5.cifar10" in err
    row: Any = read_results(tmp_path / "r.json").rows[0]

    spec, data = resolve("lenet5"), bundled_subset()
    network = spec.build()
    load_weights(network, None, spec)
    wanted = spec.preprocessing
    info = PreprocessingInfo(wanted.resize, (wanted.crop,) * 2, wanted.mean, wanted.std)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(preprocess(data.images, info)))
    hits = int((logits.argmax(1).numpy() == data.labels).sum())
    assert row.graph.accuracy.top1 == hits
    assert row.graph.accuracy.sha256 == data.sha256
    agreement = row.graph.agreement
    assert (agreement.reference, agreement.same) == ("the torch network", len(data))
    assert agreement.largest_shift < 1e-4
    assert row.graph.parameters == spec.parameters == sum(p.numel() for p in network.parameters())
    (shown,) = re.findall(r"^lenet5 +fp32 +1 .*? (\d+\.\d\d) \(", out, re.MULTILINE)
    assert float(shown) == pytest.approx(100 * hits / len(data), abs=0.005)

    # the second time nothing is exported
    assert cli.main([*command, "--quiet"]) == 0
    assert read_results(tmp_path / "r.json").rows[0].graph == row.graph
