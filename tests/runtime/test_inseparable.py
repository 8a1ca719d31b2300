"""Networks whose samples cannot be told apart, and whose names collide in a file of golden samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from refusals import refuses

from repr_runtime import Batcher, errors, load

WHY = "the outputs of a sample depend on the others of its batch"
X = np.array([[1, 2], [3, 5], [8, 0]], np.float32)


def write_centred(tiny: Any, folder: Path, batch: int | str, golden: Any) -> Path:
    """``y = x - mean(x)``, the mean over the batch, as an export of it says."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    receipt = {"samples": 3, "tolerance": {"y": 1e-6}, "inseparable": WHY}
    return tiny.write_model(
        *(folder, nodes, {"x": (batch, 2)}, {"y": (batch, 2)}),
        golden={"input.x": golden, "output.y": golden - golden.mean(0)},
        receipts={"golden": receipt},
    )


@pytest.mark.parametrize("batch", ["batch", 3])
def test_the_golden_samples_are_run_as_the_one_batch_that_they_are(
    tiny: Any, tmp_path: Path, batch: int | str
) -> None:
    with load(write_centred(tiny, tmp_path / "a", batch, X), device="cpu", threads=1) as session:
        assert session.inseparable == WHY
        report = session.self_test()
        np.testing.assert_allclose(session.run_all({"x": X})["y"], X - X.mean(0), rtol=1e-6)
    assert (report.samples, report.max_abs <= 1e-6) == (3, True)


def test_what_would_join_requests_or_cut_batches_refuses(tiny: Any, tmp_path: Path) -> None:
    with load(write_centred(tiny, tmp_path / "a", 3, X), device="cpu", threads=1) as session:
        with refuses(errors.NotBatchableError, WHY, "3 samples at a time, and 2", "whole batches"):
            session.run_all({"x": X[:2]})
        with refuses(errors.NotBatchableError, WHY, str(tmp_path / "a"), "use Session.run"):
            Batcher(session)


def test_what_it_is_is_shown(tiny: Any, tmp_path: Path, inspect: Any) -> None:
    status, shown = inspect(write_centred(tiny, tmp_path / "a", 3, X), "--verify")
    assert (status, f"\nbatch     {WHY}: give whole batches, " in shown) == (0, True)


def test_what_run_all_cannot_count_is_runs_to_take_or_to_refuse(
    tiny: Any, two_inputs: Path, tmp_path: Path
) -> None:
    with load(two_inputs, device="cpu", threads=1) as pair:
        with refuses(errors.InputShapeError, "n is 3 already"):
            pair.run_all({"left": X, "right": X[:2]})
        with refuses(errors.InputNameError, "missing 'right'"):
            pair.run_all({"left": X})
        with refuses(errors.EmptyBatchError, "skip empty batches"):
            pair.run_all({"left": X[:0], "right": X[:0]})
    with load(tiny.write(tmp_path / "a", batch=4), device="cpu", threads=1) as fixed:
        with refuses(errors.InputTypeError, "is list"):
            fixed.run_all({"input": tiny.inputs(5).tolist()})
        with refuses(errors.InputShapeError, "has shape ()"):
            fixed.run_all({"input": np.array(0, np.float32)})
    nodes = [helper.make_node("Mul", ["scale", "x"], ["y"])]
    path = tiny.write_model(tmp_path / "b", nodes, {"scale": (), "x": ("n", 2)}, {"y": ("n", 2)})
    with load(path, device="cpu", threads=1) as scaled:
        twice = scaled.run_all({"scale": np.array(2, np.float32), "x": X})["y"]
    assert np.array_equal(twice, 2 * X)


def test_names_that_collide_in_the_file(tiny: Any, tmp_path: Path) -> None:
    """A member of the archive is its key and ``.npy``, and numpy takes a key for either."""
    path = tiny.write_model(
        tmp_path / "a",
        [helper.make_node("Sub", ["a", "a.npy"], ["b"]), helper.make_node("Neg", ["b"], ["b.npy"])],
        {"a": ("n", 2), "a.npy": ("n", 2)},
        {"b": ("n", 2), "b.npy": ("n", 2)},
        golden={
            "input.a": X,
            "input.a.npy": X[::-1],
            "output.b": X - X[::-1],
            "output.b.npy": X[::-1] - X,
        },
        receipts={"golden": {"samples": 3, "tolerance": {"b": 1e-6, "b.npy": 1e-6}}},
    )
    with load(path, device="cpu", threads=1) as session:
        assert session.self_test().max_abs == 0
