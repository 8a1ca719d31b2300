"""What `run` refuses: each mistake has its own error, which says got, expected and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from repr_runtime import Session, load
from repr_runtime.errors import (
    EmptyBatchError,
    ExecutionError,
    InputDtypeError,
    InputError,
    InputNameError,
    InputShapeError,
    InputTypeError,
    NonFiniteInputError,
    NonFiniteOutputError,
    ReproError,
    SessionClosedError,
)


@pytest.fixture
def session(artifact: Path) -> Iterator[Session]:
    with load(artifact, device="cpu", threads=1) as session:
        yield session


@pytest.fixture
def pair(two_inputs: Path) -> Iterator[Session]:
    with load(two_inputs, device="cpu", threads=1) as session:
        yield session


def says(kind: type[ReproError], act: Callable[[], object], *parts: str) -> None:
    with pytest.raises(ReproError) as caught:
        act()
    assert type(caught.value) is kind
    for part in parts:
        assert part in str(caught.value)


X = np.zeros((2, 3, 4, 4), np.float32)
LEFT = np.zeros((3, 2), np.float32)
EXPECTED = "input: float32[batch, 3, 4, 4]"


@pytest.mark.parametrize(
    ("arguments", "named", "what"),
    [
        ((), {"inptu": X}, "no input 'inptu'"),
        (({"inptu": X},), {}, "no input 'inptu'"),
        (({3: X},), {}, "no input '3'"),
        ((), {}, "missing 'input'"),
        (({},), {}, "missing 'input'"),
        ((X,), {"input": X}, "'input' given twice"),
        (({"input": X},), {"input": X}, "'input' given twice"),
        ((X, X), {}, "got 2 arrays, the network takes 1"),
        ((X,), {"other": X}, "no input 'other'"),
    ],
)
def test_names(
    session: Session, arguments: tuple[Any, ...], named: dict[str, Any], what: str
) -> None:
    says(InputNameError, lambda: session.run(*arguments, **named), what, EXPECTED)


def test_names_of_two_inputs(pair: Session) -> None:
    says(InputNameError, lambda: pair.run(LEFT), "missing 'right'", "left: float32[n, 2]")
    says(InputNameError, lambda: pair.run(LEFT, left=LEFT), "'left' given twice")
    says(InputNameError, lambda: pair.run(left=LEFT, wrong=LEFT), "no input 'wrong'")
    assert pair.run(LEFT, right=LEFT)["total"].shape == (3, 2)
    assert pair.run({"left": LEFT}, right=LEFT)["total"].shape == (3, 2)
    assert pair.run({"right": LEFT, "left": LEFT})["total"].shape == (3, 2)


@pytest.mark.parametrize("name", ["self", "arrays", "named"])
def test_an_input_may_have_any_name(tiny: Any, tmp_path: Path, name: str) -> None:
    nodes = [helper.make_node("Relu", [name], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {name: ("n", 2)}, {"y": ("n", 2)})
    with load(path, device="cpu", threads=1) as session:
        assert session.run(**{name: LEFT})["y"].shape == (3, 2)


@pytest.mark.parametrize("value", [None, [[1.0]], 3.0, "x"])
def test_not_an_array(session: Session, value: object) -> None:
    says(
        InputTypeError,
        lambda: session.run(value),
        f"is {type(value).__name__}",
        "expected a numpy array",
        "np.asarray(x, np.float32)",
    )


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", ">f4", "object", "complex64"])
def test_dtype(session: Session, dtype: str) -> None:
    array = X.astype(dtype)
    says(
        InputDtypeError,
        lambda: session.run(array),
        f"is {array.dtype}",
        "expected float32",
        "x.astype(np.float32)",
    )


def test_shape(session: Session) -> None:
    says(
        InputShapeError,
        lambda: session.run(X[0]),
        "(3, 4, 4)",
        "expected (batch, 3, 4, 4)",
        "batch dimension too: x[None]",
    )
    says(InputShapeError, lambda: session.run(X[:, :2]), "(2, 2, 4, 4)", "(batch, 3, 4, 4)")
    says(InputShapeError, lambda: session.run(X[..., None]), "(2, 3, 4, 4, 1)")
    says(InputShapeError, lambda: session.run(X.transpose(0, 2, 3, 1)), "(2, 4, 4, 3)")
    says(InputShapeError, lambda: session.run(np.zeros((), np.float32)), "()")


def test_shape_of_a_fixed_batch(tiny: Any, tmp_path: Path) -> None:
    with load(tiny.write(tmp_path / "fixed", batch=4), device="cpu", threads=1) as session:
        assert session.batch_size == 4
        says(
            InputShapeError,
            lambda: session.run(X),
            "(2, 3, 4, 4)",
            "expected (4, 3, 4, 4)",
            "--batch dynamic",
        )


def test_one_name_is_one_size_over_all_inputs(pair: Session) -> None:
    says(
        InputShapeError,
        lambda: pair.run(LEFT, LEFT[:2]),
        "'right' has shape (2, 2)",
        "expected (n, 2)",
        "n is 3 already",
    )


def test_empty_batch(session: Session) -> None:
    says(EmptyBatchError, lambda: session.run(X[:0]), "(0, 3, 4, 4)", "skip empty batches")
    assert issubclass(EmptyBatchError, InputShapeError)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_in(session: Session, artifact: Path, bad: float) -> None:
    array = X.copy()
    array[1, 2, 3, 3] = bad
    says(
        NonFiniteInputError,
        lambda: session.run(array),
        "holds 1 values",
        "of 96",
        "nonfinite='allow'",
    )
    with load(artifact, device="cpu", threads=1, nonfinite="allow") as allowing:
        logits = allowing.run(array)["logits"]
    assert np.isfinite(logits[0]).all()
    assert not np.isfinite(logits[1]).any()


def test_large_finite_values_are_finite(tiny: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 4)}, {"y": ("n", 4)})
    values = np.full((2, 4), np.finfo(np.float32).max)
    with load(path, device="cpu", threads=1) as session:
        assert np.array_equal(session.run(values)["y"], values)


def test_not_finite_out(tiny: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": ("n", 2)})
    x = np.array([[1, 2], [1, -1]], np.float32)
    with load(path, device="cpu", threads=1) as session:
        says(
            NonFiniteOutputError,
            lambda: session.run(x),
            "'y' holds NaN",
            "fp32",
            "another precision",
        )
    with load(path, device="cpu", threads=1, nonfinite="allow") as session:
        assert np.isnan(session.run(x)["y"][1, 1])


def test_a_library_that_fails_while_running(tiny: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = helper.make_tensor("value", 7, [2], [5, 2])
    nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=shape))
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": (5, 2)})
    with load(path, device="cpu", threads=1) as session:
        assert session.run(np.zeros((5, 2), np.float32))["y"].shape == (5, 2)
        says(ExecutionError, lambda: session.run(LEFT), "ONNX Runtime failed to run the graph")


def test_closed(artifact: Path) -> None:
    session = load(artifact, device="cpu", threads=1)
    backend = session.backend
    session.close()
    session.close()
    for act in (
        lambda: session.run(X),
        lambda: session.backend,
        lambda: session.self_test(),
        lambda: session.classify(np.zeros((4, 4, 3), np.uint8)),
        lambda: backend.run({"input": X}),
    ):
        says(SessionClosedError, act, "closed", "load")


def test_every_input_error_is_a_value_error_too(session: Session) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        session.run(X.astype(np.float64))
    assert issubclass(InputError, ReproError)
