"""The artifact with engines, and the backend over fakes, that most tests of this folder use."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_place import Place
from made_backend import Made


@pytest.fixture
def place(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Place(tmp_path / "tiny", tiny, monkeypatch)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def make(**choices: Any) -> Made:
        made.append(Made(tmp_path, **choices))
        return made[-1]

    yield make
    for each in made:
        each.backend.close()
    gc.collect()
    assert all(each.cuda.closed and each.cuda.leaks == {} for each in made)
