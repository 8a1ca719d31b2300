"""Artifacts in a cluster of Ray, with two workers on this machine: Ray Serve and Ray Data."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving import ask, free_port, numbers, picture_file, pixels, tensor

from repr_runtime import errors, load
from repr_serve import ModelOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
CPU = ModelOptions(device="cpu", max_batch=4)


def test_who_has_no_ray_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "repr_serve.ray", raising=False)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'repr-deploy\[ray\]'"):
        import repr_serve.ray  # noqa: F401


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """Ray on this machine, and the port of its HTTP side."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path may have no more than 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into one's home
        import ray
        from ray import serve

        ray.init(
            "local",
            num_cpus=4,  # as many as are asked for, on however few cores
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            _temp_dir=folder,
            log_to_driver=False,
            logging_level="ERROR",
        )
        try:
            port = free_port()
            serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
            ray.data.DataContext.get_current().enable_progress_bars = False
            ray.data.DataContext.get_current().execution_options.preserve_order = True
            yield port
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.large
def test_two_replicas_answer_handles_and_http_as_a_session_does(
    tiny: Any, artifact: Path, cluster: int
) -> None:
    from ray import serve

    from repr_serve.ray import deployment

    options = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 1}}
    handle = serve.run(deployment(artifact, models=CPU, **options))
    x = tiny.inputs(40)
    with load(artifact, device="cpu") as session:
        expected = session.run(x)["logits"]
        (label,) = session.classify(pixels(), top=2)
    # One sample each, and several.
    asked = [handle.infer.remote(sample) for sample in x[:20]]
    asked += [handle.remote({"input": sample}, timeout=20) for sample in x[20:]]
    found = np.stack([one.result(timeout_s=60)["logits"] for one in asked])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    some = handle.infer.remote({"input": x[:3]}).result(timeout_s=60)["logits"]
    np.testing.assert_allclose(some, expected[:3], atol=1e-6)
    assert handle.classify.remote(pixels(), top=2).result(timeout_s=60) == [label]
    # The same by HTTP, at the same time.
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"inputs": [tensor(x[i : i + 1])]} for i in range(20)]
        replies = list(pool.map(lambda b: ask(cluster, "/v2/models/tiny/infer", b), bodies))
    assert [reply.status for reply in replies] == [200] * 20
    np.testing.assert_allclose(
        np.concatenate(list(map(numbers, replies))), expected[:20], atol=1e-5
    )
    reply = ask(cluster, "/v2/models/tiny/classify?top=2", picture_file("PNG"))
    assert reply.json["predictions"][0]["label"] == label.label
    assert ask(cluster, "/v2/health/ready").status == 200
    # What is wrong comes back as what it is, and is not tried again.
    for wrong, options, kind, words in (
        (x[:, :2], {}, errors.InputShapeError, "has shape"),
        (x[:5], {}, errors.BatchSizeError, "5 samples"),
        ([[1.0], [1.0, 2.0]], {}, errors.InputTypeError, "is no array"),
        (x[:1] * np.nan, {}, errors.NonFiniteInputError, "NaN"),
        (x[:1], {"timeout": 1e-9}, errors.DeadlineExceededError, "no answer within"),
        (x[:1], {"model": "other"}, errors.ReproError, "there is no model 'other'"),
    ):
        with pytest.raises(kind, match=words):
            handle.infer.remote(wrong, **options).result(timeout_s=60)
    assert ask(cluster, "/v2/models/tiny/infer", {"inputs": []}).status == 400
    serve.delete("default")


@pytest.mark.large
@pytest.mark.usefixtures("cluster")
def test_a_network_that_computes_something_else_here_never_answers(
    tiny: Any, tmp_path: Path
) -> None:
    from ray import serve

    from repr_serve.ray import deployment

    golden: dict[str, NDArray[Any]] = tiny.golden()
    golden["output.logits"] = golden["output.logits"] + 1
    wrong = tiny.write(tmp_path / "wrong", golden=golden)
    with pytest.raises(RuntimeError, match="Failed to update the deployments"):
        serve.run(deployment(wrong, models=CPU, max_constructor_retry_count=1))
    said = serve.status().applications["default"].deployments["repr-serve"].message
    assert "SelfTestError" in said
    serve.delete("default")
    with pytest.raises(errors.OptionError, match="a model's name has letters"):
        deployment({"../up": wrong})


@pytest.mark.large
@pytest.mark.usefixtures("cluster")
def test_a_folder_of_pictures_is_labelled_and_a_broken_one_is_a_row_with_an_error(
    artifact: Path, tmp_path: Path
) -> None:
    import ray

    from repr_serve.ray import Predictor

    folder = tmp_path / "pictures"
    folder.mkdir()
    arrays = {f"{i:02}.png": pixels(i) for i in range(20)}
    for name, array in arrays.items():
        (folder / name).write_bytes(picture_file("PNG", array))
    with load(artifact, device="cpu") as session:
        expected = {n: session.classify(a, top=2)[0] for n, a in arrays.items()}
    settings = {"artifact": artifact, "device": "cpu", "top": 2}

    def labelled(data: Any) -> dict[str, dict[str, Any]]:
        rows = data.map_batches(
            Predictor, fn_constructor_kwargs=settings, concurrency=2, batch_size=8
        ).take_all()
        return {os.path.basename(row.pop("path")): row for row in rows}

    decoded = labelled(ray.data.read_images(str(folder), include_paths=True, mode="RGB"))
    (folder / "05.png").write_bytes(b"no picture")
    files = labelled(
        ray.data.read_binary_files(str(folder), include_paths=True, override_num_blocks=4)
    )
    assert list(decoded) == list(files) == list(arrays)
    assert set(files["00.png"]) == {
        *("label", "index", "probability", "labels", "probabilities", "error")
    }
    broken = files.pop("05.png")
    assert (broken["label"], broken["index"]) == ("", -1)
    assert np.isnan(broken["probability"])
    assert broken["error"] == "the picture is none of JPEG, PNG and WebP"
    for rows in (decoded, files):
        for name, row in rows.items():
            said = expected[name]
            assert (row["label"], row["index"], row["error"]) == (said.label, said.index, "")
            assert row["probability"] == pytest.approx(said.probability, abs=1e-6)
            assert list(row["labels"]) == [label for _, label, _ in said.top]
            assert np.allclose(row["probabilities"], [p for *_, p in said.top])


@pytest.mark.large
@pytest.mark.usefixtures("cluster")
def test_tensors_from_parquet_are_scored_and_written(
    tiny: Any, artifact: Path, pair: Path, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet as parquet
    import ray

    from repr_serve.ray import Predictor

    def scored(data: Any, network: Path) -> Any:
        settings = {"artifact": network, "device": "cpu"}
        return data.map_batches(
            Predictor, fn_constructor_kwargs=settings, concurrency=1, batch_size=8
        )

    x = tiny.inputs(30)
    with load(artifact, device="cpu") as session:
        expected = session.predictions(session.run(x)["logits"])
    rows = [{"id": i, "input": one.ravel().astype(float).tolist()} for i, one in enumerate(x)]
    rows[7]["input"] = [1.0, 2.0]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    data = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    scored(data, artifact).write_parquet(str(tmp_path / "out"))
    # Ray promises no order of batches.
    found = parquet.read_table(tmp_path / "out").sort_by("id").to_pylist()
    assert [row["id"] for row in found] == list(range(30))
    assert [row["error"] != "" for row in found] == [i == 7 for i in range(30)]
    assert found[7]["label"] == ""
    for row, said in zip(found, expected, strict=True):
        assert row["id"] == 7 or (row["label"], row["index"]) == (said.label, said.index)
    # A network of two inputs and no labels gives its outputs.
    sums = [{"id": i, "left": [i, 1.5], "right": [2.0, float(i)]} for i in range(5)]
    sums[3]["left"] = [float("nan"), 0.0]
    found = scored(ray.data.from_items(sums, override_num_blocks=1), pair).take_all()
    totals = np.stack([row["total"] for row in found])
    np.testing.assert_allclose(totals[[0, 1, 2, 4]], [[i + 2, 1.5 + i] for i in (0, 1, 2, 4)])
    assert np.isnan(totals[3]).all()
    assert "NaN" in found[3]["error"]


@pytest.mark.large
def test_a_value_is_a_sample_or_a_picture_in_any_of_its_forms(artifact: Path) -> None:
    pytest.importorskip("ray")
    from repr_serve.ray import Predictor

    file, array = picture_file("PNG"), pixels()
    with load(artifact, device="cpu") as session:
        (said,) = session.classify(array)
        (sample,) = session.preprocess(array)
    predictor = Predictor(artifact, device="cpu")
    nested = np.empty(3, object)
    nested[:] = list(sample)
    values = [
        file,
        {"bytes": file, "path": "a.png"},
        array,
        sample,
        sample.ravel().tolist(),
        nested,
    ]
    wrong = [None, {"bytes": None}, file[:40], sample[0], sample + np.inf, "text", array[..., 0]]
    column = np.empty(len(values) + len(wrong), object)
    column[:] = [*values, *wrong]
    ids = np.arange(len(column))
    for name in ("input", "bytes", "image"):
        found = predictor({"id": ids, name: column})
        assert sorted(found) == ["error", "id", "index", "label", "probability"]
        assert found["label"] == [said.label] * len(values) + [""] * len(wrong)
        assert found["error"][: len(values)] == [""] * len(values)
        assert all(found["error"][len(values) :])
    with pytest.raises(errors.InputNameError, match="no column 'input' or 'bytes' or 'image'"):
        predictor({"id": ids})
    with pytest.raises(errors.InputNameError, match="there is a column 'label' already"):
        predictor({"label": ids, "image": column})
    beside = Predictor(artifact, device="cpu", prefix="said_")({"label": ids, "image": column})
    assert (list(beside["label"]), beside["said_label"]) == (list(ids), found["label"])
