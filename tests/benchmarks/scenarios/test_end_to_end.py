"""From JPEG to label: the stages give what `classify` gives, and their times add up."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_queue import World
from PIL import Image

from repr_bench.errors import UsageError
from repr_bench.measuring.measure import Plan
from repr_bench.request import Request, ScenarioOptions
from repr_bench.results.graph import Graph
from repr_bench.results.scenarios import StageRow
from repr_bench.scenarios.end_to_end import (
    PHOTOGRAPH,
    decode_jpeg,
    encode_jpegs,
    measure_from_jpeg,
    measure_stages,
    stages_of,
)
from repr_bench.scenarios.system import SystemUnderTest
from repr_models.data.cifar10 import bundled_subset
from repr_runtime import load
from repr_runtime.artifact.manifest import PreprocessingInfo

ArtifactMaker = Callable[..., Path]
SMALL = PreprocessingInfo(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
LARGE = PreprocessingInfo(256, (224, 224), (0.5,) * 3, (0.25,) * 3)


def test_jpegs_are_of_the_images_and_as_large_as_the_network_asks_for() -> None:
    images = bundled_subset().images[:4]
    files, what = encode_jpegs(images, "evaluation images", info=SMALL)
    assert what.startswith("evaluation images as JPEG of quality 95, 32×32, ")
    for file, image in zip(files, images, strict=True):
        assert Image.open(io.BytesIO(file)).format == "JPEG"
        pixels = decode_jpeg(file)
        assert (pixels.shape, pixels.dtype) == (image.shape, np.uint8)
        assert np.abs(pixels.astype(int) - image).mean() < 8
    files, what = encode_jpegs(images, "evaluation images", info=LARGE)
    assert "upscaled to 375×500" in what
    assert decode_jpeg(files[0]).shape == (*PHOTOGRAPH, 3)


def test_the_stages_give_the_labels_that_classify_gives(make_artifact: ArtifactMaker) -> None:
    images = bundled_subset().images[:6]
    files, _ = encode_jpegs(images, "evaluation images", info=SMALL)
    with load(make_artifact(), device="cpu", threads=1) as session:
        value: Any = files
        stages = stages_of(session)
        for _, stage in stages:
            value = stage(value)
        predictions = session.classify([decode_jpeg(file) for file in files])
    names = [name for name, _ in stages]
    assert names == ["decode", "resize", "normalise", "copy", "infer", "softmax"]
    assert value == [(found.label, found.probability) for found in predictions]


def test_networks_that_take_no_images_are_refused(make_artifact: ArtifactMaker) -> None:
    with (
        load(make_artifact(preprocessing=False), device="cpu") as session,
        pytest.raises(UsageError, match="does not say how images become inputs"),
    ):
        stages_of(session)


class Ticking(World):
    """A clock that the stages move by what they cost in ms."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def stage(self, cost: int) -> Callable[[Any], Any]:
        spend = self.call("stage", cost)

        def run(value: Any) -> Any:
            self.seen.append(value)
            spend()
            return value

        return run


def test_each_stage_gets_its_own_time() -> None:
    ticking = Ticking()
    stages = (("decode", ticking.stage(3)), ("infer", ticking.stage(5)))
    plan = Plan(seconds=0.12, samples=4, rounds=2)
    bare = ticking.call("bare", 4)
    found = measure_stages(stages, ["a", "b"], bare, plan, clock=ticking.clock)
    stages_ns, bare_ns, interrupted = found
    # 12 ms a call with its bare one, 60 ms a round
    assert stages_ns == (((3_000_000,) * 5,) * 2, ((5_000_000,) * 5,) * 2)
    assert bare_ns == ((4_000_000,) * 5,) * 2
    assert ticking.seen[6:] == ["a", "a", "b", "b"] * 5  # after three calls of warm-up
    assert not interrupted


def test_ctrl_c_keeps_the_rounds_that_are_whole() -> None:
    ticking = Ticking()
    ticking.stop_at = 16  # stage and network alone: three of each to warm up, four, and one
    stages = (("s", ticking.stage(1)),)
    plan = Plan(seconds=1e-9, samples=8, rounds=2)
    found = measure_stages(stages, ["a"], ticking.call("bare", 1), plan, clock=ticking.clock)
    (stage_ns,), bare_ns, interrupted = found
    assert interrupted
    assert [[*map(len, bare_ns)], [*map(len, stage_ns)]] == [[4], [4]]


def test_a_row_for_an_artifact(
    make_artifact: ArtifactMaker, graph: Graph, no_progress: Any
) -> None:
    row = StageRow(label="linear", precision="fp32", batch=2, status="interrupted")
    request = Request((), plan=Plan(seconds=0.01, samples=4, rounds=2))
    with load(make_artifact(), device="cpu", threads=1) as session:
        images, options = bundled_subset(), ScenarioOptions()
        system = SystemUnderTest(
            *("linear", "fp32", graph, session, images, request, options, no_progress)
        )
        found = measure_from_jpeg(system, row)
        own = measure_from_jpeg(replace(system, images=None), row)
    assert (found.status, found.reason) == ("measured", "")
    assert found.calls >= 4
    assert set(found.medians_ms) == {*found.stages, "total", "bare"}
    assert found.images.startswith("evaluation images as JPEG")
    assert own.images.startswith("bundled CIFAR-10 images as JPEG")
    alike = {"stages_ns": (), "bare_ns": (), "images": ""}
    assert replace(own, **alike) == replace(found, **alike)
