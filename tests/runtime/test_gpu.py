"""On a real GPU: engines of both libraries, device arrays of torch, ONNX Runtime's CUDA provider.

Each test skips with its reason where a package or the GPU is missing.
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import Session, TensorRTOptions, load, preflight
from repr_runtime.artifact.manifest import ProfileInfo, TensorSpec
from repr_runtime.backends import onnxruntime as ort
from repr_runtime.backends.tensorrt.backend import TensorRTBackend
from repr_runtime.backends.tensorrt.engines import ForeignEngineWarning
from repr_runtime.backends.tensorrt.library import RUNNERS, Edition, open_library
from repr_runtime.cuda.arrays import DeviceArray
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.cuda.opening import open_cuda
from repr_runtime.errors import (
    BatchSizeError,
    DeviceUnavailableError,
    EngineLoadError,
    MissingExtraError,
    UnsupportedGpuError,
)

pytestmark = pytest.mark.gpu
SHAPE = (3, 32, 32)
CLASSES = 10


@pytest.fixture(autouse=True, scope="module")
def gpu() -> None:
    if not cuda_status().devices:
        pytest.skip(f"no GPU: {cuda_status().reason}")


@pytest.fixture(scope="module")
def graph(lenet5: Path) -> bytes:
    """Convolutions, poolings and a classifier: what an engine's tactics differ in."""
    return (lenet5 / "model.onnx").read_bytes()


def batch(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, count])
    return random.standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def reference(graph: bytes) -> Callable[[np.ndarray], np.ndarray]:
    backend = ort.OnnxRuntimeBackend(graph, "cpu", 2)
    return lambda x: backend.run({"input": x})[0]


@pytest.fixture(scope="module", params=[*RUNNERS])
def engine_artifact(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Any,
    graph: bytes,
    reference: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Path]:
    from repr_export.tensorrt.build import build_engine
    from repr_export.tensorrt.options import EngineOptions

    edition = RUNNERS[request.param]
    options = EngineOptions(
        edition.engines, (ProfileInfo(1, 8, 32),), version_compatible=edition.lean
    )
    try:
        open_library(edition).require_gpu(cuda_status().gpus[0])  # RTX is not for all of them
        open_cuda().close()
        built = build_engine(graph, options)
    except (MissingExtraError, DeviceUnavailableError, UnsupportedGpuError) as error:
        pytest.skip(str(error))
    x = batch(5)
    folder = tmp_path_factory.mktemp("engines") / edition.name
    artifact = tiny.write(
        folder,
        graph=graph,
        golden={"input.input": x, "output.logits": reference(x)},
        inputs=(TensorSpec("input", "float32", ("n", *SHAPE)),),
        outputs=(TensorSpec("logits", "float32", ("n", CLASSES)),),
        labels=None,
        preprocessing=None,
        receipts={"golden": {"samples": 3, "tolerance": {"logits": 1e-3}}},
        more={built.info.path: (built.content, "engine", "fp32")},
        engines=(built.info,),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Edition, "installed", property(lambda each: each is edition))
        yield artifact


@pytest.fixture
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return torch


def open_session(path: Path, **options: Any) -> Session:
    return load(path, device="tensorrt", options=TensorRTOptions(**options))


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_an_engine_computes_what_its_graph_does(
    engine_artifact: Path, reference: Callable[..., np.ndarray], graphs: bool
) -> None:
    with open_session(engine_artifact, cuda_graphs=graphs, specialization="eager") as session:
        for seed in range(3):
            for count in (1, 2, 3, 8, 31, 32):
                x = batch(count, seed)
                got = session.run(x)["logits"]
                np.testing.assert_allclose(got, reference(x), rtol=1e-3, atol=1e-3)
        assert isinstance(session.backend, TensorRTBackend)
        own = graphs and not session.backend.library.captures_itself
        assert {lane._graph is not None for lane in session.backend._lanes._free} == {own}
        assert session.self_test().samples == 5
        with pytest.raises(BatchSizeError):
            session.run(batch(33))
    with load(engine_artifact) as session:
        assert session.choice.startswith("TensorRT")
    checks = preflight(engine_artifact, device="tensorrt", verify=True)
    assert [c.detail for c in checks if not c.passed] == []


def test_threads_get_bit_for_bit_what_one_thread_gets(engine_artifact: Path) -> None:
    # With lazy kernels the first runs of a shape may be another kernel's.
    with open_session(engine_artifact, contexts=4, specialization="eager") as session:
        work = [batch((1, 5, 8, 32)[seed % 4], seed) for seed in range(100)]
        for x in work:
            session.run(x)
        alone = [session.run(x)["logits"] for x in work]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda x: session.run(x)["logits"], work))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)


def test_timings_are_those_of_the_device(engine_artifact: Path) -> None:
    with open_session(engine_artifact, timed=True) as session:
        for _ in range(5):
            session.run(batch(32))
        timings = session.timings
        assert timings is not None
        for part in (timings.host_to_device, timings.compute, timings.device_to_host):
            assert 0 < part < 1000


def test_torch_tensors_go_in_and_come_out(
    engine_artifact: Path, reference: Callable[..., np.ndarray], torch: Any
) -> None:
    with open_session(engine_artifact) as session:
        for count in (1, 7, 32, 7):
            x = batch(count)
            output = session.run(torch.from_numpy(x).cuda())["logits"]
            assert isinstance(output, DeviceArray)
            tensor = torch.from_dlpack(output)
            assert tensor.is_cuda
            assert tensor.data_ptr() == output.address
            expected = reference(x)
            np.testing.assert_allclose(tensor.cpu().numpy(), expected, rtol=1e-3, atol=1e-3)
            again = torch.as_tensor(output, device="cuda")
            assert again.data_ptr() == output.address
    np.testing.assert_array_equal(tensor.cpu().numpy(), output.copy_to_host())


def test_work_of_a_stream_of_torch_is_waited_for(engine_artifact: Path, torch: Any) -> None:
    x = batch(32)
    with open_session(engine_artifact) as session:
        expected = session.run(x)["logits"]
        there, stream = torch.from_numpy(x).cuda(), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            target = torch.zeros_like(there)
            torch.cuda._sleep(200_000_000)
            target.copy_(there)
            got = session.run(target)["logits"].copy_to_host()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_memory_is_given_back(engine_artifact: Path) -> None:
    cuda = open_cuda()

    def free() -> int:
        with cuda.current():
            return cuda.memory_info()[0]

    for round_ in range(4):
        if round_ == 1:  # the first one loads kernels that stay
            before = free()
        with open_session(engine_artifact) as session:
            for count in (1, 8, 32):
                session.run(batch(count))
    assert free() >= before - (64 << 20)
    cuda.close()


def test_what_rtx_compiled_is_read_again(
    engine_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "rtx" not in engine_artifact.name:
        pytest.skip("TensorRT compiles nothing when it runs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with open_session(engine_artifact, specialization="eager") as session:
            session.run(batch(8))
            assert isinstance(session.backend, TensorRTBackend)
            cached = session.backend._cached
    assert cached
    (file,) = (engine_artifact / "engines").glob("*.runtime-cache")
    assert file.read_bytes().endswith(cached)


# ONNX Runtime on the GPU


@pytest.fixture(params=["cuda", "onnxruntime-tensorrt"])
def ort_backend(request: pytest.FixtureRequest, graph: bytes) -> ort.OnnxRuntimeBackend:
    reason = ort.why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    try:
        return ort.OnnxRuntimeBackend(graph, request.param, None)
    except DeviceUnavailableError as error:
        pytest.skip(f"the provider's libraries are not installed: {error}")


def test_onnx_runtime_computes_the_same_on_the_gpu(
    ort_backend: ort.OnnxRuntimeBackend, reference: Callable[..., np.ndarray]
) -> None:
    x = batch(8)
    (got,) = ort_backend.run({"input": x})
    np.testing.assert_allclose(got, reference(x), rtol=1e-3, atol=1e-3)
    assert ort_backend.provider_options["CUDAExecutionProvider"]["use_tf32"] == "0"


def test_onnx_runtime_binds_device_arrays(
    ort_backend: ort.OnnxRuntimeBackend, reference: Callable[..., np.ndarray], torch: Any
) -> None:
    x = batch(8)
    feed = {"input": torch.from_numpy(x).cuda()}
    (output,) = ort_backend.run_on_device(feed, lambda _: None)
    tensor = torch.from_dlpack(output)
    np.testing.assert_allclose(tensor.cpu().numpy(), reference(x), rtol=1e-3, atol=1e-3)


def test_onnx_runtime_waits_for_whoever_fills_its_inputs_and_reads_its_outputs(
    ort_backend: ort.OnnxRuntimeBackend, torch: Any
) -> None:
    there = torch.from_numpy(batch(32)).cuda()
    (expected,) = ort_backend.run_on_device({"input": there}, lambda _: None)
    stream, read = torch.cuda.Stream(), []
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(3):
            late = torch.zeros_like(there)
            torch.cuda._sleep(100_000_000)
            late.copy_(there)
            (output,) = ort_backend.run_on_device({"input": late}, lambda _: None)
            torch.cuda._sleep(100_000_000)
            read.append(torch.from_dlpack(output).clone())
            del output  # before it is read: its memory is for the next run, which has to wait
    stream.synchronize()
    for each in read:
        np.testing.assert_allclose(each.cpu(), expected.copy_to_host(), rtol=1e-3, atol=1e-3)


# Last, for what a library does with such bytes is its own


def test_a_damaged_engine_is_refused_by_the_library(engine_artifact: Path, tmp_path: Path) -> None:
    (file,) = (engine_artifact / "engines").glob("*.engine")
    content = file.read_bytes()
    for name, damaged in (("half", content[: len(content) // 2]), ("start", content[:40])):
        bad = tmp_path / name
        bad.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForeignEngineWarning)
            with pytest.raises(EngineLoadError):
                load(engine_artifact, engine=bad, trust=True)
