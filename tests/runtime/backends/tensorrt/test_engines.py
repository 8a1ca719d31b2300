"""Which engine is opened: the artifact's own, one from elsewhere; and what the commands say of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_place import PATH, RTX_PATH, Place
from fake_tensorrt import engine_bytes, expected
from refusals import refuses

from repr_runtime import TensorRTOptions, errors, load
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.backends.tensorrt.engines import ForeignEngineWarning
from repr_runtime.backends.tensorrt.library import Edition

# What is chosen


def test_auto_takes_an_engine_that_passes_all_checks(place: Place) -> None:
    path = place.write("tensorrt-rtx", "tensorrt")
    x = place.tiny.inputs(3)
    with load(path, options=TensorRTOptions(timed=True)) as session:
        assert session.choice == (
            f"TensorRT 10.13.0.35 on cuda:0, engine {PATH}, the fastest that works here"
        )
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x))
        assert session.timings is not None
        assert session.timings.compute == 11
        assert session.self_test().samples == 3
        many = place.tiny.inputs(50)  # more than the engine's largest batch
        np.testing.assert_array_equal(session.run_all({"input": many})["logits"], expected(many))
        images = np.zeros((20, 4, 4, 3), np.uint8)
        assert len(session.classify(images)) == 20
    assert all(device.closed and not device.leaks for device in place.devices)


def test_the_second_engine_where_the_first_does_not_run(place: Place) -> None:
    path = place.write("tensorrt", "tensorrt-rtx")
    place.modules["tensorrt"] = None
    with load(path, device="tensorrt") as session:
        assert session.choice.startswith(
            f"TensorRT-RTX 1.7.1.116 on cuda:0, engine {RTX_PATH}; not {PATH}: running engines needs"
        )
        assert session.choice.endswith(", as asked for")


def test_without_engines(artifact: Path) -> None:
    way_out = "(it has none); build one: repr-export YOUR-NETWORK --engine auto"
    with refuses(errors.EngineNotFoundError, f"{artifact} has no fp32 engine {way_out}"):
        load(artifact, device="tensorrt")


# Damage, and engines from elsewhere


def test_a_corrupted_engine(place: Place) -> None:
    path = place.write("tensorrt")
    file = path / PATH
    good = file.read_bytes()
    for content, kind in (
        (good[:-1] + b"?", errors.AlteredFileError),
        (good[:-1], errors.TruncatedFileError),
    ):
        file.write_bytes(content)
        with refuses(kind, PATH):
            load(path, device="tensorrt")
    file.unlink()
    with refuses(errors.MissingFileError, PATH):
        load(path, device="tensorrt")
    assert not place.modules["tensorrt"].engines  # nothing of it reached the library
    with load(path) as session:  # which goes on to ONNX Runtime
        assert f"; not on tensorrt: {file} is listed in manifest.json but" in session.choice
        x = place.tiny.inputs(2)
        np.testing.assert_allclose(session.run(x)["logits"], expected(x), rtol=1e-5, atol=1e-5)
    place.write("tensorrt", content=b"ftrt rubbish")
    with refuses(errors.EngineLoadError, "damaged or no engine at all"):
        load(path, device="tensorrt")
    assert all(device.closed for device in place.devices)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return tmp_path / "foreign.engine"


def test_a_foreign_engine_is_refused_unless_it_is_trusted(place: Place, foreign: Path) -> None:
    path = place.write("tensorrt")
    foreign.write_bytes(engine_bytes(rtx=True, version="1.7.1.116", scale=3.0))
    rebuild = "repr-export tiny --engine tensorrt-rtx"
    parts = (str(foreign), "an engine is executable code", rebuild, "trust=True")
    with refuses(errors.ForeignEngineError, *parts):
        load(path, engine=foreign)
    assert not place.modules["tensorrt-rtx"].engines
    with pytest.warns(ForeignEngineWarning, match="nothing says who made this one"):
        session = load(path, engine=foreign, trust=True)
    x = place.tiny.inputs(2)
    with session:
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x, 3.0))
        assert "TensorRT-RTX" in session.choice
        assert session.choice.endswith(f"engine {foreign}, a foreign engine, as asked for")
    foreign.write_bytes(b"no engine")
    with pytest.warns(ForeignEngineWarning), pytest.raises(errors.EngineLoadError):
        load(path, engine=foreign, trust=True)
    assert all(device.closed for device in place.devices)


def test_the_artifacts_own_engine_elsewhere_is_not_foreign(place: Place, foreign: Path) -> None:
    path = place.write("tensorrt")
    with refuses(errors.MissingFileError, f"{foreign} cannot be read"):
        load(path, engine=foreign)
    foreign.write_bytes((path / PATH).read_bytes())
    load(path, engine=foreign).close()  # a warning would be an error
    place.write("tensorrt", graph_sha256="0" * 64)
    with pytest.raises(errors.StaleEngineError):
        load(path, engine=foreign)


def test_a_foreign_engine_of_another_network(place: Place, foreign: Path) -> None:
    path = place.write("tensorrt")
    foreign.write_bytes(engine_bytes(fixed=2, profiles=((2, 2, 2),)))
    manifest = place.manifest()
    files = {e.path: (path / e.path).read_bytes() for e in manifest.files}
    other = replace(manifest, inputs=(replace(manifest.inputs[0], shape=("n", 3, 9, 9)),))
    write_artifact(path, other, files)
    with (
        pytest.warns(ForeignEngineWarning),
        pytest.raises(errors.ReproError, match="the manifest says"),
    ):
        load(path, engine=foreign, trust=True)
    assert all(device.closed and not device.leaks for device in place.devices)


def test_an_engine_without_weights_is_refitted(place: Place) -> None:
    content = engine_bytes(stripped=True)
    path = place.write("tensorrt", content=content, options={"refit_before_use": True})
    with load(path, device="tensorrt") as session:
        x = place.tiny.inputs(2)
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x))
        (engine,) = place.modules["tensorrt"].engines
        assert engine.refitted_from == (path / "model.onnx").read_bytes()


def test_code_for_the_cpu_is_let_in_only_where_the_engine_says_so(place: Place) -> None:
    content = engine_bytes(host_code=True)
    path = place.write("tensorrt", content=content, options={"version_compatible": True})
    load(path, device="tensorrt").close()
    load(path, engine=path / PATH).close()
    place.write("tensorrt", content=content)
    with pytest.raises(errors.EngineLoadError, match="host executable code is not allowed"):
        load(path, device="tensorrt")


# The commands


def test_inspect_says_which_engines_run_and_what_the_others_need(
    place: Place, inspect: Callable[..., tuple[int, str]]
) -> None:
    path = place.write("tensorrt", "tensorrt-rtx", options={})
    assert f"engine    {RTX_PATH} runs here\n" in inspect(path)[1]
    place.gpu()
    place.patch.setattr(Edition, "cuda_major", 13)
    told = f"engine    {PATH}\nengine    {RTX_PATH} cannot run here; what is needed:\n  [NO] GPU: "
    assert told in inspect(path, "--device", "cpu")[1]
    place.modules["tensorrt"] = None
    status, shown = inspect(path, "--device", "cpu")
    assert status == 0  # it runs, if not as an engine
    for part in (
        f"engine    {PATH} cannot run here; what is needed:\n  [NO] GPU: no driver here; the engine "
        f"needs an NVIDIA GPU of compute capability 8.9, and ",
        "  [NO] library: running engines needs",
        f"engine    {RTX_PATH} cannot run here; what is needed:\n  [NO] GPU: ",
        "This artifact will run here.",
    ):
        assert part in shown
    report = json.loads(inspect(path, "--device", "cpu", "--json")[1])
    assert set(report["engines"]) == {PATH, RTX_PATH}
    assert [c["name"] for c in report["engines"][PATH] if not c["passed"]] == ["GPU", "library"]
    assert inspect(path, "--device", "tensorrt")[0] == 1
