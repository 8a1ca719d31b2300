"""Which engine of an artifact runs here, and every reason why one does not."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import engine_bytes, expected
from onnx import TensorProto, helper, numpy_helper

from repr_runtime import TensorRTOptions, load, preflight
from repr_runtime.artifact.manifest import EngineInfo, Manifest, ProfileInfo
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.backends.tensorrt import checks as engine_checks
from repr_runtime.backends.tensorrt import engines
from repr_runtime.backends.tensorrt.checks import Subject, check_engine
from repr_runtime.backends.tensorrt.engines import ForeignEngineWarning
from repr_runtime.backends.tensorrt.library import EDITIONS, Edition, Library, open_library
from repr_runtime.cli import main
from repr_runtime.cuda.driver import CudaStatus, Gpu, cuda_status
from repr_runtime.errors import (
    AlteredFileError,
    BackendError,
    BatchSizeError,
    DeviceMemoryError,
    DeviceUnavailableError,
    EngineLoadError,
    EngineNotFoundError,
    EngineVersionError,
    ForeignEngineError,
    MissingExtraError,
    MissingFileError,
    ReproError,
    StaleEngineError,
    TruncatedFileError,
    WrongGpuError,
)
from repr_runtime.preflight import preflight_engines

HERE = f"{sys.platform}-{platform.machine().lower()}"
PATH = "engines/fp32.tensorrt.engine"
RTX_PATH = "engines/fp32.tensorrt-rtx.engine"
VERSIONS = {"tensorrt": "10.13.0.35", "tensorrt-rtx": "1.7.1.116"}


def summing_graph() -> bytes:
    """What the fake engine computes, for ONNX Runtime: logits = 2 * sum + class."""
    constants: dict[str, Any] = {"axes": [1, 2, 3], "last": [1], "two": np.float32(2)}
    constants["shift"] = np.arange(5, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["input", "axes"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "two"], ["scaled"]),
            helper.make_node("Unsqueeze", ["scaled", "last"], ["column"]),
            helper.make_node("Add", ["column", "shift"], ["logits"]),
        ],
        "summing",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = helper.make_opsetid("", 20)
    content: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=10
    ).SerializeToString()
    return content


class Place:
    """An artifact with engines, and what the machine is said to have."""

    def __init__(self, folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.tiny, self.patch = folder, tiny, monkeypatch
        self.devices: list[FakeCuda] = []
        self.modules: dict[str, ModuleType | None] = {}
        self.memory = 1 << 30
        self.gpu("9.0")
        self.install("tensorrt")
        self.install("tensorrt-rtx")
        monkeypatch.setattr(engine_checks, "open_library", self._library)
        monkeypatch.setattr(engines, "open_library", self._library)
        monkeypatch.setattr(engine_checks, "open_cuda", self._cuda)
        monkeypatch.setattr(engines, "open_cuda", self._cuda)

    def gpu(self, *capabilities: str, driver: tuple[int, int] = (13, 0)) -> None:
        gpus = tuple(Gpu(f"GPU {c}", c, 1 << 37) for c in capabilities)
        status = CudaStatus(len(gpus), "" if gpus else "no driver here", driver, gpus)
        self.patch.setattr(engine_checks, "cuda_status", lambda: status)

    def install(self, flavour: str, version: str | None = None, **choices: Any) -> None:
        rtx = flavour == "tensorrt-rtx"
        self.modules[flavour] = fake_tensorrt.module(rtx=rtx, version=version, **choices)

    def _library(self, flavour: Any) -> Library:
        module = self.modules[flavour.name]
        if module is None:
            raise MissingExtraError("running engines", flavour.extra, flavour.module)
        return Library(flavour, module)

    def _cuda(self, device: int) -> FakeCuda:
        self.devices.append(FakeCuda(device, self.memory))
        return self.devices[-1]

    def write(self, *flavours: str, content: bytes | None = None, **changes: Any) -> Path:
        """An artifact with an fp32 engine of each flavour; ``changes`` are to their entries."""
        golden = {"input.input": self.tiny.inputs(3)}
        golden["output.logits"] = expected(golden["input.input"])
        graph = summing_graph()
        manifest, files = self.tiny.parts(graph=graph, golden=golden)
        infos = []
        for flavour in flavours:
            path = f"engines/fp32.{flavour}.engine"
            files[path] = content or engine_bytes(
                rtx=flavour == "tensorrt-rtx", version=VERSIONS[flavour]
            )
            info = EngineInfo(
                *(path, "fp32", flavour, VERSIONS[flavour], HERE, ("9.0",)),
                profiles=(ProfileInfo(1, 4, 16),),
                graph_sha256=hashlib.sha256(graph).hexdigest(),
                options={"tf32": False},
            )
            infos.append(replace(info, **changes))
        manifest = replace(
            manifest,
            network=replace(manifest.network, source="registry"),
            files=tuple(
                describe_file(p, c, p.split(".")[0] if p == "golden.npz" else "graph", "fp32")
                if p in ("model.onnx", "golden.npz")
                else describe_file(p, c, "engine", "fp32")
                for p, c in files.items()
            ),
            engines=tuple(infos),
        )
        write_artifact(self.folder, manifest, files)
        return self.folder

    def manifest(self) -> Manifest:
        from repr_runtime import read_manifest

        return read_manifest(self.folder)


@pytest.fixture
def place(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Place(tmp_path / "tiny", tiny, monkeypatch)


# What is chosen


def test_auto_takes_an_engine_that_passes_all_checks(place: Place) -> None:
    path = place.write("tensorrt-rtx", "tensorrt")
    x = place.tiny.inputs(3)
    with load(path) as session:
        assert session.choice == (
            f"TensorRT 10.13.0.35 on cuda:0, engine {PATH}, the fastest that works here"
        )
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x))
        assert session.self_test().samples == 3
        many = place.tiny.inputs(50)  # more than the engine's largest batch
        logits = session.run_all({"input": many})["logits"]
        np.testing.assert_array_equal(logits, expected(many))
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


def test_auto_goes_on_to_onnx_runtime_and_says_why(place: Place) -> None:
    path = place.write("tensorrt", graph_sha256="0" * 64)
    x = place.tiny.inputs(2)
    with load(path) as session:
        assert "; not on cuda: " in session.choice
        assert f"; not on tensorrt: {PATH} is stale: " in session.choice
        np.testing.assert_allclose(session.run(x)["logits"], expected(x), rtol=1e-5, atol=1e-5)


def test_auto_without_engines_says_so(artifact: Path) -> None:
    with load(artifact) as session:
        assert session.choice.endswith("; not on tensorrt: the artifact has no fp32 engine")


def test_tensorrt_by_name_needs_an_engine(artifact: Path) -> None:
    with pytest.raises(EngineNotFoundError) as caught:
        load(artifact, device="tensorrt")
    assert str(caught.value) == (
        f"{artifact} has no fp32 engine (it has none); build one: repr-export YOUR-NETWORK "
        f"--engine auto"
    )


def test_timings_of_a_session(place: Place) -> None:
    path = place.write("tensorrt")
    with load(path, device="tensorrt", options=TensorRTOptions(timed=True)) as session:
        session.run(place.tiny.inputs(1))
        assert session.timings is not None
        assert session.timings.compute == 11
    with load(path, device="cpu") as session:
        session.run(place.tiny.inputs(1))
        assert session.timings is None


# Each check, refused: by load with its own error, by check_engine with the same words


def refused(place: Place, kind: type[ReproError], name: str, *parts: str, **choices: Any) -> None:
    with pytest.raises(ReproError) as caught:
        load(place.folder, device="tensorrt")
    assert type(caught.value) is kind
    for part in parts:
        assert part in str(caught.value)
    (info,) = place.manifest().engines
    checks = check_engine(Subject(place.folder, place.manifest(), info, **choices))
    assert [(c.name, c.detail) for c in checks if not c.passed] == [(name, str(caught.value))]
    asked = {c.name: c for c in preflight(place.folder, device="tensorrt")}
    assert not asked[f"engine's {name}"].passed
    assert not asked["runs here"].passed
    assert all(device.closed and not device.leaks for device in place.devices)


REBUILD = "repr-export tiny --engine tensorrt"


def test_a_stale_engine(place: Place) -> None:
    place.write("tensorrt", graph_sha256="ab" * 32)
    refused(place, StaleEngineError, "graph", f"{PATH} is stale", "abababababab…", REBUILD)


def test_an_engine_of_another_version(place: Place) -> None:
    place.write("tensorrt")
    place.install("tensorrt", "10.13.2.6")
    refused(
        *(place, EngineVersionError, "version", "was built by TensorRT 10.13.0.35"),
        *("installed is 10.13.2.6", REBUILD, "pip install 'tensorrt==10.13.0.35'"),
    )


@pytest.mark.parametrize(
    ("version", "passes"), [("10.14.1.0", True), ("10.12.0.1", False), ("11.0.0.1", False)]
)
def test_a_version_compatible_engine(place: Place, version: str, passes: bool) -> None:
    place.write("tensorrt", options={"version_compatible": True})
    place.install("tensorrt", version)
    checks = {c.name: c.passed for c in preflight_engines(place.folder)[PATH]}
    assert checks["version"] is passes


def test_an_engine_for_another_system(place: Place) -> None:
    place.write("tensorrt", platform="plan9-mips")
    refused(place, EngineVersionError, "system", "built for plan9-mips, this is", REBUILD)


def test_engines_that_lack_the_same_are_told_together(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.write("tensorrt", "tensorrt-rtx", options={})
    place.gpu()
    place.patch.setattr(Edition, "cuda_major", 13)
    main([str(path), "--device", "cpu"])
    told = f"engine    {PATH}\nengine    {RTX_PATH} cannot run here; what is needed:\n  [NO] GPU: "
    assert told in capsys.readouterr().out


def test_an_engine_for_another_gpu(place: Place) -> None:
    place.write("tensorrt", compute_capabilities=("8.9",))
    refused(
        place,
        WrongGpuError,
        "compute capability",
        "built for compute capability 8.9, GPU 9.0 has 9.0",
        REBUILD,
    )


@pytest.mark.parametrize(
    ("here", "later", "validity", "passes"),
    [
        ("8.6", False, 2, True),  # listed: the library is not asked
        ("12.1", True, 2, True),  # later than all that are listed
        ("12.1", False, 2, False),
        ("9.0", True, 0, True),  # between: the library's own word
        ("9.0", True, 2, False),
        ("7.5", True, 2, False),
    ],
)
def test_gpus_of_an_rtx_engine(
    place: Place, here: str, later: bool, validity: int, passes: bool
) -> None:
    listed, options = ("8.0", "8.6", "12.0"), {"later_compute_capabilities": later}
    place.write("tensorrt-rtx", compute_capabilities=listed, options=options)
    place.gpu(here)
    place.install("tensorrt-rtx", validity=validity)
    checks = {c.name: c.passed for c in preflight_engines(place.folder)[RTX_PATH]}
    assert checks["compute capability"] is passes


def test_no_gpu_at_all(place: Place) -> None:
    place.write("tensorrt")
    place.gpu()
    refused(
        *(place, DeviceUnavailableError, "GPU", "no driver here"),
        "needs an NVIDIA GPU of compute capability 9.0, and ",
    )


def test_a_gpu_that_is_not_there(place: Place) -> None:
    path = place.write("tensorrt")
    with pytest.raises(DeviceUnavailableError, match="there is no GPU 3, only 1"):
        load(path, device="tensorrt", options=TensorRTOptions(gpu=3))


def test_a_driver_that_is_too_old(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("tensorrt")
    place.gpu("9.0", driver=(12, 4))
    monkeypatch.setattr(Edition, "cuda_major", 13)
    refused(place, DeviceUnavailableError, "driver", "speaks CUDA 12.4", "needs 13.0", "update")


def test_no_library(place: Place) -> None:
    place.write("tensorrt")
    place.modules["tensorrt"] = None
    refused(place, MissingExtraError, "library", "pip install 'repr-deploy[tensorrt]'")


def test_without_a_library_the_gpu_is_still_asked_for(place: Place) -> None:
    place.write("tensorrt")
    place.modules["tensorrt"] = None
    place.gpu()
    checks = preflight_engines(place.folder)[PATH]
    assert [c.name for c in checks if not c.passed] == ["GPU", "library"]


def test_too_little_memory(place: Place) -> None:
    place.write("tensorrt")
    place.memory = 100
    refused(place, DeviceMemoryError, "memory", "0 MiB are free on GPU 9.0", "--shapes 1,1,4")


def test_a_batch_that_no_profile_covers(place: Place) -> None:
    path = place.write("tensorrt")
    (check,) = [c for c in preflight_engines(path, batch=64)[PATH] if not c.passed]
    assert check.name == "batch"
    assert "batches of 1 to 16 (fastest at 4), not 64; " in check.detail
    assert check.detail.endswith(f"{REBUILD} --shapes 1,64,64")
    assert all(c.passed for c in preflight_engines(path, batch=16)[PATH])
    with load(path, device="tensorrt") as session, pytest.raises(BatchSizeError, match="got 64"):
        session.run(place.tiny.inputs(64))


def test_a_edition_of_the_future(place: Place) -> None:
    path = place.write("tensorrt", flavour="tensorrt-x")
    with pytest.raises(EngineLoadError, match="for 'tensorrt-x', known are tensorrt, tensorrt-rtx"):
        load(path, device="tensorrt")


def test_every_answer_of_a_fit_engine(place: Place) -> None:
    path = place.write("tensorrt", options={"tf32": True})
    checks = preflight(path, device="tensorrt", verify=True)
    assert all(c.passed for c in checks)
    answers = {c.name.removeprefix("engine's "): c.detail for c in checks}
    assert answers["precision"] == "fp32; TF32 in fp32 layers"
    assert answers["graph"] == "built from model.onnx as it is"
    assert answers["version"] == "built by 10.13.0.35, which is installed"
    assert answers["compute capability"] == "built for 9.0, which GPU 9.0 has"
    assert answers["system"] == HERE
    assert answers["self-test"].startswith("3 golden samples within 0 ")


# Damage, and engines from elsewhere


def test_a_corrupted_engine(place: Place) -> None:
    path = place.write("tensorrt")
    file = path / PATH
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    with pytest.raises(AlteredFileError, match=r"fp32\.tensorrt\.engine was altered"):
        load(path, device="tensorrt")
    file.write_bytes(good[:-1])
    with pytest.raises(TruncatedFileError, match="bytes, expected"):
        load(path, device="tensorrt")
    file.unlink()
    with pytest.raises(MissingFileError):
        load(path, device="tensorrt")
    assert not place.modules["tensorrt"].engines  # nothing of it reached the library
    with load(path) as session:
        assert (
            f"not on tensorrt: {file} is listed in manifest.json but is not there" in session.choice
        )


def test_a_manifest_that_lists_rubbish(place: Place) -> None:
    path = place.write("tensorrt", content=b"ftrt rubbish")
    with pytest.raises(EngineLoadError, match="damaged or no engine at all"):
        load(path, device="tensorrt")
    assert all(device.closed for device in place.devices)


def test_a_foreign_engine_is_refused(place: Place, tmp_path: Path) -> None:
    path = place.write("tensorrt")
    foreign = tmp_path / "foreign.engine"
    foreign.write_bytes(engine_bytes(scale=3.0))
    with pytest.raises(ForeignEngineError) as caught:
        load(path, engine=foreign)
    for part in (str(foreign), "an engine is executable code", REBUILD, "trust=True"):
        assert part in str(caught.value)
    assert not place.modules["tensorrt"].engines


def test_a_foreign_engine_runs_if_it_is_trusted(place: Place, tmp_path: Path) -> None:
    path = place.write("tensorrt")
    foreign = tmp_path / "foreign.engine"
    foreign.write_bytes(engine_bytes(rtx=True, version="1.7.1.116", scale=3.0))
    with pytest.warns(ForeignEngineWarning, match="nothing says who made this one"):
        session = load(path, engine=foreign, trust=True)
    x = place.tiny.inputs(2)
    with session:
        np.testing.assert_array_equal(session.run(x)["logits"], expected(x, 3.0))
        assert "TensorRT-RTX" in session.choice
        assert session.choice.endswith(f"engine {foreign}, a foreign engine, as asked for")
    foreign.write_bytes(b"no engine")
    with pytest.warns(ForeignEngineWarning), pytest.raises(EngineLoadError):
        load(path, engine=foreign, trust=True)
    assert all(device.closed for device in place.devices)


def test_the_artifacts_own_engine_elsewhere_is_not_foreign(place: Place, tmp_path: Path) -> None:
    path = place.write("tensorrt")
    copy = tmp_path / "copy.engine"
    copy.write_bytes((path / PATH).read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, engine=copy).close()
    place.write("tensorrt", graph_sha256="0" * 64)
    with pytest.raises(StaleEngineError):
        load(path, engine=copy)


def test_an_engine_file_that_is_not_there(place: Place, tmp_path: Path) -> None:
    path = place.write("tensorrt")
    with pytest.raises(MissingFileError, match=r"none\.engine cannot be read"):
        load(path, engine=tmp_path / "none.engine")
    with pytest.raises(ValueError, match="runs with device='tensorrt', not 'cpu'"):
        load(path, engine=tmp_path / "none.engine", device="cpu")


def test_a_foreign_engine_of_another_network(place: Place, tmp_path: Path) -> None:
    path = place.write("tensorrt")
    foreign = tmp_path / "foreign.engine"
    foreign.write_bytes(engine_bytes(fixed=2, profiles=((2, 2, 2),)))
    manifest = place.manifest()
    files = {e.path: (path / e.path).read_bytes() for e in manifest.files}
    other = replace(manifest, inputs=(replace(manifest.inputs[0], shape=("n", 3, 9, 9)),))
    write_artifact(path, other, files)
    with pytest.warns(ForeignEngineWarning), pytest.raises(ReproError, match="the manifest says"):
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
    with pytest.raises(EngineLoadError, match="host executable code is not allowed"):
        load(path, device="tensorrt")


# The commands


def test_inspect_says_what_an_engine_needs(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.write("tensorrt", "tensorrt-rtx", compute_capabilities=("8.9",))
    place.gpu()
    place.modules["tensorrt"] = None
    assert main([str(path), "--device", "cpu"]) == 0  # it runs, if not as an engine
    shown = capsys.readouterr().out
    for part in (
        f"engine    {PATH} cannot run here; what is needed:\n  [NO] GPU: no driver here; the engine "
        f"needs an NVIDIA GPU of compute capability 8.9, and ",
        "  [NO] library: running engines needs",
        f"engine    {RTX_PATH} cannot run here; what is needed:\n  [NO] GPU: ",
        "This artifact will run here.",
    ):
        assert part in shown
    assert main([str(path), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["engines"]) == {PATH, RTX_PATH}
    assert [c["name"] for c in report["engines"][PATH] if not c["passed"]] == ["GPU", "library"]
    assert main([str(path), "--device", "tensorrt"]) == 1


def test_inspect_says_that_an_engine_runs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    path = place.write("tensorrt")
    assert main([str(path)]) == 0
    assert f"engine    {PATH} runs here\n" in capsys.readouterr().out


def test_a_new_export_replaces_an_artifact_with_a_runtime_cache(place: Place) -> None:
    path = place.write("tensorrt-rtx")
    with load(path, device="tensorrt") as session:
        session.run(place.tiny.inputs(1))
    assert (path / (RTX_PATH + ".runtime-cache")).exists()
    place.write("tensorrt-rtx")
    assert not (path / (RTX_PATH + ".runtime-cache")).exists()


# Which graph ONNX Runtime gets


def two_int8_graphs(tiny: Any, folder: Path, *targets: str) -> Path:
    manifest, files = tiny.parts()
    files |= {f"model.int8.{t}.onnx": tiny.graph(seed=i + 1) for i, t in enumerate(targets)}
    entries = [
        describe_file(f"model.int8.{t}.onnx", files[f"model.int8.{t}.onnx"], "graph", "int8", t)
        for t in targets
    ]
    write_artifact(folder, replace(manifest, files=(*manifest.files, *entries)), files)
    return folder


@pytest.mark.parametrize(
    ("targets", "seed"),
    [(("cpu", "tensorrt"), 1), (("tensorrt", "cpu"), 2), (("tensorrt",), 1), (("any",), 1)],
)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_cpu_gets_its_own_int8_graph(
    tiny: Any, tmp_path: Path, targets: tuple[str, ...], seed: int, device: str
) -> None:
    x = tiny.inputs(2)
    if cuda_status().devices and device == "auto":
        pytest.skip("auto takes the GPU here")
    with load(
        two_int8_graphs(tiny, tmp_path / "a", *targets), precision="int8", device=device
    ) as s:
        np.testing.assert_allclose(s.run(x)["logits"], tiny.logits(x, seed), rtol=1e-4, atol=1e-4)


def test_golden_samples_are_held_to_the_tolerance_of_the_graph(tiny: Any, tmp_path: Path) -> None:
    manifest, files = tiny.parts()
    files["model.fp16.onnx"] = tiny.graph(seed=1)  # far off
    manifest = replace(
        manifest,
        files=(
            *manifest.files,
            describe_file("model.fp16.onnx", files["model.fp16.onnx"], "graph", "fp16"),
        ),
        receipts={
            "golden": {
                "tolerance": {"logits": 1e-4},
                "tolerances": {"model.fp16.onnx": {"logits": 1e3}},
            }
        },
    )
    write_artifact(tmp_path / "a", manifest, files)
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 1e3)):
        with load(tmp_path / "a", device="cpu", precision=precision) as session:
            assert session.self_test().tolerance == tolerance


# The real TensorRT-RTX, up to where a GPU is needed


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return open_library(EDITIONS["tensorrt-rtx"])


@pytest.fixture(scope="module")
def real_engine(rtx: Library, tiny: Any) -> bytes:
    from repr_runtime.backends.tensorrt.messages import logger

    trt = rtx.trt
    builder = trt.Builder(logger(rtx.trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger(rtx.trt)).parse(tiny.graph())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 4, 4), (2, 3, 4, 4), (8, 3, 4, 4))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def test_the_real_library_is_what_the_table_says(rtx: Library, real_engine: bytes) -> None:
    from repr_runtime.backends.tensorrt.library import edition_of

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
    }.items():
        assert set(names.split()) <= set(dir(getattr(rtx.trt, kind))), kind
    for name in ("LAZY", "EAGER", "NONE"):
        assert hasattr(rtx.trt.DynamicShapesKernelSpecializationStrategy, name)
    assert hasattr(rtx.trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert {"FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL"} <= {
        *rtx.trt.DataType.__members__
    }
    for name in ("VERSION_MISMATCH", "UNSUPPORTED_CC", "MALFORMED_ENGINE", "OLD_CUDA_DRIVER"):
        assert name in rtx.trt.EngineInvalidityDiagnostics.__members__


def test_the_real_library_knows_damage_from_the_header(rtx: Library, real_engine: bytes) -> None:
    for damaged in (b"", real_engine[:20], bytes(5000)):
        assert "MALFORMED_ENGINE" in (rtx.invalid(damaged) or ())


@pytest.mark.skipif(cuda_status().devices > 0, reason="there is a GPU")
def test_the_real_library_without_a_gpu(rtx: Library, real_engine: bytes) -> None:
    from repr_runtime.backends.tensorrt.messages import logger

    assert rtx.invalid(real_engine) is None  # it cannot tell
    runtime = rtx.trt.Runtime(logger(rtx.trt))
    with pytest.raises(
        EngineLoadError, match="it needs a GPU and a driver that is new enough"
    ) as e:
        rtx.deserialize(runtime, real_engine)
    assert "device='cpu'" in str(e.value)
    with pytest.raises(EngineLoadError, match="damaged or no engine"):
        rtx.deserialize(runtime, bytes(5000))


@pytest.mark.skipif(cuda_status().devices > 0, reason="there is a GPU")
def test_a_real_engine_in_an_artifact_on_a_machine_without_a_gpu(
    rtx: Library, real_engine: bytes, tiny: Any, tmp_path: Path
) -> None:
    manifest, files = tiny.parts()
    files[RTX_PATH] = real_engine
    info = EngineInfo(
        *(RTX_PATH, "fp32", "tensorrt-rtx", rtx.version, HERE, ("8.0", "8.6", "8.9", "12.0")),
        profiles=(ProfileInfo(1, 2, 8),),
        graph_sha256=hashlib.sha256(files["model.onnx"]).hexdigest(),
        options={"later_compute_capabilities": True},
    )
    entry = describe_file(RTX_PATH, real_engine, "engine", "fp32")
    manifest = replace(manifest, files=(*manifest.files, entry), engines=(info,))
    write_artifact(tmp_path / "a", manifest, files)
    checks = preflight_engines(tmp_path / "a")[RTX_PATH]
    assert [c.name for c in checks if c.passed] == [
        *("precision", "graph", "file", "batch", "system", "library", "version")
    ]
    assert [c.name for c in checks if not c.passed] == ["GPU"]
    with pytest.raises(
        DeviceUnavailableError, match=r"8\.0 or 8\.6 or 8\.9 or 12\.0 or later, and a driver"
    ):
        load(tmp_path / "a", device="tensorrt")
    with load(tmp_path / "a") as session:
        assert "; not on tensorrt: no CUDA driver" in session.choice


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises((MissingExtraError, BackendError)):
        open_library(EDITIONS["tensorrt-rtx"])
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))  # as stubs alone are
    with pytest.raises(MissingExtraError, match="needs the extra 'tensorrt'"):
        open_library(EDITIONS["tensorrt"])


def test_checks_are_asked_in_the_order_of_the_table(place: Place) -> None:
    path = place.write("tensorrt")
    names = [c.name for c in preflight_engines(path)[PATH]]
    assert names == [name for name, _ in engine_checks.QUESTIONS]
