"""The differences between TensorRT 10, 11 and RTX, against stand-ins that have just those."""

import enum
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest
from rtx_builds import graph

import repr_export.tensorrt.build
import repr_export.tensorrt.builder_library
from repr_export.errors import EngineBuildError, OptionError
from repr_export.layout import lay_out
from repr_export.tensorrt.build import build_engine, require_buildable
from repr_export.tensorrt.builder_library import open_library
from repr_export.tensorrt.engines import engine_shapes
from repr_export.tensorrt.monitor import BuildMonitor
from repr_export.tensorrt.options import EngineOptions
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.cuda.driver import CudaStatus, Gpu
from repr_runtime.errors import MissingExtraError

NO_GPU = CudaStatus(0, "no CUDA driver is installed")
ONE_GPU = CudaStatus(1, "", (13, 0), (Gpu("A10", "8.6", 24 * 2**30),))

GRAPH = graph("(float[batch,3] x) => (float[batch,3] y) { y = Relu(x) }")


Kind = enum.Enum("Kind", "FLOAT")
Severity = enum.Enum("Severity", "WARNING")


def tensor(info: onnx.ValueInfoProto) -> types.SimpleNamespace:
    shape = [dim.dim_value or -1 for dim in info.type.tensor_type.shape.dim]
    return types.SimpleNamespace(name=info.name, dtype=Kind.FLOAT, shape=shape)


class Parser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network
        logger.log(Severity.WARNING, "parser: this graph is old")
        logger.log(Severity.WARNING, "parser: this graph is old")

    def parse(self, content: bytes) -> bool:
        network, graph = self.network, onnx.load_model_from_string(content).graph
        inputs, outputs = map(tensor, graph.input), map(tensor, graph.output)
        network.get_input, network.num_inputs = list(inputs).__getitem__, len(graph.input)
        network.get_output, network.num_outputs = list(outputs).__getitem__, len(graph.output)
        return True


class Cache:
    """Knows its version, and how many builds it has seen."""

    def __init__(self, content: bytes, version: str) -> None:
        fresh = f"cache {version} x0"
        written, builds = (content.decode() or fresh).removeprefix("cache ").split(" x")
        self.version, self.foreign, self.builds = version, written != version, int(builds)

    def serialize(self) -> bytes:
        return f"cache {self.version} x{self.builds}".encode()


class Profile(dict[str, Any]):
    def set_shape(self, name: str, *smallest_best_and_largest: Any) -> None:
        self[name] = smallest_best_and_largest


class Config:
    def __init__(self, version: str, raises: bool) -> None:
        self.version, self.raises = version, raises
        self.flags = {"TF32"}
        self.set_flag = lambda flag: self.flags.add(flag.name)
        self.clear_flag = lambda flag: self.flags.discard(flag.name)
        self.profiles: list[Profile] = []
        self.cache: Cache | None = None
        self.builder_optimization_level = 3

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Cache | None:
        if content and not content.startswith(b"cache "):
            if self.raises:
                raise RuntimeError("the timing cache cannot be read")
            return None
        return Cache(content, self.version)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if not cache.foreign:
            self.cache = cache
        return not cache.foreign

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Builder:
    def __init__(self, module: Any) -> None:
        self.module, self.create_optimization_profile = module, Profile

    def create_network(self, flags: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(flags=flags, num_layers=0)

    def create_builder_config(self) -> Config:
        return Config(self.module.__version__, self.module.raises)

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Timing", None, 2)
        for step in range(2):
            if not monitor.step_complete("Timing", step):
                return None
        monitor.phase_finish("Timing")
        if config.cache is not None:
            config.cache.builds += 1
        return json.dumps(
            {
                "strongly typed": bool(network.flags & 1) or not self.module.weak,
                "flags": sorted(config.flags),
                "profiles": config.profiles,
                "level": config.builder_optimization_level,
                "verbosity": config.profiling_verbosity.name,
            }
        ).encode()


def library(version: str, flags: str, creation: str, *, raises: bool = False) -> types.ModuleType:
    """A module with the parts of TensorRT's API that ``version`` has and the project uses."""
    module = types.ModuleType("tensorrt")
    module.__version__ = version
    module.raises, module.weak = raises, "FP16" in flags
    module.BuilderFlag = enum.Enum("BuilderFlag", flags)
    module.Builder = lambda _: Builder(module)
    module.OnnxParser, module.IBuilderConfig = Parser, Config
    module.ILogger = type("ILogger", (), {})
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    module.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "NONE DETAILED")
    module.Dims = tuple
    if creation:
        module.NetworkDefinitionCreationFlag = enum.IntEnum(
            "NetworkDefinitionCreationFlag", creation, start=0
        )
    return module


KEPT = "TF32 REFIT STRIP_PLAN REFIT_IDENTICAL VERSION_COMPATIBLE"
TRT_10 = ("10.13.0.35", f"FP16 BF16 INT8 {KEPT}", "STRONGLY_TYPED EXPLICIT_BATCH")
TRT_11 = ("11.3.0.9", KEPT, "STRONGLY_TYPED")
TRT_11_BARE = ("11.9.0.1", KEPT, "")
TRT_8 = ("8.5.1.7", f"FP16 INT8 {KEPT}", "EXPLICIT_BATCH")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a stand-in, or nothing, in TensorRT's place, on a machine with one GPU or none."""

    def put(
        tensorrt: types.ModuleType | None,
        *,
        rtx: types.ModuleType | None = None,
        status: CudaStatus = ONE_GPU,
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
        monkeypatch.setattr(repr_export.tensorrt.builder_library, "cuda_status", lambda: status)
        monkeypatch.setattr(repr_export.tensorrt.build, "cuda_status", lambda: status)

    return put


def built(**chosen: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(build_engine(GRAPH, EngineOptions(**chosen)).content)
    return content


@pytest.mark.parametrize("version", [TRT_10, TRT_11, TRT_11_BARE])
def test_networks_are_strongly_typed_in_every_version(install: Any, version: Any) -> None:
    install(library(*version))
    engine = build_engine(GRAPH, EngineOptions(edition="tensorrt"))
    assert json.loads(engine.content) == {
        "strongly typed": True,
        "flags": [],  # TF32 is on by default, and taken away
        "level": 3,
        "verbosity": "DETAILED",
        "profiles": [{"x": [[1, 3], [8, 3], [32, 3]]}],
    }
    assert (engine.info.compute_capabilities, engine.info.version) == (("8.6",), version[0])
    assert engine.info.options["later_compute_capabilities"] is False
    assert engine.notes == ("parser: this graph is old",)


def test_weakly_typed_library_is_refused(install: Any) -> None:
    install(library(*TRT_8))
    with pytest.raises(
        EngineBuildError, match=r"8\.5\.1\.7 cannot build strongly typed.*pip install"
    ):
        built(edition="tensorrt")


@pytest.mark.parametrize("version", [TRT_10, TRT_11])
def test_options_reach_the_builder(install: Any, version: Any) -> None:
    install(library(*version))
    content = built(
        edition="tensorrt", tf32=True, version_compatible=True, strip_weights=True, opt_level=5
    )
    assert content["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN", "TF32", "VERSION_COMPATIBLE"]
    assert content["level"] == 5


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("tf32", "TF32"),
        ("version_compatible", "VERSION_COMPATIBLE"),
        ("strip_weights", "STRIP_PLAN"),
    ],
)
def test_what_a_version_lacks(install: Any, option: str, flag: str) -> None:
    version, flags, creation = TRT_11
    install(library(version, " ".join(set(flags.split()) - {flag}), creation))
    words = f"no builder flag {flag}; leave out --{option.replace('_', '-')}"
    with pytest.raises(EngineBuildError, match=words):
        built(edition="tensorrt", **{option: True})
    with pytest.raises(OptionError, match="for the GPU of this machine alone"):
        built(edition="tensorrt", compute_capabilities=("8.6",))


def test_axes_behind_the_batch_have_the_size_that_was_given(install: Any) -> None:
    install(library(*TRT_11))
    content = graph("(float[batch,3,h,w] x) => (float[batch,3,h,w] y) { y = Relu(x) }")
    specs = [TensorSpec("x", "float32", ("batch", 3, "h", "w"))]
    layout, sample = lay_out(specs, {"x": (3, 8, 9)})
    shapes, options = engine_shapes(specs, layout, sample), EngineOptions(edition="tensorrt")
    built = json.loads(build_engine(content, options, shapes=shapes).content)
    assert built["profiles"] == [{"x": [[n, 3, 8, 9] for n in (1, 8, 32)]}]
    with pytest.raises(OptionError, match=r"dimension 2 of .* is free.*--input"):
        build_engine(content, options)


def test_a_free_batch_that_is_not_first_is_refused() -> None:
    specs = [TensorSpec("state", "float32", (2, "n", 64)), TensorSpec("k", "int64", ("m",))]
    layout, sample = lay_out(specs, {"state": (2, "N", 64), "k": (5,)})
    with pytest.raises(OptionError, match=r"'?state.* at axis 1, an engine first; .*--batch N"):
        engine_shapes(specs, layout, sample)
    assert engine_shapes(specs[1:], layout, sample) == {"state": (2, 1, 64), "k": (5,)}


def test_what_cannot_be_built_is_said_before_there_is_a_graph(install: Any) -> None:
    install(library(*TRT_11))
    options = EngineOptions(edition="tensorrt", compute_capabilities=("8.6",))
    with pytest.raises(OptionError, match="for the GPU of this machine alone"):
        require_buildable(options)
    install(None)
    with pytest.raises(MissingExtraError, match="pip install"):
        require_buildable(EngineOptions(edition="tensorrt"))


# Which library


@pytest.mark.parametrize(
    ("installed", "status", "edition", "choice"),
    [
        (True, ONE_GPU, "tensorrt", "auto took TensorRT 11.3.0.9: a GPU is there"),
        (True, NO_GPU, "tensorrt-rtx", "TensorRT needs a GPU: no CUDA driver is installed"),
        (False, ONE_GPU, "tensorrt-rtx", "TensorRT is not installed"),
    ],
)
def test_auto_takes_the_first_that_can_build_here(
    install: Any, installed: bool, status: CudaStatus, edition: str, choice: str
) -> None:
    install(library(*TRT_11) if installed else None, rtx=library(*TRT_11), status=status)
    found = open_library()
    assert found.edition.name == edition
    assert choice in found.choice
    assert open_library(edition).choice == ""
    assert build_engine(GRAPH).notes[0] == found.choice


def test_nothing_installed_that_can_build(install: Any) -> None:
    for tensorrt, status in ((library(*TRT_11), NO_GPU), (None, ONE_GPU)):
        install(tensorrt, status=status)
        with pytest.raises(MissingExtraError, match=r"pip install 'repr-deploy\[tensorrt-rtx\]'"):
            open_library()
    with pytest.raises(MissingExtraError, match=r"pip install 'repr-deploy\[tensorrt\]'"):
        open_library("tensorrt")

    # What Python makes of a folder with a .pyi in it: type stubs alone are no library.
    install(types.ModuleType("tensorrt"))
    with pytest.raises(MissingExtraError, match="no module 'tensorrt'"):
        open_library("tensorrt")
    install(library(*TRT_11), status=NO_GPU)
    with pytest.raises(EngineBuildError, match="installed; use --engine tensorrt-rtx"):
        open_library("tensorrt")


@pytest.mark.parametrize(
    "error",
    [
        OSError("libnvinfer.so.11: cannot open shared object file"),
        ImportError("libnvinfer.so.11: undefined symbol"),
        ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
    ],
)
def test_library_that_cannot_be_loaded(
    install: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    install(None)

    def fail(name: str) -> types.ModuleType:
        if name == "tensorrt":
            raise error
        return library(*TRT_11)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EngineBuildError, match=r"cannot be loaded .*install it again: pip"):
        open_library("tensorrt")
    assert "cannot be loaded" in open_library().choice  # auto goes on to the other


# Timing cache


@pytest.mark.parametrize("version", [TRT_10, TRT_11])
def test_timing_cache_is_made_used_and_kept(install: Any, tmp_path: Path, version: Any) -> None:
    install(library(*version))
    path = tmp_path / "timing.cache"
    for builds in (1, 2):
        engine = build_engine(GRAPH, EngineOptions(edition="tensorrt", timing_cache=path))
        assert path.read_text() == f"cache {version[0]} x{builds}"
        assert engine.notes == ("parser: this graph is old",)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("content", [b"\x00garbage", b"cache 9.0 x7"])
def test_unusable_timing_cache_is_begun_anew(
    install: Any, tmp_path: Path, raises: bool, content: bytes
) -> None:
    install(library(*TRT_10, raises=raises))
    path = tmp_path / "timing.cache"
    path.write_bytes(content)
    engine = build_engine(GRAPH, EngineOptions(edition="tensorrt", timing_cache=path))
    assert "begun anew" in engine.notes[0]
    assert path.read_text() == f"cache {TRT_10[0]} x1"

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    options = EngineOptions(edition="tensorrt", timing_cache=path)
    with pytest.raises(KeyboardInterrupt):
        build_engine(GRAPH, options, progress=interrupt)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == f"cache {TRT_10[0]} x1"  # an interrupted build leaves it alone


@pytest.mark.parametrize("place", ["missing/cache", "."])
def test_timing_cache_that_cannot_be_written_is_refused_before_the_build(
    install: Any, tmp_path: Path, place: str
) -> None:
    install(library(*TRT_10))
    options = EngineOptions(edition="tensorrt", timing_cache=tmp_path / place)
    with pytest.raises(OptionError, match=r"--timing-cache .* cannot be written"):
        build_engine(GRAPH, options, progress=lambda *_: pytest.fail("it builds"))


def test_monitor_counts_phases_within_phases_and_keeps_the_first_reason_to_stop() -> None:
    seen: list[tuple[str, int, int]] = []
    monitor = BuildMonitor(lambda *step: seen.append(step))
    monitor.phase_start("all", None, 2)
    monitor.phase_start("part", "all", 1)
    assert monitor.step_complete("part", 0)
    monitor.phase_finish("part")
    assert monitor.step_complete("all", 0)
    assert seen == [("all", 0, 2), ("part", 0, 1), ("part", 1, 1), ("all", 1, 2)]
    first = KeyboardInterrupt()
    monitor.stop(first)
    monitor.stop(RuntimeError())
    assert not monitor.step_complete("all", 0)
    assert monitor.stopped_by is first
