"""Every reason why an engine of an artifact does not run here, and what each check answers."""

import types

import pytest
from engine_place import HERE, PATH, REBUILD, RTX_PATH, Place
from refusals import refuses

from repr_runtime import TensorRTOptions, errors, load, preflight
from repr_runtime.backends.tensorrt import checks as engine_checks
from repr_runtime.backends.tensorrt.checks import Subject, check_engine
from repr_runtime.backends.tensorrt.library import Edition
from repr_runtime.preflight import preflight_engines

# Each check, refused: by load with its own error, by check_engine with the same words


def refused(place: Place, kind: type[errors.ReproError], name: str, *parts: str) -> None:
    with refuses(kind, *parts) as caught:
        load(place.folder, device="tensorrt")
    (info,) = place.manifest().engines
    checks = check_engine(Subject(place.folder, place.manifest(), info))
    assert [(c.name, c.detail) for c in checks if not c.passed] == [(name, str(caught.value))]
    asked = {c.name: c for c in preflight(place.folder, device="tensorrt")}
    assert not asked[f"engine's {name}"].passed
    assert not asked["runs here"].passed
    assert all(device.closed and not device.leaks for device in place.devices)


def test_an_engine_that_was_made_for_something_else(place: Place) -> None:
    place.write("tensorrt", graph_sha256="ab" * 32)
    stale = (f"{PATH} is stale", "abababababab…", REBUILD)
    refused(place, errors.StaleEngineError, "graph", *stale)
    place.write("tensorrt", platform="plan9-mips")
    system = ("built for plan9-mips, this is", REBUILD)
    refused(place, errors.EngineVersionError, "system", *system)
    place.write("tensorrt", compute_capabilities=("9.0",))
    gpu = ("built for compute capability 9.0, GPU 8.9 has 8.9", REBUILD)
    refused(place, errors.WrongGpuError, "compute capability", *gpu)


def test_a_machine_that_lacks_what_an_engine_needs(place: Place) -> None:
    path = place.write("tensorrt")
    with refuses(errors.DeviceUnavailableError, "there is no GPU 3, only 1"):
        load(path, device="tensorrt", options=TensorRTOptions(gpu=3))
    place.install("tensorrt", "10.13.2.6")
    built = ("was built by TensorRT 10.13.0.35", "installed is 10.13.2.6")
    way_out = (REBUILD, "pip install 'tensorrt==10.13.0.35'")
    refused(place, errors.EngineVersionError, "version", *built, *way_out)
    place.install("tensorrt")
    place.memory = 100
    memory = ("0 MiB are free on GPU 8.9", "--shapes 1,1,4")
    refused(place, errors.DeviceMemoryError, "memory", *memory)
    place.memory = 1 << 30
    place.patch.setattr(Edition, "cuda_major", 13)
    place.gpu("8.9", driver=(12, 4))
    driver = ("speaks CUDA 12.4", "needs 13.0", "update")
    refused(place, errors.DeviceUnavailableError, "driver", *driver)
    place.modules["tensorrt"] = None
    refused(place, errors.MissingExtraError, "library", "pip install 'repr-deploy[tensorrt]'")
    place.gpu()
    needs = "needs an NVIDIA GPU of compute capability 8.9, and "
    with refuses(errors.DeviceUnavailableError, "no driver here", needs):
        load(path, device="tensorrt")
    checks = preflight_engines(path)[PATH]
    assert [c.name for c in checks if not c.passed] == ["GPU", "library"]
    unknown = place.write("tensorrt", flavour="tensorrt-x")
    with refuses(errors.EngineLoadError, "for 'tensorrt-x', known are tensorrt, tensorrt-rtx"):
        load(unknown, device="tensorrt")


@pytest.mark.parametrize(
    ("version", "passes"), [("10.14.1.0", True), ("10.12.0.1", False), ("11.0.0.1", True)]
)
def test_a_version_compatible_engine(place: Place, version: str, passes: bool) -> None:
    place.write("tensorrt", options={"version_compatible": True})
    place.install("tensorrt", version)
    checks = {c.name: c.passed for c in preflight_engines(place.folder)[PATH]}
    assert checks["version"] is passes


@pytest.mark.parametrize(
    ("here", "later", "validity", "passes", "says"),
    [
        ("8.6", False, 2, True, "built for 8.6"),  # listed: the library is not asked
        ("12.1", True, 2, True, "and later"),  # later than all that are listed
        ("12.2", False, 2, False, "builds for none such, use device='cuda'"),
        ("8.9", True, 0, True, "will run"),  # between: the library's own word
        ("8.9", True, 64, True, "shows when it is loaded"),  # which it does not give
        ("8.9", True, 2, False, "--engine tensorrt-rtx on this machine"),
    ],
)
def test_gpus_of_an_rtx_engine(
    place: Place, here: str, later: bool, validity: int, passes: bool, says: str
) -> None:
    listed, options = ("8.0", "8.6", "12.0"), {"later_compute_capabilities": later}
    place.write("tensorrt-rtx", compute_capabilities=listed, options=options)
    place.gpu(here)
    place.install("tensorrt-rtx", validity=validity)
    checks = {c.name: c for c in preflight_engines(place.folder)[RTX_PATH]}
    assert checks["compute capability"].passed is passes
    assert says in checks["compute capability"].detail


def test_a_gpu_that_runs_no_engine_of_rtx(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    path = place.write("tensorrt-rtx", compute_capabilities=("8.0", "9.0"))
    place.gpu("9.0")
    never = (
        "TensorRT-RTX does not run on GPU 9.0 (compute capability 9.0), but on compute capability "
        "8.0, 8.6, 8.9, 12.0, 12.1 and later; use device='cuda', or TensorRT itself (--engine "
        "tensorrt)"
    )
    refused(place, errors.UnsupportedGpuError, "GPU", never)
    place.install("tensorrt-rtx", "1.8.0.1")  # before another version is asked for, or any
    with refuses(errors.UnsupportedGpuError, never):
        load(path, device="tensorrt")
    with refuses(errors.UnsupportedGpuError, never):
        load(path, engine=path / RTX_PATH)
    place.modules["tensorrt-rtx"] = None
    with refuses(errors.UnsupportedGpuError, never):
        load(path, device="tensorrt")
    with load(path) as session:
        assert session.choice.startswith("ONNX Runtime ")
        assert f"; not on tensorrt: {never}" in session.choice
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert not place.devices
    # A library that builds for it knows better.
    place.install("tensorrt-rtx")
    place.gpu("10.0")
    place.modules["tensorrt-rtx"].ComputeCapability = types.SimpleNamespace(
        __members__={"SM100": None}
    )
    place.modules["tensorrt-rtx"].runs_on.append("10.0")
    with load(path, device="tensorrt") as session:
        assert session.self_test().samples == 3


def test_a_batch_that_no_profile_covers(place: Place) -> None:
    path = place.write("tensorrt")
    (check,) = [c for c in preflight_engines(path, batch=64)[PATH] if not c.passed]
    assert check.name == "batch"
    assert "batches of 1 to 16 (fastest at 4), not 64; " in check.detail
    assert check.detail.endswith(f"{REBUILD} --shapes 1,64,64")
    assert all(c.passed for c in preflight_engines(path, batch=16)[PATH])
    with load(path, device="tensorrt") as session, refuses(errors.BatchSizeError, "got 64"):
        session.run(place.tiny.inputs(64))


def test_every_answer_of_a_fit_engine(place: Place) -> None:
    path = place.write("tensorrt", options={"tf32": True})
    checks = preflight(path, device="tensorrt", verify=True)
    assert all(c.passed for c in checks)
    answers = {c.name.removeprefix("engine's "): c.detail for c in checks}
    assert answers.pop("self-test").startswith("3 golden samples within 0 ")
    assert (
        answers.items()
        >= {
            "precision": "fp32; TF32 in fp32 layers",
            "graph": "built from model.onnx as it is",
            "version": "built by 10.13.0.35, which is installed",
            "compute capability": "built for 8.9, which GPU 8.9 has",
            "system": HERE,
        }.items()
    )
    names = [c.name for c in preflight_engines(path)[PATH]]
    assert names == [name for name, _ in engine_checks.QUESTIONS]  # in the order of the table
