"""One service of tiny artifacts for the tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from serving import running

from repr_serve import HttpApp, ModelOptions, Service, Source, app

CPU = ModelOptions(device="cpu", instances=1, max_batch=4, timeout=20)


@pytest.fixture
def service(artifact: Path) -> Iterator[Service]:
    made = Service([Source("tiny", artifact)], CPU)
    made.load_all()
    yield made
    made.close()


@pytest.fixture
def pair(tiny: Any, tmp_path: Path) -> Path:
    """``total = left + right``, both (n, 2): no pictures, and no labels."""
    one = np.ones((3, 2), np.float32)
    return Path(
        tiny.write_model(
            tmp_path / "pair",
            [helper.make_node("Add", ["left", "right"], ["total"])],
            {"left": ("n", 2), "right": ("n", 2)},
            {"total": ("n", 2)},
            golden={"input.left": one, "input.right": one, "output.total": one + one},
            receipts={"golden": {"samples": 3, "tolerance": {"total": 1e-6}}},
        )
    )


@pytest.fixture(scope="module")
def served(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("served")
    made = app({"tiny": tiny.write(folder / "tiny")}, models=CPU)
    yield made
    made.service.close()


@pytest.fixture(scope="module")
def port(served: HttpApp) -> Iterator[int]:
    with running(served, lifespan="off") as port:
        yield port
