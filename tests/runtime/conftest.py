"""Tiny artifacts, made in milliseconds, and one real export a session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper
from tiny_artifact import Tiny

from repr_runtime.cli import main


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def artifact(tiny: Tiny, tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny")


@pytest.fixture
def inspect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """`repr-inspect`: its exit status and what it shows, where there is no terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def inspect(*arguments: object) -> tuple[int, str]:
        return main([*map(str, arguments)]), capsys.readouterr().out

    return inspect


@pytest.fixture(scope="session")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from repr_export.pipeline import export

    return export("lenet5", tmp_path_factory.mktemp("artifacts")).path


@pytest.fixture
def two_inputs(tiny: Tiny, tmp_path: Path) -> Path:
    """``total = left + right``, both (n, 2)."""
    return tiny.write_model(
        tmp_path / "two",
        [helper.make_node("Add", ["left", "right"], ["total"])],
        {"left": ("n", 2), "right": ("n", 2)},
        {"total": ("n", 2)},
    )
