"""The reference runs in benchmarks/results: readable, whole, and described by their commands."""

import shlex
from pathlib import Path

import pytest

from repr_bench.results.file import read_results

FOLDER = Path(__file__).parents[3] / "benchmarks" / "results"
# What `make gpu` wrote has a page of its own, which tests/benchmarks/gpu holds against it.
FILES = [path for path in sorted(FOLDER.glob("*/*.json")) if path.name != "steps.json"]


def test_there_are_some() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_is_whole_and_of_no_one_machine_and_the_readme_has_its_command(path: Path) -> None:
    results = read_results(path)
    assert not results.interrupted
    assert "failed" not in {row.status for row in (*results.rows, *results.peers)}
    text = (FOLDER / "README.md").read_text("utf-8")
    assert f"{path.parent.name}/{path.name}" in text
    assert shlex.join(results.command) in text
    assert not any(Path(row.graph.artifact).is_absolute() for row in results.rows if row.graph)
