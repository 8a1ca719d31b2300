"""TensorRT's lean runtime: which engines it runs, over a fake, and the real wheel as far as it goes."""

import subprocess
import sys

import numpy as np
import pytest
from engine_place import PATH, REBUILD, Place
from fake_tensorrt import engine_bytes, expected
from refusals import refuses

from repr_runtime import errors, load
from repr_runtime.backends.tensorrt.engines import ForeignEngineWarning
from repr_runtime.backends.tensorrt.library import RUNNERS, Library, open_library, runner
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.preflight import preflight_engines

COMPATIBLE = {"version_compatible": True}
LEAN = RUNNERS["tensorrt-lean"]


@pytest.fixture
def lean(place: Place) -> Place:
    """The lean runtime is installed in place of TensorRT."""
    place.modules.clear()
    place.install("tensorrt-lean")
    return place


def failures(place: Place) -> dict[str, str]:
    return {c.name: c.detail for c in preflight_engines(place.folder)[PATH] if not c.passed}


def test_it_runs_engines_that_were_built_to_run_with_later_versions(lean: Place) -> None:
    path = lean.write("tensorrt", options=COMPATIBLE)
    assert failures(lean) == {}
    with load(path) as session:
        assert session.choice.startswith(
            "TensorRT's lean runtime 11.4.0.106 on cuda:0, engine engines/fp32.tensorrt.engine"
        )
        x = lean.tiny.inputs(3)
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x))


def test_others_are_refused_with_the_way_out(lean: Place) -> None:
    path = lean.write("tensorrt")
    parts = (
        f"{PATH} was built to run with TensorRT 10.13.0.35 alone",
        "here is TensorRT's lean runtime 11.4.0.106: ",
        "--engine tensorrt --version-compatible), or pip install 'repr-deploy[tensorrt]'",
    )
    with refuses(errors.EngineVersionError, *parts):
        load(path, device="tensorrt")
    assert list(failures(lean)) == ["version"]
    with refuses(errors.EngineVersionError, "call to stub", "--version-compatible"):
        load(path, engine=path / PATH)  # as asked for, past the checks
    lean.write("tensorrt", options={**COMPATIBLE, "refit_before_use": True})
    with refuses(errors.MissingExtraError, "without its weights", "repr-deploy[tensorrt]"):
        load(path, device="tensorrt")
    with refuses(errors.MissingExtraError, "putting weights into an engine", "[tensorrt]"):
        load(path, engine=path / PATH)
    lean.install("tensorrt-lean", "10.12.0.1")
    lean.write("tensorrt", options=COMPATIBLE)
    later = (
        "built by TensorRT 10.13.0.35",
        "none before it",
        "--upgrade 'repr-deploy[tensorrt-lean]'",
    )
    with refuses(errors.EngineVersionError, *later, f"{REBUILD} --version-compatible"):
        load(path, device="tensorrt")


def test_an_engine_of_ones_own(lean: Place) -> None:
    path, file = lean.write("tensorrt"), lean.folder.parent / "own.engine"
    file.write_bytes(engine_bytes(compatible=True))
    with (
        pytest.warns(ForeignEngineWarning),
        load(path, engine=file, trust=True) as session,
    ):
        assert "lean runtime" in session.choice


def test_the_whole_library_comes_first_and_is_the_one_to_install(place: Place) -> None:
    place.install("tensorrt-lean")
    path = place.write("tensorrt", options=COMPATIBLE)
    with load(path) as session:
        assert session.choice.startswith("TensorRT 10.13.0.35 on cuda:0")
    place.modules.update({"tensorrt": None, "tensorrt-lean": None})
    assert runner("tensorrt").name == "tensorrt"
    assert failures(place)["library"].endswith("pip install 'repr-deploy[tensorrt]'")


def test_without_a_gpu_nothing_is_asked_of_it(lean: Place) -> None:
    path = lean.write("tensorrt", options=COMPATIBLE)
    lean.gpu()
    with refuses(errors.DeviceUnavailableError, "no driver here"):
        load(path, device="tensorrt")
    library = Library(LEAN, lean.modules["tensorrt-lean"])
    with refuses(errors.DeviceUnavailableError, "lean runtime 11.4.0.106 needs an NVIDIA GPU"):
        library.runtime()
    assert library.invalid(b"") is None
    assert library.trt.logger is None  # no runtime was made
    lean.gpu("9.0")  # but its driver is too old
    with refuses(errors.DeviceUnavailableError, "cannot use the GPU (CUDA initialization failure"):
        library.runtime()


# The real one


@pytest.fixture(scope="module")
def real() -> Library:
    pytest.importorskip(LEAN.module)
    return open_library(LEAN)


def test_the_real_wheel_has_what_is_called_of_it_and_no_more(real: Library) -> None:
    assert LEAN.installed
    assert LEAN.cuda_major in (12, 13)
    assert real.title == f"TensorRT's lean runtime {real.version}"
    assert not real.captures_itself
    context = "set_optimization_profile_async set_input_shape get_tensor_shape set_tensor_address"
    engine = "get_tensor_name get_tensor_mode get_tensor_dtype get_tensor_shape num_io_tensors"
    more = "get_tensor_profile_shape num_optimization_profiles create_execution_context"
    for kind, names in {
        "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
        "IExecutionContext": f"{context} execute_async_v3",
        "ICudaEngine": f"{engine} {more}",
        "DataType": "FLOAT HALF INT8 UINT8 INT32 INT64 BOOL",
    }.items():
        assert set(names.split()) <= set(dir(getattr(real.trt, kind))), kind
    lacks = ("Builder", "OnnxParser", "OnnxParserRefitter", "EngineInvalidityDiagnostics")
    assert [name for name in lacks if hasattr(real.trt, name)] == []
    assert real.invalid(b"") is None


@pytest.mark.skipif(cuda_status().devices > 0, reason="there is a GPU")
def test_the_real_wheel_is_not_touched_without_a_gpu(real: Library) -> None:
    with refuses(errors.DeviceUnavailableError, f"{real.title} needs an NVIDIA GPU: no CUDA"):
        real.runtime()


@pytest.mark.gpu
@pytest.mark.usefixtures("real")
def test_the_real_wheel_refuses_what_was_not_built_for_it() -> None:
    if not cuda_status().devices:
        pytest.skip(f"no GPU: {cuda_status().reason}")
    code = (  # in a process of its own, which it may end
        "from repr_runtime.backends.tensorrt.library import RUNNERS, open_library\n"
        "from repr_runtime.cuda.opening import open_cuda\n"
        "library = open_library(RUNNERS['tensorrt-lean'])\n"
        "with open_cuda().current():\n"
        "    try:\n"
        "        library.deserialize(library.runtime(), bytes(5000))\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.split(" ")[0]) == (0, "EngineLoadError"), ran
