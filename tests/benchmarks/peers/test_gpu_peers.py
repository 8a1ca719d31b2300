"""What runs on a GPU alone: torch there, ONNX Runtime's providers, ours on its other backends."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime as ort
import pytest
import torch

from repr_bench.measuring.sessions import one_a_batch
from repr_bench.peers import onnxruntime as ort_peer
from repr_bench.peers import own_devices, torch_gpu
from repr_bench.peers.base import PeerAbsentError, Workload
from repr_bench.peers.ours import OursRunner
from repr_models.registry import resolve
from repr_models.weights.bundled import bundled_record
from repr_models.weights.loading import load_weights
from repr_runtime import read_manifest
from repr_runtime.artifact.manifest import NetworkInfo, WeightsInfo
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import EngineNotFoundError


@pytest.fixture
def work(make_artifact: Any) -> Workload:
    """A network with its bundled weights, for torch; and a small graph, for the others."""
    folder = make_artifact()
    record = read_manifest(folder)
    digest = bundled_record(resolve("lenet5"))["weights_sha256"]
    manifest = replace(
        record,
        network=NetworkInfo("lenet5.cifar10", "lenet5", "cifar10", 1, 1, "registry"),
        weights=WeightsInfo(kind="bundled", location="", sha256=digest, record={}),
    )
    graph = record.graph("fp32")
    assert graph is not None
    return Workload(folder, manifest, graph, "fp32", 1)


@pytest.fixture
def batch() -> Any:
    return np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32)


@pytest.fixture
def lenet5_logits(batch: Any) -> Any:
    spec = resolve("lenet5")
    network = spec.build()
    load_weights(network, None, spec)
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(batch)).numpy()


class TestTorch:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_gpu, "_TRIAL_SECONDS", 1e-3)
        monkeypatch.setattr(torch.compiler, "reset", lambda: None)  # it imports for seconds
        for name in ("stop_compiling", "let_compile_often"):
            monkeypatch.setattr(torch_gpu, name, lambda: None)

    @pytest.mark.parametrize(
        ("precision", "error"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 1e-1)]
    )
    def test_the_network_runs_in_the_precision_of_the_graph(
        self, work: Workload, batch: Any, lenet5_logits: Any, precision: str, error: float
    ) -> None:
        runner = torch_gpu.GpuRunner(replace(work, precision=precision), "cpu")
        prepared = runner.prepare([batch])
        found = prepared.logits([batch])
        assert found.dtype == np.float32
        off = np.abs(found - lenet5_logits).max() / np.abs(lenet5_logits).max()
        assert (off < error, off > 1e-6) == (True, precision != "fp32")
        assert f"{torch_gpu._DTYPES[precision]}, TF32 off, " in prepared.settings
        prepared.call()
        prepared.burst(3)
        assert prepared.on_gpu is not None
        prepared.on_gpu()
        runner.close()

    def test_what_is_queued_is_waited_for_within_the_call(
        self, work: Workload, batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        runner = torch_gpu.GpuRunner(work, "cpu")
        prepared = runner.prepare([batch])
        run = runner._run
        monkeypatch.setattr(runner, "_wait", lambda: seen.append("wait"))
        monkeypatch.setattr(runner, "_run", lambda *a: (seen.append("run"), run(*a))[1])
        prepared.burst(3)
        assert seen == ["run"] * 3 + ["wait"]
        assert prepared.on_gpu is not None
        prepared.on_gpu()
        assert seen[4:] == ["run", "wait"]

    def test_int8_is_none_of_torchs(self, work: Workload) -> None:
        with pytest.raises(PeerAbsentError, match="no int8 graph"):
            torch_gpu.GpuRunner(replace(work, precision="int8"), "cpu")

    def test_compiled_for_the_batch_it_is_another_network_each_time(
        self, work: Workload, batch: Any, lenet5_logits: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "compile", compile_ := Mock(side_effect=lambda n, **_: n))
        runner = torch_gpu.CompiledGpuRunner(work, "max-autotune", "cpu")
        for size in (4, 2):
            prepared = runner.prepare([batch[:size]])
            found = prepared.logits([batch[:size]])
            np.testing.assert_allclose(found, lenet5_logits[:size], atol=1e-5)
        (first, second) = compile_.call_args_list
        assert first == second
        assert first.kwargs == {"mode": "max-autotune", "dynamic": False}
        assert not hasattr(first.args[0], "_orig_mod")  # never what was compiled before
        assert "compiled, mode max-autotune, float32, TF32 off, channels_last" in prepared.settings
        runner.close()

    def test_compiling_that_takes_too_long_is_given_up_for_all_batches(
        self, work: Workload, batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def compile_(*_: Any, **__: Any) -> None:
            for _ in range(100):
                try:
                    time.sleep(0.1)
                except Exception:
                    continue

        monkeypatch.setattr(torch, "compile", compile_)
        runner = torch_gpu.CompiledGpuRunner(
            replace(work, compile_seconds=0.05), "max-autotune", "cpu"
        )
        begin = time.monotonic()
        for _ in range(2):
            with pytest.raises(PeerAbsentError, match=r"longer than it may \(--compile-seconds\)"):
                runner.prepare([batch])
        assert time.monotonic() - begin < 5
        runner.close()

    def test_why_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        status = SimpleNamespace(devices=0, reason="no driver")
        monkeypatch.setattr(torch_gpu, "cuda_status", lambda: status)
        assert torch_gpu._why_not() == "no driver"
        status.devices = 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "has no CUDA here" in str(torch_gpu._why_not())


Real = ort.InferenceSession


class FakeGpuSession:
    """ONNX Runtime's session, as a real one on the CPU that says it was on the GPU."""

    def __init__(self, path: str, options: Any, providers: Any) -> None:
        self.providers = providers
        self.real = Real(path, options, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.run, self.bound = self.real.run, list[Any]()

    def get_providers(self) -> list[str]:
        first, *_ = self.providers
        return [first if isinstance(first, str) else first[0], "CPUExecutionProvider"]

    def io_binding(self) -> Any:
        return Mock()

    def run_with_iobinding(self, binding: Any) -> None:
        self.bound.append(binding)


class TestOnnxRuntime:
    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> list[FakeGpuSession]:
        opened: list[FakeGpuSession] = []

        def session(*args: Any, **options: Any) -> FakeGpuSession:
            opened.append(FakeGpuSession(*args, **options))
            return opened[-1]

        monkeypatch.setattr(ort, "InferenceSession", session)
        value = SimpleNamespace(ortvalue_from_numpy=lambda array, kind, gpu: (array, kind, gpu))
        monkeypatch.setattr(ort, "OrtValue", value)
        monkeypatch.setattr(ort_peer, "preload", Mock())
        return opened

    @pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "1"), ("int8", "0")])
    def test_tf32_is_as_in_ours(
        self, gpu: list[FakeGpuSession], work: Workload, precision: str, tf32: str
    ) -> None:
        of = replace(work, precision=precision)
        runner = ort_peer.OnnxRuntimeRunner(of, "CUDAExecutionProvider")
        assert gpu[0].providers == [("CUDAExecutionProvider", {"use_tf32": tf32})]
        assert f"TF32 {'allowed' if tf32 == '1' else 'off'}" in runner._settings

    def test_the_channels_are_last_where_that_is_asked_for(
        self, gpu: list[FakeGpuSession], work: Workload
    ) -> None:
        (peer,) = (peer for peer in ort_peer.PEERS if peer.name == "onnxruntime-cuda-nhwc")
        runner: Any = peer.open(work)
        ((name, options),) = gpu[0].providers
        assert (name, options["prefer_nhwc"]) == ("CUDAExecutionProvider", "1")
        assert "channels last" in runner._settings

    def test_each_batch_has_a_session_and_a_call_that_stays_on_the_gpu(
        self, gpu: list[FakeGpuSession], work: Workload, batch: Any
    ) -> None:
        runner = ort_peer.OnnxRuntimeRunner(work, "CUDAExecutionProvider")
        prepared = [runner.prepare([batch[:size]]) for size in (1, 4)]
        assert len(gpu) == 2
        for one, session in zip(prepared, gpu, strict=True):
            assert one.on_gpu is not None
            one.on_gpu()
            (binding,) = session.bound
            (name, (array, *where)) = binding.bind_ortvalue_input.call_args.args
            assert (name, where) == ("input", ["cuda", 0])
            assert len(array) == (1 if session is gpu[0] else 4)
            binding.bind_output.assert_called_once_with("logits", "cuda")
            binding.synchronize_outputs.assert_called_once_with()

    def test_the_cpu_keeps_one_session(
        self, gpu: list[FakeGpuSession], work: Workload, batch: Any
    ) -> None:
        runner = ort_peer.OnnxRuntimeRunner(work)
        assert [runner.prepare([batch[:size]]).on_gpu for size in (1, 4)] == [None, None]
        assert len(gpu) == 1


class TestOurs:
    def session(self, device: str = "cuda", name: str = "onnxruntime") -> Any:
        found = Mock(device=device, batch_size=None, choice="ONNX Runtime on cuda")
        found.runnable_batch = lambda count: count
        found.backend = SimpleNamespace(name=name, instances=1)
        found.run = lambda *arrays: {"logits": arrays[0]}
        return found

    def test_onnx_runtime_on_a_gpu_has_a_session_a_batch(self, batch: Any) -> None:
        assert one_a_batch(self.session())
        assert not one_a_batch(self.session("cpu"))
        assert not one_a_batch(self.session("cuda:0", "tensorrt"))
        more = [self.session() for _ in range(2)]
        spare = iter(more)
        runner = OursRunner(first := self.session(), lambda _batch: next(spare))
        for size in (1, 4, 1):
            prepared = runner.prepare([batch[:size]])
            assert "a session for each batch size" in prepared.settings
            np.testing.assert_array_equal(prepared.logits([batch[:size]]), batch[:size])
        runner.close()
        for one in (first, *more):
            one.close.assert_called_once_with()

    def test_an_engine_that_there_is_not_is_said(
        self, work: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {}

        def load(_: Path, **options: Any) -> None:
            asked.update(options)
            raise EngineNotFoundError("it has none; build one")

        monkeypatch.setattr(own_devices, "load", load)
        peer = next(p for p in own_devices.PEERS if p.name == "ours-tensorrt")
        with pytest.raises(PeerAbsentError, match="build one"):
            peer.open(work)
        assert asked["options"].specialization == "eager"
        assert (asked["device"], asked["precision"]) == ("tensorrt", "fp32")

    @pytest.mark.parametrize(
        ("device", "library", "peer"),
        [("cuda", "onnxruntime", "ours-cuda"), ("cuda:0", "tensorrt", "ours-tensorrt")],
    )
    def test_what_the_run_took_is_not_run_twice(
        self, work: Workload, device: str, library: str, peer: str
    ) -> None:
        own = replace(work, session=self.session(device, library))
        for one in own_devices.PEERS:
            if one.name == peer:
                with pytest.raises(PeerAbsentError, match="what ours runs on"):
                    one.open(own)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # those of a compiler are not ours
@pytest.mark.parametrize("peer", torch_gpu.PEERS[:2], ids=lambda p: p.name)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_on_the_gpu(
    work: Workload, batch: Any, lenet5_logits: Any, peer: Any, precision: str
) -> None:
    if (reason := peer.why_not()) is not None:
        pytest.skip(reason)
    runner = peer.open(replace(work, precision=precision))
    prepared = runner.prepare([batch])
    off = np.abs(prepared.logits([batch]) - lenet5_logits).max() / np.abs(lenet5_logits).max()
    assert off < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1}[precision]
    prepared.call()
    prepared.burst(3)
    prepared.on_gpu()
    runner.close()


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_onnx_runtime_on_the_gpu(work: Workload, batch: Any, provider: str) -> None:
    if not cuda_status().devices:
        pytest.skip(cuda_status().reason)
    try:
        runner = ort_peer.OnnxRuntimeRunner(work, provider)
    except PeerAbsentError as error:
        pytest.skip(str(error))
    for size in (1, 4):
        prepared = runner.prepare([batch[:size]])
        wanted = batch[:size].mean(axis=(1, 2, 3))[:, None] * np.arange(10, dtype=np.float32)
        np.testing.assert_allclose(prepared.logits([batch[:size]]), wanted, atol=1e-4)
        prepared.call()
        assert prepared.on_gpu is not None
        prepared.on_gpu()
    runner.close()
