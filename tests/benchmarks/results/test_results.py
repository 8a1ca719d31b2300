"""Results on disk: the same when read back, refused when newer or altered, written at once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repr_bench.errors import ResultsError
from repr_bench.results.file import (
    SCHEMA,
    from_json,
    read_results,
    to_json,
    write_results,
    write_text,
)
from repr_bench.results.results import Results
from repr_bench.results.row import Row


def test_round_trip(results: Results, failed_row: Row, tmp_path: Path) -> None:
    results = replace(results, rows=(*results.rows, failed_row), interrupted=True)
    path = tmp_path / "results.json"
    write_results(results, path)
    assert read_results(path) == results
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_from_before_bars_is_read(results: Results) -> None:
    body = json.loads(to_json(results))
    del body["left_out"], body["rows"][0]["graph"]["bar"], body["rows"][0]["graph"]["trained_top1"]
    assert from_json(json.dumps(body)) == results


def test_derived_figures_by_hand(row: Row) -> None:
    # 12 rounds of k+1 .. k+10 ms: 120 samples, symmetric about 11 ms
    pooled = sorted(k + i for k in range(12) for i in range(1, 11))
    assert row.samples == 120
    assert {p: f.value for p, f in row.latency_ms.items()} == {
        50: pooled[59],
        90: pooled[107],
        99: pooled[118],
    }
    assert row.images_per_second is not None
    assert row.images_per_second.value == pytest.approx(120 / (sum(pooled) / 1e3))
    eight = replace(row, batch=8)
    assert eight.images_per_second is not None
    assert eight.images_per_second.value == pytest.approx(8 * row.images_per_second.value)
    for found in (*row.latency_ms.values(), row.images_per_second):
        assert found.interval is not None
        assert found.interval.low < found.value < found.interval.high


def test_json_holds_samples_and_derived_figures(results: Results) -> None:
    body = json.loads(to_json(results))
    assert body["schema"] == SCHEMA
    assert body["rows"][0]["rounds_ns"][0] == list(results.rows[0].rounds_ns[0])
    derived = body["rows"][0]["derived"]
    assert derived["p50_ms"]["value"] == results.rows[0].latency_ms[50].value
    assert derived["top1_percent"]["value"] == 75.0
    assert "nearest rank" in body["formulae"]["percentile"]


def test_a_rounds_samples_stand_on_one_line(results: Results) -> None:
    text = to_json(results)
    assert '"rounds_ns": [\n' in text
    assert "[1000000,2000000,3000000," in text


def test_samples_in_names_are_left_alone(results: Results) -> None:
    hostile = replace(results.rows[0], label="[\n1, 2\n]")
    assert from_json(to_json(replace(results, rows=(hostile,)))).rows[0].label == "[\n1, 2\n]"


def test_rows_without_samples_have_no_figures(failed_row: Row) -> None:
    assert failed_row.latency_ms == {}
    assert failed_row.images_per_second is None


def test_newer_schema_is_refused_with_the_way_out(results: Results) -> None:
    newer = SCHEMA + 1
    body = json.loads(to_json(results)) | {"schema": newer, "rows": "of another kind"}
    with pytest.raises(ResultsError, match=rf"schema {newer}.*pip install -U repr-deploy"):
        from_json(json.dumps(body))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "1"}', '{"schema": true}', "{}"])
def test_what_is_no_results_file_is_refused(text: str) -> None:
    with pytest.raises(ResultsError):
        from_json(text)


def _set(body: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    here: Any = body
    for key in parents:
        here = here[int(key)] if isinstance(here, list) else here[key]
    here[int(last) if isinstance(here, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("started", 3),
        ("interrupted", 1),
        ("rows", None),
        ("rows.0", []),
        ("rows.0.batch", "8"),
        ("rows.0.batch", True),
        ("rows.0.status", "splendid"),
        ("rows.0.rounds_ns.0.0", 1.5),
        ("rows.0.rounds_ns.0", 7),
        ("rows.0.graph.bytes", None),
        ("rows.0.graph.accuracy.top1", "1500"),
        ("settings.seconds", float("inf")),
        ("environment.versions.numpy", 2),
        ("environment.load_before.0", "low"),
        ("rows.0.surprise", 1),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(results: Results, path: str, value: object) -> None:
    body = json.loads(to_json(results))
    _set(body, path, value)
    with pytest.raises(ResultsError) as caught:
        from_json(json.dumps(body), "old.json")
    assert "old.json" in str(caught.value)
    assert path.split(".")[-1] in str(caught.value).replace("[", ".").replace("]", "")


@pytest.mark.parametrize("path", ["rows", "started", "environment", "settings"])
def test_a_missing_field_is_named(results: Results, path: str) -> None:
    body = json.loads(to_json(results))
    del body[path]
    with pytest.raises(ResultsError, match=path):
        from_json(json.dumps(body))


def test_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"nothing\.json"):
        read_results(tmp_path / "nothing.json")


def test_an_interrupted_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    write_text(path, "old")

    def killed(_source: object, _target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_write_keeps_a_link_and_writes_through_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_write_to_a_pipe_goes_into_it() -> None:
    write_text(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


def test_write_into_no_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be written"):
        write_text(tmp_path / "no" / "r.json", "x")


def test_a_file_of_schema_1_is_read_without_what_came_later(results: Results) -> None:
    body = json.loads(to_json(results))
    for name in ("machine", "yardstick", "comparison"):
        del body[name]
    assert from_json(json.dumps(body | {"schema": 1})) == results
