"""lenet5 with real peers: the same top-1, figures for each, results that the bars can read."""

from pathlib import Path

import pytest

from repr_bench import bars, cli
from repr_bench.measuring.measure import Plan
from repr_bench.results.file import read_results
from repr_bench.results.peers import OURS, SameAnswers, best_ratios, ratios_at


@pytest.mark.slow
def test_torch_and_onnx_runtime_on_lenet5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    command = ["lenet5", "--seconds", "0.05", "--samples", "12", "--batch", "1", "--threads", "1"]
    peers = ["--peers", "torch,onnxruntime", "--device", "cpu", "--json", "r.json", "--quiet"]
    assert cli.main([*command, *peers]) == 0
    rows = read_results(tmp_path / "r.json").peers
    assert [(row.measure, row.peer) for row in rows] == [
        (measure, peer)
        for measure in ("latency", "throughput")
        for peer in (OURS, "torch", "onnxruntime")
    ]
    for row in rows:
        assert (row.status, row.reason) == ("measured", "")
        assert (row.same_answers, len(row.rounds_ns)) == (SameAnswers(200, 200), Plan().rounds)
    for peer in ("torch", "onnxruntime"):
        assert len(ratios_at(rows, "latency", peer, 1)) == len(best_ratios(rows, peer)) == 1
    out = capsys.readouterr().out
    assert "onnxruntime, fp32 latency at batch 1: ours is " in out
    bars.main(["r.json"])
    shown = capsys.readouterr().out.splitlines()
    assert "fp32 at batch 1" in shown[0]
    assert "over 1 network; least" in shown[0]
    assert any(line.startswith("NOT MEASURED   int8 to fp32") for line in shown)
