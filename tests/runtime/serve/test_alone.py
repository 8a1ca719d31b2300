"""Networks whose samples must not be joined are served all the same, one request at a time."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from serving import held

from repr_runtime import errors
from repr_serve import ModelOptions, Service, Source
from repr_serve.alone import Alone

X = np.array([[1, 2], [3, 5], [8, 0]], np.float32)


@pytest.fixture
def service(tiny: Any, tmp_path: Path) -> Any:
    """``y = x - mean(x)``, the mean over the batch."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    receipt = {"samples": 3, "tolerance": {"y": 1e-6}, "inseparable": "of one another"}
    golden = {"input.x": X, "output.y": X - X.mean(0)}
    path = tiny.write_model(
        *(tmp_path / "centred", nodes, {"x": ("n", 2)}, {"y": ("n", 2)}),
        golden=golden,
        receipts={"golden": receipt},
    )
    made = Service(
        [Source("centred", path)], ModelOptions(device="cpu", instances=1, queue_limit=2)
    )
    made.load_all()
    yield made
    made.close()


def test_each_request_is_a_batch_of_its_own(service: Service) -> None:
    model = service.model("centred")
    assert isinstance(model.runner, Alone)

    async def many() -> list[Any]:
        jobs = [service.infer(model, {"x": X + i}, time.monotonic() + 10) for i in range(2)]
        return [outputs["y"] for _, outputs in await asyncio.gather(*jobs)]

    for y in asyncio.run(many()):
        np.testing.assert_allclose(y, X - X.mean(0), atol=1e-5)
    stats = model.stats()
    assert (stats.accepted, stats.answered, stats.waiting, stats.running) == (2, 2, 0, 0)
    assert stats.batches == {1: 2}


def test_its_queue_has_an_end_and_its_requests_a_deadline(service: Service) -> None:
    model = service.model("centred")

    async def overload() -> None:
        loop = asyncio.get_running_loop()
        with held(model) as entered:
            first = asyncio.create_task(model.runner.run_async({"x": X}))
            assert await loop.run_in_executor(None, entered.acquire, True, 10)
            late = asyncio.create_task(
                model.runner.run_async({"x": X}, deadline=time.monotonic() + 0.05)
            )
            gone = asyncio.create_task(model.runner.run_async({"x": X}))
            await asyncio.sleep(0)
            with pytest.raises(errors.QueueFullError, match="2 requests wait"):
                await model.runner.run_async({"x": X})
            with pytest.raises(errors.DeadlineExceededError, match="no answer within"):
                await late
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert np.allclose((await first)["y"], X - X.mean(0))
        with pytest.raises(errors.InputError, match="x"):
            await model.runner.run_async({"x": X[0]})

    asyncio.run(overload())
    stats = model.stats()
    assert (stats.accepted, stats.refused, stats.answered, stats.failed) == (4, 1, 1, 1)
    assert (stats.cancelled, stats.waiting, stats.running) == (2, 0, 0)
