"""The script behind the recorded runs: what it keeps of a run, and what a failure leaves alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import record_runs

from repr_bench.measuring.measure import Plan
from repr_bench.results.machine import ReferenceLoadTimes, RoundState
from repr_bench.results.results import Results
from repr_bench.statistics.intervals import percentile

STATE = RoundState(0.25, 0.2, None, 0.05, 0.3, None, (), None, 1.5)


@pytest.fixture
def run(results: Results) -> Results:
    times = tuple(tuple(range(100 + k, 115 + k)) for k in range(13))
    return replace(results, machine=(STATE,) * 12, reference_load=ReferenceLoadTimes(times, times))


def test_of_a_round_the_percentiles_are_kept_and_the_median_is_exact() -> None:
    samples = np.random.default_rng(0).integers(1, 10**6, 997).tolist()
    kept = record_runs.thinned(samples)
    between = [percentile(samples, p) for p in range(5, 100, 5)]
    assert kept.tolist() == [min(samples), *between, max(samples)]
    assert np.median(kept) == np.median(samples)
    assert record_runs.thinned([7]).tolist() == [7] * 21


def test_what_is_written(run: Results, tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    assert record_runs.write([run] * 3, path) == path.stat().st_size
    with np.load(path) as held:
        assert (held["rounds_ns"].shape, held["rounds_ns"].dtype) == ((3, 1, 12, 21), np.int32)
        assert held["product_ns"].shape == (3, 13, 4)
        assert held["copy_ns"][0, 1].tolist() == [101, 102, 103, 104]
        assert np.isnan(held["stolen"]).all()  # what the machine did not tell
        assert held["own"][0, 0] == np.float32(0.2)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["environment"]["cpu"] == "A CPU"
    assert about["waited_percent"] == [20.0] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["some.json", "some.npz"]


def test_a_failure_leaves_the_old_file_whole(
    run: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes(b"old")
    failed = replace(run, rows=(replace(run.rows[0], status="interrupted", reason="Ctrl-C"),))
    with pytest.raises(record_runs.RecordingError, match="Ctrl-C"):
        record_runs.write([run, failed], path)
    monkeypatch.setattr(record_runs, "MOST_BYTES", 10)
    with pytest.raises(record_runs.RecordingError, match="record fewer runs"):
        record_runs.write([run], path)
    assert [p.name for p in tmp_path.iterdir()] == ["some.npz"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("there", [True, False])
def test_ctrl_c_keeps_whole_runs_and_never_replaces_a_file(
    run: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    out = tmp_path / "some.npz"
    if there:
        out.write_bytes(b"old")
    monkeypatch.setattr(record_runs, "_one_run", Mock(side_effect=[run, run, KeyboardInterrupt]))
    status = record_runs.main(["any", "--runs", "9", "--out", str(out)])
    if there:
        assert (status, out.read_bytes()) == (1, b"old")
    else:
        assert status == 0
        with np.load(out) as held:
            assert len(held["own"]) == 2


def test_an_artifact_that_is_not_there_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "none"), "--runs", "1", "--out", str(tmp_path / "some.npz")]
    assert record_runs.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("record_runs: repr-bench failed: ")
    assert (str(tmp_path / "none") in err, "Traceback" in err) == (True, False)
    assert not list(tmp_path.iterdir())


def test_an_artifact_is_recorded(make_artifact: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = make_artifact(), tmp_path / "out"
    out.mkdir()
    arguments = [str(folder), "--runs", "2", "--seconds", "0.05", "--batch", "1,2"]
    assert record_runs.main([*arguments, "--out", str(out / "some.npz")]) == 0
    with np.load(out / "some.npz") as held:
        assert held["rounds_ns"].shape == (2, 2, Plan().rounds, 21)
        assert held["batches"].tolist() == [1, 2]
        assert (held["rounds_ns"] > 0).all()
