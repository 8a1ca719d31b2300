"""From JPEG to label: the stages give what `classify` gives, and their times add up."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    assert [name for name, _ in stages] == [
        *("decode", "resize", "normalise", "copy", "infer", "softmax")
    ]
    assert [label for label, _ in value] == [prediction.label for prediction in predictions]
    assert [p for _, p in value] == [prediction.probability for prediction in predictions]


def test_networks_that_take_no_images_are_refused(make_artifact: ArtifactMaker) -> None:
    with (
        load(make_artifact(preprocessing=False), device="cpu") as session,
        pytest.raises(UsageError, match="does not say how images become inputs"),
    ):
        stages_of(session)


class Ticking:
    """A clock that the stages move by what they cost."""

    def __init__(self) -> None:
        self.now = 0

    def clock(self) -> int:
        return self.now

    def stage(self, cost: int) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            self.now += cost
            return value

        return run


def test_each_stage_gets_its_own_time() -> None:
    ticking = Ticking()
    seen: list[Any] = []

    def first(value: Any) -> Any:
        seen.append(value)
        return ticking.stage(3_000_000)(value)

    stages = (("decode", first), ("infer", ticking.stage(5_000_000)))
    bare = ticking.stage(4_000_000)
    plan = Plan(seconds=0.12, samples=4, rounds=2)
    found = measure_stages(stages, ["a", "b"], lambda: bare(None), plan, clock=ticking.clock)
    stages_ns, bare_ns = found.frozen()
    # 12 ms a call with its bare one, 60 ms a round
    assert stages_ns == (((3_000_000,) * 5,) * 2, ((5_000_000,) * 5,) * 2)
    assert bare_ns == ((4_000_000,) * 5,) * 2
    assert seen[3:] == ["a", "b"] * 5  # after three calls of warm-up
    assert not found.interrupted


def test_ctrl_c_keeps_the_rounds_that_are_whole() -> None:
    ticking = Ticking()
    calls = 0

    def stage(value: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return ticking.stage(1_000_000)(value)

    plan = Plan(seconds=1e-9, samples=8, rounds=2)
    bare = ticking.stage(1)
    found = measure_stages((("s", stage),), ["a"], lambda: bare(None), plan, clock=ticking.clock)
    assert found.interrupted
    assert [len(samples) for samples in found.bare_ns] == [4]
    assert [len(samples) for samples in found.stages_ns[0]] == [4]


def test_a_row_for_an_artifact(
    make_artifact: ArtifactMaker, graph: Graph, no_progress: Any
) -> None:
    row = StageRow(label="linear", precision="fp32", batch=2, status="interrupted")
    request = Request((), plan=Plan(seconds=0.01, samples=4, rounds=2))
    with load(make_artifact(), device="cpu", threads=1) as session:
        system = SystemUnderTest(
            label="linear",
            precision="fp32",
            graph=graph,
            session=session,
            images=bundled_subset(),
            request=request,
            options=ScenarioOptions(),
            listener=no_progress,
        )
        found = measure_from_jpeg(system, row)
        own = measure_from_jpeg(replace(system, images=None), row)
    assert (found.status, found.reason) == ("measured", "")
    assert found.calls >= 4
    assert set(found.medians_ms) == {*found.stages, "total", "bare"}
    assert found.images.startswith("evaluation images as JPEG")
    assert own.images.startswith("bundled CIFAR-10 images as JPEG")
    assert replace(own, stages_ns=(), bare_ns=(), images=found.images) == replace(
        found, stages_ns=(), bare_ns=()
    )
