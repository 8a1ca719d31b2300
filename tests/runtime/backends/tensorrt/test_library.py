"""The real TensorRT-RTX behind the face that all libraries have, up to where a GPU is needed."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_place import RTX_PATH, engine_info
from refusals import refuses

from repr_runtime import errors, load
from repr_runtime.artifact.manifest import ProfileInfo
from repr_runtime.backends.tensorrt.library import EDITIONS, Library, edition_of, open_library
from repr_runtime.backends.tensorrt.messages import logger
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.preflight import preflight_engines


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return open_library(EDITIONS["tensorrt-rtx"])


@pytest.fixture(scope="module")
def real_engine(rtx: Library, tiny: Any) -> bytes:
    trt = rtx.trt
    builder = trt.Builder(logger(rtx.trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger(rtx.trt)).parse(tiny.graph())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 4, 4), (2, 3, 4, 4), (8, 3, 4, 4))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def test_the_real_library_is_what_the_table_says(rtx: Library, real_engine: bytes) -> None:
    assert edition_of(real_engine) is rtx.edition
    assert rtx.captures_itself
    assert rtx.edition.cuda_major in (12, 13)
    assert rtx.title == f"TensorRT-RTX {rtx.version}"
    context = "set_optimization_profile_async set_input_shape get_tensor_shape set_tensor_address"
    engine = "get_tensor_name get_tensor_mode get_tensor_dtype get_tensor_shape num_io_tensors"
    more = "get_tensor_profile_shape num_optimization_profiles create_runtime_config"
    for kind, names in {
        "Runtime": "deserialize_cuda_engine get_engine_validity engine_host_code_allowed",
        "IExecutionContext": f"{context} execute_async_v3",
        "ICudaEngine": f"{engine} {more} create_execution_context",
        "IRuntimeConfig": "dynamic_shapes_kernel_specialization_strategy cuda_graph_strategy "
        "create_runtime_cache set_runtime_cache",
        "IRuntimeCache": "serialize deserialize",
        "Refitter": "refit_cuda_engine",
        "OnnxParserRefitter": "refit_from_bytes",
        "DynamicShapesKernelSpecializationStrategy": "LAZY EAGER NONE",
        "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
        "DataType": "FLOAT HALF INT8 UINT8 INT32 INT64 BOOL",
        "ComputeCapability": "SM86 SM89 SM120",
        "EngineInvalidityDiagnostics": "VERSION_MISMATCH UNSUPPORTED_CC MALFORMED_ENGINE "
        "OLD_CUDA_DRIVER",
    }.items():
        assert set(names.split()) <= set(dir(getattr(rtx.trt, kind))), kind


def test_the_real_library_knows_damage_from_the_header(rtx: Library, real_engine: bytes) -> None:
    for damaged in (b"", real_engine[:20], bytes(5000)):
        assert "MALFORMED_ENGINE" in (rtx.invalid(damaged) or ())


@pytest.mark.skipif(cuda_status().devices > 0, reason="there is a GPU")
def test_the_real_library_without_a_gpu(rtx: Library, real_engine: bytes) -> None:
    assert rtx.invalid(real_engine) is None  # it cannot tell
    runtime = rtx.trt.Runtime(logger(rtx.trt))
    parts = ("it needs a GPU and a driver that is new enough", "device='cpu'")
    with refuses(errors.EngineLoadError, *parts):
        rtx.deserialize(runtime, real_engine)
    with pytest.raises(errors.EngineLoadError, match="damaged or no engine"):
        rtx.deserialize(runtime, bytes(5000))


@pytest.mark.skipif(cuda_status().devices > 0, reason="there is a GPU")
def test_a_real_engine_in_an_artifact_on_a_machine_without_a_gpu(
    rtx: Library, real_engine: bytes, tiny: Any, tmp_path: Path
) -> None:
    info = engine_info(
        *(RTX_PATH, "tensorrt-rtx", rtx.version, tiny.graph()),
        compute_capabilities=("8.0", "8.6", "8.9", "12.0"),
        profiles=(ProfileInfo(1, 2, 8),),
        options={"later_compute_capabilities": True},
    )
    tiny.write(tmp_path / "a", more={RTX_PATH: (real_engine, "engine", "fp32")}, engines=(info,))
    checks = preflight_engines(tmp_path / "a")[RTX_PATH]
    assert [c.name for c in checks if c.passed] == [
        *("precision", "graph", "file", "batch", "system", "library", "version")
    ]
    assert [c.name for c in checks if not c.passed] == ["GPU"]
    needed = "8.0 or 8.6 or 8.9 or 12.0 or later, and a driver"
    with refuses(errors.DeviceUnavailableError, needed):
        load(tmp_path / "a", device="tensorrt")
    with load(tmp_path / "a") as session:
        assert "; not on tensorrt: no CUDA driver" in session.choice


def test_the_bindings_alone_are_the_library(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # a package that only names them anew
    edition = EDITIONS["tensorrt-rtx"]
    assert (edition.module, edition.installed) == ("tensorrt_rtx_bindings", True)
    assert open_library(edition).trt.Runtime is rtx.trt.Runtime


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EDITIONS["tensorrt-rtx"].modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises((errors.MissingExtraError, errors.BackendError)):
        open_library(EDITIONS["tensorrt-rtx"])
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))  # as stubs alone are
    with pytest.raises(errors.MissingExtraError, match="needs the extra 'tensorrt'"):
        open_library(EDITIONS["tensorrt"])
