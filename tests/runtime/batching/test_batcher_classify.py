"""The batcher as a service finds it: its defaults, and images to predictions through it."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from repr_runtime import Batcher, errors, load

IMAGES = [np.random.default_rng(i).integers(0, 256, (5 + i, 12 - i, 3), np.uint8) for i in range(7)]


def test_the_defaults_start_at_once_and_bound_what_waits(tiny: Any, tmp_path: Path) -> None:
    for batch, expected in (("batch", (32, 0.0, 512)), (4, (4, 0.0, 64))):
        path = tiny.write(tmp_path / str(batch), batch=batch)
        with load(path, device="cpu", threads=1) as session, Batcher(session) as made:
            assert (made.max_batch, made.max_delay, made.queue_limit) == expected
            x = tiny.inputs(2)
            np.testing.assert_allclose(made.run(x)["logits"], tiny.logits(x), rtol=1e-4)


def test_images_are_classified_as_by_the_session(artifact: Path) -> None:
    with (
        load(artifact, device="cpu", threads=1) as session,
        Batcher(session, max_batch=3) as made,
    ):
        expected = session.classify(IMAGES, top=2)
        found = made.classify(IMAGES, top=2, timeout=30)
        later = asyncio.run(made.classify_async(IMAGES, top=2, timeout=30))
        assert made.stats().batches == {1: 2, 3: 4}
        (one,) = made.classify(IMAGES[0])
    for predictions in (found, later):
        assert [p.label for p in predictions] == [p.label for p in expected]
        assert [[row[:2] for row in p.top] for p in predictions] == [
            [row[:2] for row in p.top] for p in expected
        ]
        np.testing.assert_allclose(
            [p.probability for p in predictions], [p.probability for p in expected], rtol=1e-5
        )
    assert one.label == expected[0].label


def test_what_is_refused_before_anything_is_asked(artifact: Path) -> None:
    with load(artifact, device="cpu", threads=1) as session, Batcher(session) as made:
        for classify in (made.classify, lambda *a, **k: asyncio.run(made.classify_async(*a, **k))):
            with refuses(errors.OptionError, "top must be a whole number, 1 or more, got 0"):
                classify(IMAGES, top=0)
            with refuses(errors.OptionError, "timeout must be seconds, got 'soon'"):
                classify(IMAGES, timeout="soon")
            with refuses(errors.ImageError, "an image must be uint8"):
                classify(IMAGES[0].astype(np.float32))
            with refuses(errors.DeadlineExceededError, "the deadline had passed"):
                classify(IMAGES, timeout=-1)
        with refuses(errors.InputDtypeError, "classify(images)", "preprocess(images)"):
            made.run(IMAGES[0])
        assert made.stats().batches == {}


@pytest.mark.parametrize("missing", ["preprocessing", "labels"])
def test_what_the_manifest_must_say_for_it(tiny: Any, tmp_path: Path, missing: str) -> None:
    path = tiny.write(tmp_path / "a", **{missing: None})
    with load(path, device="cpu", threads=1) as session, Batcher(session) as made:
        if missing == "labels":
            (prediction,) = made.classify(IMAGES[0])
            assert prediction.label == str(prediction.index)
        else:
            with refuses(errors.PreprocessingMissingError, "--mean and --std"):
                made.classify(IMAGES[0])
