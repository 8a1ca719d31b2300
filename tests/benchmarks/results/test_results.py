"""Results on disk: the same when read back, refused when newer or altered, written at once."""

import json
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenario_rows
from page_results import AGREEMENT, FAILED, RESULTS, ROW, everything, with_graph, with_row

from repr_bench.errors import ResultsError
from repr_bench.results.file import (
    ADDED,
    SCHEMA,
    from_json,
    read_results,
    to_json,
    write_results,
    write_text,
)
from repr_bench.results.graph import Flips


def test_every_kind_of_row_is_read_back(tmp_path: Path) -> None:
    rows = (scenario_rows.STREAM, scenario_rows.OFFLINE, scenario_rows.LOADGEN)
    whole = replace(everything(), interrupted=True)
    whole = replace(whole, scenarios=(*whole.scenarios, *rows))
    write_results(whole, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == whole
    assert os.listdir(tmp_path) == ["results.json"]


def _strip(value: Any, added: Collection[str]) -> Any:
    """``value`` as it was before those were added."""
    if isinstance(value, dict):
        return {key: _strip(one, added) for key, one in value.items() if key not in added}
    return [_strip(one, added) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_a_file_of_an_older_schema_is_read_without_what_came_later(schema: int) -> None:
    body = json.loads(to_json(RESULTS))
    added = [name for names in ADDED[: SCHEMA - schema] for name in names]
    old = _strip(body, added) | {"schema": schema, "environment": body["environment"]}
    assert from_json(json.dumps(old)) == RESULTS
    del old["rows"][0]["rounds_ns"]
    with pytest.raises(ResultsError, match="rounds_ns"):
        from_json(json.dumps(old))


def test_derived_figures_by_hand() -> None:
    # 12 rounds of k+1 .. k+10 ms: 120 samples, symmetric about 11 ms
    pooled = sorted(k + i for k in range(12) for i in range(1, 11))
    assert ROW.samples == 120
    by_hand = {50: pooled[59], 90: pooled[107], 99: pooled[118]}
    assert {p: f.value for p, f in ROW.latency_ms.items()} == by_hand
    rate: Any = ROW.images_per_second
    of_eights: Any = replace(ROW, batch=8).images_per_second
    assert rate.value == pytest.approx(120 / (sum(pooled) / 1e3))
    assert of_eights.value == pytest.approx(8 * rate.value)
    for found in (*ROW.latency_ms.values(), rate):
        assert found.interval is not None
        assert found.interval.low < found.value < found.interval.high
    assert (FAILED.latency_ms, FAILED.images_per_second) == ({}, None)


def test_json_holds_samples_on_a_line_and_derived_figures() -> None:
    text = to_json(with_graph(agreement=AGREEMENT, flips=Flips(9, 12)))
    assert '"rounds_ns": [\n' in text
    assert "[1000000,2000000,3000000," in text
    body = json.loads(text)
    assert body["schema"] == SCHEMA
    assert body["rows"][0]["rounds_ns"][0] == list(ROW.rounds_ns[0])
    derived = body["rows"][0]["derived"]
    assert derived["p50_ms"]["value"] == ROW.latency_ms[50].value
    assert derived["top1_percent"]["value"] == 75.0
    assert derived["agreement_percent"]["value"] == 99.5
    assert derived["flips_p_value"]["value"] == pytest.approx(0.6636, abs=1e-4)
    assert "nearest rank" in body["formulae"]["percentile"]


def test_samples_in_names_are_left_alone() -> None:
    hostile = with_row(label="[\n1, 2\n]")
    assert from_json(to_json(hostile)) == hostile


def test_newer_schema_is_refused_with_the_way_out() -> None:
    newer = SCHEMA + 1
    body = json.loads(to_json(RESULTS)) | {"schema": newer, "rows": "of another kind"}
    with pytest.raises(ResultsError, match=rf"schema {newer}.*pip install -U repr-deploy"):
        from_json(json.dumps(body))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "1"}', '{"schema": true}', "{}"])
def test_what_is_no_results_file_is_refused(text: str) -> None:
    with pytest.raises(ResultsError):
        from_json(text)


MISSING = object()


def _at(body: Any, parents: list[str]) -> Any:
    for key in parents:
        body = body[int(key) if isinstance(body, list) else key]
    return body


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(
            ("started", 3),
            ("interrupted", 1),
            ("rows", None),
            ("rows.0", []),
            ("rows.0.batch", "8"),
        ),
        *(("rows.0.batch", True), ("rows.0.status", "splendid"), ("rows.0.rounds_ns.0.0", 1.5)),
        *(("rows.0.rounds_ns.0", 7), ("rows.0.graph.bytes", None), ("rows.0.surprise", 1)),
        *(("rows.0.graph.accuracy.top1", "1500"), ("settings.seconds", float("inf"))),
        *(("environment.versions.numpy", 2), ("environment.load_before.0", "low")),
        *((path, MISSING) for path in ("rows", "started", "environment", "settings", "machine")),
        *((f"rows.0.{name}", MISSING) for name in ("rounds_ns", "reason", "graph", "graph.bar")),
        ("settings.quick", MISSING),
    ],
)
def test_a_field_that_is_missing_or_of_the_wrong_kind_is_named(path: str, value: object) -> None:
    body = json.loads(to_json(RESULTS))
    *parents, last = path.split(".")
    here = _at(body, parents)
    if value is MISSING:
        del here[last]
    else:
        here[int(last) if isinstance(here, list) else last] = value
    with pytest.raises(ResultsError) as caught:
        from_json(json.dumps(body), "old.json")
    assert "old.json" in str(caught.value)
    assert last in str(caught.value).replace("[", ".").replace("]", "")


def test_a_link_and_a_device_are_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert (link.is_symlink(), real.read_text()) == (True, "new")
    write_text(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


def test_what_cannot_be_read_or_written_is_an_error_of_ours_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResultsError, match=r"nothing\.json"):
        read_results(tmp_path / "nothing.json")
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResultsError, match="cannot be written: No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
