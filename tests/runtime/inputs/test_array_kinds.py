"""Arrays of classes derived from numpy's, through every door: as they are, or refused for a mask."""

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from refusals import refuses

from repr_runtime import Batcher, Session, errors, load, preflight, read_manifest

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
SCORES = np.random.default_rng(1).standard_normal((2, 5))


@pytest.fixture
def session(artifact: Path) -> Iterator[Session]:
    with load(artifact, device="cpu", threads=1) as session:
        yield session


@pytest.fixture
def rows(tiny: Any, tmp_path: Path) -> Iterator[Session]:
    """``y = x`` where it is positive, (n, 8)."""
    nodes, shape = [helper.make_node("Relu", ["x"], ["y"])], ("n", 8)
    path = tiny.write_model(tmp_path / "rows", nodes, {"x": shape}, {"y": shape})
    with load(path, device="cpu", threads=1) as session:
        yield session


class Hostile(np.ndarray):
    """What it says of itself is not so, or raises."""

    shape: Any = property(lambda _: (7, 7))
    ndim: Any = property(lambda _: 99)

    def __len__(self) -> int:
        raise ZeroDivisionError

    def __getitem__(self, key: Any) -> Any:
        raise ZeroDivisionError

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    def __array_function__(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError


def doors(
    session: Session, made: Batcher, inputs: Any, image: Any, scores: Any
) -> list[tuple[type[errors.InputError], Callable[[], Any]]]:
    """Every way in, and the error of what is wrong there."""
    array, picture = errors.InputTypeError, errors.ImageError
    return [
        (array, lambda: session.run(inputs)["logits"]),
        (array, lambda: session.run({"input": inputs})["logits"]),
        (array, lambda: session.run(input=inputs)["logits"]),
        (array, lambda: session.run_all({"input": inputs})["logits"]),
        (array, lambda: made.run(inputs, timeout=30)["logits"]),
        (array, lambda: made.submit({"input": inputs}).result(30)["logits"]),
        (array, lambda: session.predictions(scores)),
        (picture, lambda: session.preprocess(image)),
        (picture, lambda: session.classify(image)),
        (picture, lambda: session.classify([IMAGE, image])),
        (picture, lambda: made.classify(image)),
        (picture, lambda: asyncio.run(made.classify_async(image))),
    ]


@pytest.mark.parametrize("count", [1, 3])  # of few values and of many
def test_a_mask_that_hides_something_is_refused_at_every_door(
    tiny: Any, session: Session, count: int
) -> None:
    def masked(values: Any) -> Any:
        hidden = np.zeros(values.shape, bool)
        hidden.flat[-1] = True
        return np.ma.array(values, mask=hidden)

    given = (tiny.inputs(count), IMAGE, SCORES)
    with Batcher(session) as made:
        for kind, act in doors(session, made, *map(masked, given)):
            with refuses(kind, "1 of the", "hide behind a mask", "x.filled(0)"):
                act()
        with refuses(errors.InputTypeError, "48 of the 48 values of input 'input' hide"):
            session.run(np.ma.masked_all((1, 3, 4, 4), np.float32))


def test_others_are_what_they_hold(tiny: Any, session: Session, tmp_path: Path) -> None:
    def mapped(values: Any) -> Any:
        file = np.memmap(tmp_path / values.dtype.name, values.dtype, "w+", shape=values.shape)
        file[:] = values
        return file

    given = (tiny.inputs(3), IMAGE, SCORES)
    with Batcher(session) as made:
        plain = [act() for _, act in doors(session, made, *given)]
        for derive in (
            np.ma.array,
            lambda values: np.ma.array(values, mask=np.zeros(values.shape, bool)),
            lambda values: values.view(np.recarray),
            lambda values: values.view(Hostile),
            mapped,
        ):
            for expected, (_, act) in zip(
                plain, doors(session, made, *map(derive, given)), strict=True
            ):
                found = act()
                assert type(found) is type(expected)
                if isinstance(found, np.ndarray):
                    np.testing.assert_array_equal(found, expected)
                else:
                    assert found == expected


def test_a_matrix_is_taken_where_its_shape_fits(session: Session, rows: Session) -> None:
    for count in (1, 3, 30):
        x = np.arange(count * 8, dtype=np.float32).reshape(count, 8)
        with Batcher(rows) as made:
            for found in (rows.run(x.view(np.matrix)), made.run(x.view(np.matrix), timeout=30)):
                np.testing.assert_array_equal(found["y"], x)
                assert type(found["y"]) is np.ndarray
    with refuses(errors.InputShapeError, "(3, 8)", "expected (batch, 3, 4, 4)"):
        session.run(np.zeros((3, 8), np.float32).view(np.matrix))


@contextmanager
def in_memory(most: int) -> Iterator[None]:
    """Fails if more than so many bytes are taken at any time within."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < most


def repeated(value: Any, *shape: int) -> Any:
    """An array of that shape that takes no memory."""
    return np.broadcast_to(np.asarray(value), shape + np.shape(value))


def test_what_shapes_can_say_is_said_before_any_memory_is_taken(
    tiny: Any, session: Session, rows: Session, tmp_path: Path
) -> None:
    row, sample = np.ones(8, np.float32), tiny.inputs(1)[0]
    fixed = tiny.write(tmp_path / "fixed", batch=4)
    with (
        in_memory(2**22),
        Batcher(rows) as made,
        Batcher(session) as of_images,
        load(fixed, device="cpu", threads=1) as four,
    ):
        with refuses(errors.BatchSizeError, "got 33554432 samples", "runs 32 at once"):
            made.run(repeated(row, 2**25))
        too_large = ("is repeated or has gaps", "35,184 GB, where 9 may be", "run it in parts")
        for run in (rows.run, lambda x: rows.run_all({"x": x})):
            with refuses(errors.InputSizeError, *too_large):
                run(repeated(row, 2**40))
        with refuses(errors.InputSizeError, "run it in parts"):
            four.run_all({"input": repeated(sample, 2**40)})
        many, large = repeated(IMAGE, 2**40), repeated(np.uint8(1), 2**20, 2**20, 3)
        for act in (session.preprocess, session.classify, of_images.classify):
            with refuses(errors.ImageError, "more than 44,739,242 images", "in parts"):
                act(many)
            with refuses(errors.ImageError, "more than 268,435,456 pixels", "resize it first"):
                act(large)
        with refuses(errors.InputSizeError, "more than the 16,777,216", "fewer rows at a time"):
            session.predictions(repeated(SCORES[0], 2**40))
        # What is repeated is looked at once, wherever the number is that is not finite.
        with refuses(errors.NonFiniteInputError, "16,777,216 values"):
            rows.run(repeated(np.where(np.arange(8) == 5, np.float32(np.nan), row), 2**24))


def test_too_little_memory_is_an_error_of_its_own(rows: Session) -> None:
    feed = {"x": repeated(np.float32(1), 2**45, 8)}
    with refuses(errors.HostMemoryError, "not enough memory", "fewer samples at a time") as caught:
        rows.backend.run(feed)
    assert isinstance(caught.value, MemoryError)


def test_logits_of_no_class_or_of_other_rows_are_the_artifacts_fault(
    tiny: Any, tmp_path: Path
) -> None:
    flat = helper.make_node("Flatten", ["input"], ["flat"])
    none = helper.make_tensor("value", 9, [1], [False])
    graphs = {
        ("batch", 0): [
            helper.make_node("Constant", [], ["none"], value=none),
            helper.make_node("Compress", ["flat", "none"], ["logits"], axis=1),
        ],
        (1, 1): [helper.make_node("ReduceSum", ["flat"], ["logits"], keepdims=1)],
    }
    pre, image = tiny.parts()[0].preprocessing, {"input": ("batch", 3, 4, 4)}
    for shape, nodes in graphs.items():
        folder = tmp_path / str(shape[1])
        outputs = {"logits": shape}
        path = tiny.write_model(folder, [flat, *nodes], image, outputs, preprocessing=pre)
        with (
            load(path, device="cpu", threads=1) as session,
            refuses(errors.ArtifactError, "'logits' has shape", "expected (2, classes)", "run()"),
        ):
            session.classify([IMAGE, IMAGE])
        if shape[0] == "batch":
            with (
                load(path, device="cpu", threads=1) as session,
                Batcher(session) as made,
                refuses(errors.ArtifactError, "has shape (2, 0), expected (2, classes)"),
            ):
                made.classify([IMAGE, IMAGE])


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "a" * 100_000, "a/" * 50_000])
def test_what_can_be_no_path_is_refused_in_a_sentence(artifact: Path, path: str) -> None:
    wrong = ("must be the path of a file or folder", "which no file can be called")
    for act in (load, read_manifest, lambda path: load(artifact, engine=path)):
        with refuses(errors.OptionError, *wrong) as caught:
            act(path)
        assert len(str(caught.value)) < 300
    assert wrong[1] in preflight(path)[0].detail
    with refuses(errors.MissingFileError, "/dev/zero is not a file"):
        load(artifact, engine="/dev/zero")
