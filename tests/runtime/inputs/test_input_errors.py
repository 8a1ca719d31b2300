"""What `run` refuses: each mistake has its own error, which says got, expected and the way out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from refusals import refuses

from repr_runtime import Session, errors, load


@pytest.fixture
def session(artifact: Path) -> Iterator[Session]:
    with load(artifact, device="cpu", threads=1) as session:
        yield session


X = np.zeros((2, 3, 4, 4), np.float32)
LEFT = np.zeros((3, 2), np.float32)


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
    ],
)
def test_names(
    session: Session, arguments: tuple[Any, ...], named: dict[str, Any], what: str
) -> None:
    with refuses(errors.InputNameError, what, "input: float32[batch, 3, 4, 4]"):
        session.run(*arguments, **named)


def test_names_and_sizes_of_two_inputs(two_inputs: Path) -> None:
    with load(two_inputs, device="cpu", threads=1) as pair:
        with refuses(errors.InputNameError, "missing 'right'", "left: float32[n, 2]"):
            pair.run(LEFT)
        with refuses(errors.InputNameError, "no input 'wrong'"):
            pair.run(left=LEFT, wrong=LEFT)
        for arguments in ((LEFT,), ({"left": LEFT},)):
            assert pair.run(*arguments, right=LEFT)["total"].shape == (3, 2)
        assert pair.run({"right": LEFT, "left": LEFT})["total"].shape == (3, 2)
        parts = ("'right' has shape (2, 2)", "expected (n, 2)", "n is 3 already")
        with refuses(errors.InputShapeError, *parts):
            pair.run(LEFT, LEFT[:2])


@pytest.mark.parametrize("name", ["self", "arrays", "named"])
def test_an_input_may_have_any_name(tiny: Any, tmp_path: Path, name: str) -> None:
    nodes = [helper.make_node("Relu", [name], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {name: ("n", 2)}, {"y": ("n", 2)})
    with load(path, device="cpu", threads=1) as session:
        assert session.run(**{name: LEFT})["y"].shape == (3, 2)


AS_ARRAY = ("expected a numpy array", "np.asarray(x, np.float32)")
AS_FLOAT32 = ("expected float32", "x.astype(np.float32)")
DTYPES = ("float64", "float16", "int8", ">f4", "object", "complex64")
IMAGE = np.zeros((9, 7, 3), np.uint8)
PREPROCESS = ("classify(images)", "preprocess(images)", "uint8 RGB images (H, W, 3)")
NO_BATCH = ("(3, 4, 4)", "expected (batch, 3, 4, 4)", "batch dimension too: x[None]")


@pytest.mark.parametrize(
    ("given", "kind", "parts"),
    [
        *(
            (x, errors.InputTypeError, (f"is {type(x).__name__}", *AS_ARRAY))
            for x in (None, [[1.0]], "x")
        ),
        *(
            (X.astype(d), errors.InputDtypeError, (f"is {np.dtype(d)}", *AS_FLOAT32))
            for d in DTYPES
        ),
        (X[0], errors.InputShapeError, NO_BATCH),
        (X[:, :2], errors.InputShapeError, ("(2, 2, 4, 4)", "(batch, 3, 4, 4)")),
        (X[..., None], errors.InputShapeError, ("(2, 3, 4, 4, 1)",)),
        *(
            (x, errors.InputShapeError, (str(x.shape), *PREPROCESS))
            for x in (X.transpose(0, 2, 3, 1), IMAGE.astype(np.float32))
        ),
        *(
            (x, errors.InputDtypeError, (f"is {x.dtype}, expected float32", *PREPROCESS))
            for x in (IMAGE, IMAGE[None], X.astype(np.uint8), IMAGE.astype(np.float64))
        ),
        *(
            (x, errors.InputTypeError, ("expected a numpy array", *PREPROCESS))
            for x in ([IMAGE, IMAGE[:5]], memoryview(IMAGE))
        ),
        (np.zeros((), np.float32), errors.InputShapeError, ("()",)),
        (X[:0], errors.EmptyBatchError, ("(0, 3, 4, 4)", "skip empty batches")),
    ],
)
def test_types_and_shapes(
    session: Session, given: Any, kind: type[errors.InputError], parts: tuple[str, ...]
) -> None:
    with refuses(kind, *parts) as caught:
        session.run(given)
    assert isinstance(caught.value, ValueError)


def test_bytes_for_a_network_of_something_else_than_images(two_inputs: Path) -> None:
    with (
        load(two_inputs, device="cpu", threads=1) as pair,
        refuses(errors.InputDtypeError, *AS_FLOAT32),
    ):
        pair.run(LEFT.astype(np.uint8), LEFT)


def test_shape_of_a_fixed_batch(tiny: Any, tmp_path: Path) -> None:
    with load(tiny.write(tmp_path / "fixed", batch=4), device="cpu", threads=1) as session:
        assert session.batch_size == 4
        with refuses(
            errors.InputShapeError, "(2, 3, 4, 4)", "expected (4, 3, 4, 4)", "--batch dynamic"
        ):
            session.run(X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_in(session: Session, artifact: Path, bad: float) -> None:
    array = X.copy()
    array[1, 2, 3, 3] = bad
    with refuses(errors.NonFiniteInputError, "holds 1 values", "of 96", "nonfinite='allow'"):
        session.run(array)
    with load(artifact, device="cpu", threads=1, nonfinite="allow") as allowing:
        logits = allowing.run(array)["logits"]
    assert np.isfinite(logits[0]).all()
    assert not np.isfinite(logits[1]).any()


def test_not_finite_out(tiny: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": ("n", 2)})
    x = np.array([[1, 2], [1, -1]], np.float32)
    parts = ("'y' holds NaN", "if it should, load with nonfinite='allow'")
    with (
        load(path, device="cpu", threads=1) as session,
        refuses(errors.NonFiniteOutputError, *parts),
    ):
        session.run(x)
    with load(path, device="cpu", threads=1, nonfinite="allow") as session:
        assert np.isnan(session.run(x)["y"][1, 1])


def test_what_a_library_says_of_a_failure_is_in_the_error_and_not_on_stderr(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("cannot be reshaped", "Input shape:{3,2}, requested shape:{5,2}")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = helper.make_tensor("value", 7, [2], [5, 2])
    nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=shape))
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": (5, 2)})
    with load(path, device="cpu", threads=1) as session:
        assert session.run(np.zeros((5, 2), np.float32))["y"].shape == (5, 2)
        with refuses(errors.UnrunnableInputError, "ONNX Runtime failed to run the graph", *words):
            session.run(LEFT)
    with refuses(errors.ModelLoadError, "refuses the graph", "Nonsense"):
        nonsense = [helper.make_node("Nonsense", ["x"], ["y"])]
        load(tiny.write_model(tmp_path / "b", nonsense, {"x": ("n", 2)}, {"y": ("n", 2)}))
    assert capfd.readouterr() == ("", "")


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
        with refuses(errors.SessionClosedError, "closed", "load"):
            act()
