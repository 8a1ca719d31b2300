"""Each peer by itself: which there are, the same weights or none, the settings that they run with."""

import stat
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime as ort
import pytest
import torch

from repr_bench.errors import BenchError, UsageError
from repr_bench.peers import known, trials
from repr_bench.peers import openvino as openvino_peer
from repr_bench.peers import torch as torch_peer
from repr_bench.peers import trtexec as trtexec_peer
from repr_bench.peers.base import PeerAbsentError, Prepared, Workload, not_installed
from repr_bench.peers.known import PEERS, select
from repr_bench.peers.onnxruntime import OnnxRuntimeRunner
from repr_models.registry import resolve
from repr_models.weights.bundled import bundled_record
from repr_models.weights.loading import load_weights
from repr_runtime import read_manifest
from repr_runtime.artifact.manifest import FileEntry, NetworkInfo, WeightsInfo


def work_of(folder: Path, threads: int | None = None) -> Workload:
    manifest = read_manifest(folder)
    graph = manifest.graph("fp32")
    assert graph is not None
    return Workload(folder, manifest, graph, "fp32", threads)


@pytest.fixture
def work(make_artifact: Any) -> Workload:
    return work_of(make_artifact(), threads=1)


@pytest.fixture
def batch() -> Any:
    return np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32)


def linear(x: Any) -> Any:
    return x.mean(axis=(1, 2, 3))[:, None] * np.arange(10, dtype=np.float32)


class TestSelection:
    def test_names_and_measures(self) -> None:
        providers = ("", "-cuda", "-cuda-nhwc", "-tensorrt")
        both = ("torch", "torch.compile", *(f"onnxruntime{p}" for p in providers))
        on_gpu = ("torch-cuda", "torch.compile-cuda", "torch.max-autotune-cuda")
        ours = (f"ours-{device}" for device in ("tensorrt", "cuda", "onnxruntime-tensorrt"))
        assert [(peer.name, peer.measures) for peer in PEERS] == [
            *((name, ("latency", "throughput")) for name in both),
            ("openvino-latency", ("latency",)),
            ("openvino-throughput", ("throughput",)),
            ("trtexec", ("latency",)),
            *((name, ("latency", "throughput")) for name in (*on_gpu, *ours)),
        ]

    def test_by_default_all_that_can_run_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = SimpleNamespace(name="there", why_not=lambda: None)
        gone = SimpleNamespace(name="gone", why_not=lambda: "not installed")
        monkeypatch.setattr(known, "PEERS", (there, gone))
        assert select(None) == [(there, None)]
        assert select(("gone", "there", "gone")) == [(gone, "not installed"), (there, None)]

    def test_an_unknown_one_is_an_error_that_names_the_known(self) -> None:
        with pytest.raises(UsageError, match=r"'resnet20'; known are torch, .*before --peers"):
            select(("torch", "resnet20"))

    def test_what_is_not_installed_says_the_line_that_installs_it(self) -> None:
        why = not_installed("no_such_module", "pip install it")()
        assert why == "no_such_module is not installed: pip install it"
        assert not_installed("numpy", "")() is None


class TestTorch:
    def work(self, work: Workload, **weights: Any) -> Workload:
        info = {"kind": "random", "location": "", "sha256": None, "record": {}} | weights
        manifest = SimpleNamespace(
            files=(),
            network=NetworkInfo("lenet5.cifar10", "lenet5", "cifar10", 1, 1, "registry"),
            weights=WeightsInfo(**info),
        )
        return Workload(work.folder, manifest, work.graph, "fp32", 1)  # type: ignore[arg-type]

    def bundled(self, work: Workload) -> Workload:
        digest = bundled_record(resolve("lenet5"))["weights_sha256"]
        return self.work(work, kind="bundled", sha256=digest)

    def test_it_runs_the_bundled_weights(self, work: Workload, batch: Any) -> None:
        spec = resolve("lenet5")
        network = spec.build()
        load_weights(network, None, spec)
        with torch.inference_mode():
            wanted = network.eval()(torch.from_numpy(batch)).numpy()
        runner = torch_peer.TorchRunner(self.bundled(work))
        prepared = runner.prepare([batch])
        np.testing.assert_allclose(prepared.logits([batch]), wanted, atol=1e-5)
        np.testing.assert_allclose(prepared.logits([batch[::-1].copy()]), wanted[::-1], atol=1e-5)
        assert prepared.settings.startswith(f"torch {torch.__version__} eager, ")
        assert prepared.settings.endswith(", 1 thread")
        prepared.burst(2)
        runner.close()

    def test_the_faster_layout_is_taken_and_named(
        self, work: Workload, batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for fast in (torch.contiguous_format, torch.channels_last):
            monkeypatch.setattr(
                torch_peer, "median_seconds", lambda call, fast=fast: call.args[0] is not fast
            )
            runner = torch_peer.TorchRunner(self.bundled(work))
            prepared = runner.prepare([batch])
            assert str(fast).split(".")[1].removesuffix("_format") in prepared.settings
            call: Any = prepared.call
            (tensor,) = call.args[1]
            assert tensor.is_contiguous(memory_format=fast)
            prepared.call()
            weights = runner._network.state_dict().values()
            assert all(w.is_contiguous(memory_format=fast) for w in weights if w.ndim == 4)

    def test_random_weights_are_drawn_from_the_same_seed(self, work: Workload) -> None:
        spec = resolve("lenet5")
        drawn = spec.build()
        location = load_weights(drawn, "random", spec).location
        again = torch_peer.build_network(self.work(work, location=location)).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in drawn.state_dict().items())
        with pytest.raises(PeerAbsentError, match="other weights"):
            torch_peer.build_network(self.work(work, location="seed 0"))

    def test_other_weights_are_no_peer(self, work: Workload) -> None:
        for other, why in (
            (self.work(work, kind="bundled", sha256="00" * 32), "other weights"),
            (self.work(work, kind="file"), "came from a file source"),
            (work, "not made of a registered network"),
            (replace(work, precision="int8"), "no int8 graph"),
        ):
            with pytest.raises(PeerAbsentError, match=why):
                torch_peer.build_network(other)

    @pytest.mark.parametrize("kind", torch_peer.PEERS, ids=lambda peer: peer.name)
    def test_bf16_is_its_own_weights_in_bfloat16_where_the_cpu_computes_it(
        self, kind: Any, work: Workload, batch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "compile", lambda network, **_: network)
        monkeypatch.setattr(torch_peer, "computes_bf16", lambda _: True)
        asked = replace(self.bundled(work), precision="bf16")
        prepared = kind.open(asked).prepare([batch])
        exact = kind.open(self.bundled(work)).prepare([batch]).logits([batch])
        found = prepared.logits([batch])
        assert ", bfloat16, 1 thread" in prepared.settings
        assert found.dtype == np.float32
        assert 0 < np.abs(found - exact).max() < 0.05 * np.ptp(exact)
        monkeypatch.setattr(torch_peer, "computes_bf16", lambda _: False)
        with pytest.raises(PeerAbsentError, match="only emulate bf16 here"):
            kind.open(asked)

    def test_whether_the_cpu_computes_bf16_is_what_torch_says(self) -> None:
        def cpu(**names: bool) -> Any:
            return SimpleNamespace(
                cpu=SimpleNamespace(**{k: lambda v=v: v for k, v in names.items()})
            )

        assert not torch_peer.computes_bf16(cpu(_is_avx512_bf16_supported=False))
        assert torch_peer.computes_bf16(
            cpu(_is_avx512_bf16_supported=False, _is_amx_tile_supported=True)
        )


class TestFasterGraph:
    """A peer of which each graph takes so long, by a trial that is told."""

    def prepared(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, wrong: str = "", fails: str = ""
    ) -> Any:
        seconds = {"model.int8-cpu.onnx": 2.0, "model.int8.onnx": 1.0}

        def open_one(workload: Workload) -> Any:
            path = workload.graph.path
            if path == fails:
                raise RuntimeError("no kernel")
            ready = Prepared(lambda arrays: arrays[0], lambda: None, path)
            return SimpleNamespace(prepare=lambda _: ready, close=lambda: None)

        monkeypatch.setattr(trials, "_seconds", lambda ready: seconds[ready.settings])
        manifest = SimpleNamespace(
            files=[
                FileEntry(path, "graph", precision, 1, "00", target)
                for path, precision, target in (
                    ("model.onnx", "fp32", "any"),
                    ("model.int8-cpu.onnx", "int8", "cpu"),
                    ("model.int8.onnx", "int8", "tensorrt"),
                )
            ]
        )
        asked: Any = Workload(
            *(folder, manifest, manifest.files[1], "int8", 1),  # type: ignore[arg-type]
            right=lambda ready, batch: (ready.settings, batch) != (wrong, 4),
        )
        return trials.on_the_faster_graph(open_one)(asked).prepare([np.zeros((4, 3))])

    def test_the_faster_one_is_taken_and_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        found = self.prepared(monkeypatch, tmp_path)
        assert found.settings == "model.int8.onnx, model.int8.onnx"

    def test_but_one_that_answers_as_ours(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        found = self.prepared(monkeypatch, tmp_path, wrong="model.int8.onnx")
        assert found.settings.startswith("model.int8-cpu.onnx")

    def test_where_one_fails_the_other_is_taken(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        found = self.prepared(monkeypatch, tmp_path, fails="model.int8.onnx")
        assert found.settings.startswith("model.int8-cpu.onnx")


class TestOnnxRuntime:
    def test_it_has_no_bf16_on_a_cpu(self, work: Workload) -> None:
        with pytest.raises(PeerAbsentError, match="computes no bf16"):
            OnnxRuntimeRunner(replace(work, precision="bf16"))

    def test_it_runs_the_artifacts_file(self, work: Workload, batch: Any) -> None:
        prepared = OnnxRuntimeRunner(work).prepare([batch])
        np.testing.assert_allclose(prepared.logits([batch]), linear(batch), atol=1e-5)
        found: Any = prepared.call()
        np.testing.assert_allclose(found[0], linear(batch), atol=1e-5)
        assert prepared.settings.endswith("CPUExecutionProvider, threads 1")
        assert prepared.lanes == 1

    def test_its_defaults_are_left_alone(
        self, make_artifact: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ort, "InferenceSession", opened := Mock(wraps=ort.InferenceSession))
        work, default = work_of(make_artifact()), ort.SessionOptions()
        runner = OnnxRuntimeRunner(work)
        path, options = opened.call_args.args
        assert path == str(work.path)
        for name in (
            *("intra_op_num_threads", "graph_optimization_level", "enable_mem_pattern"),
            *("enable_cpu_mem_arena", "execution_mode", "inter_op_num_threads"),
        ):
            assert getattr(options, name) == getattr(default, name)
        runner.close()


class FakeOpenVINO:
    """The few names of OpenVINO that are used, and what was asked of them."""

    __version__ = "2026.1.0-123-abc"

    def __init__(self, precision: str = "f32") -> None:
        self.precision, self.config, self.shapes = precision, {}, {}
        self.abilities, self.read = ["FP32", "BF16"], ""
        self.started, self.waited = 0, 0
        self.Core = lambda: self

    def read_model(self, path: str) -> Any:
        self.read = Path(path).name
        port = SimpleNamespace(get_any_name=lambda: "input")
        return SimpleNamespace(inputs=[port], reshape=self.shapes.update)

    def compile_model(self, _model: Any, device: str, config: dict[str, Any]) -> Any:
        assert device == "CPU"
        self.config = config
        return self

    def get_property(self, *names: str) -> Any:
        if names == ("CPU", "OPTIMIZATION_CAPABILITIES"):
            return self.abilities
        (name,) = names
        return {
            "INFERENCE_PRECISION_HINT": SimpleNamespace(get_type_name=lambda: self.precision),
            "INFERENCE_NUM_THREADS": self.config.get("INFERENCE_NUM_THREADS", 2),
            "OPTIMAL_NUMBER_OF_INFER_REQUESTS": 3,
        }[name]

    def create_infer_request(self) -> Any:
        first = SimpleNamespace(data=np.zeros(0))

        def infer(inputs: Any, **_: Any) -> None:
            first.data = linear(inputs[0])

        return SimpleNamespace(infer=infer, get_output_tensor=[first].__getitem__)

    def AsyncInferQueue(self, compiled: Any, lanes: int) -> Any:  # noqa: N802  its name
        assert (compiled, lanes) == (self, 3)
        return self

    def start_async(self, _inputs: Any, *, share_inputs: bool) -> None:
        assert share_inputs
        self.started += 1

    def wait_all(self) -> None:
        self.waited += 1


class TestOpenVINO:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> FakeOpenVINO:
        fake = FakeOpenVINO()
        monkeypatch.setitem(sys.modules, "openvino", fake)  # type: ignore[arg-type]
        return fake

    def test_latency_in_f32_at_the_batch(
        self, library: FakeOpenVINO, work: Workload, batch: Any
    ) -> None:
        prepared = openvino_peer.OpenVINORunner(work, "LATENCY").prepare([batch])
        assert library.config == {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
        }
        assert library.shapes == {"input": (4, 3, 32, 32)}
        np.testing.assert_allclose(prepared.logits([batch]), linear(batch))
        settings = "OpenVINO 2026.1.0, hint LATENCY, inference precision f32, 1 threads"
        assert (prepared.settings, prepared.lanes) == (settings, 1)

    def test_throughput_with_as_many_requests_as_it_advises(
        self, library: FakeOpenVINO, work: Workload, batch: Any
    ) -> None:
        prepared = openvino_peer.OpenVINORunner(work, "THROUGHPUT").prepare([batch])
        prepared.burst(7)
        assert (library.started, library.waited, prepared.lanes) == (7, 1, 3)
        assert prepared.settings.endswith("3 requests at once")

    def test_bfloat16_in_silence_is_refused(
        self, library: FakeOpenVINO, work: Workload, batch: Any
    ) -> None:
        library.precision = "bf16"
        with pytest.raises(PeerAbsentError, match="computes in bf16"):
            openvino_peer.OpenVINORunner(work, "LATENCY").prepare([batch])

    def test_bf16_is_the_fp32_graph_with_that_hint_where_the_cpu_computes_it(
        self, library: FakeOpenVINO, work: Workload, batch: Any
    ) -> None:
        library.precision = "bf16"
        asked = replace(work, precision="bf16", graph=replace(work.graph, path="model.bf16.onnx"))
        prepared = openvino_peer.OpenVINORunner(asked, "LATENCY").prepare([batch])
        assert library.config["INFERENCE_PRECISION_HINT"] == "bf16"
        assert library.read == "model.onnx"
        assert "inference precision bf16" in prepared.settings
        library.abilities = ["FP32"]
        with pytest.raises(PeerAbsentError, match="only emulate bf16 here"):
            openvino_peer.OpenVINORunner(asked, "LATENCY")

    @pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
    def test_the_real_one(self, hint: Any, work: Workload, batch: Any) -> None:
        pytest.importorskip("openvino")
        runner = openvino_peer.OpenVINORunner(work, hint)
        prepared = runner.prepare([batch])
        np.testing.assert_allclose(prepared.logits([batch]), linear(batch), atol=1e-4)
        assert "inference precision f32, 1 threads" in prepared.settings
        prepared.call()
        prepared.burst(3)
        runner.close()


TRTEXEC = """#!{python}
import json, sys
given = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:] if "=" in a)
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if "onnx" in given:
    open(given["saveEngine"], "w").write("engine")
    times = [dict(h2dMs=0.25, computeMs=1.0 + i, d2hMs=0.5) for i in range(24)]
    json.dump(times, open(given["exportTimes"], "w"))
if "loadInputs" in given:
    assert open(given["loadEngine"]).read() == "engine"
    import numpy as np
    x = np.fromfile(given["loadInputs"].split(":", 1)[1], np.float32).reshape(4, -1)
    y = x.mean(1)[:, None] * np.arange(10)
    out = [dict(name="logits", dimensions="4x10", values=y.ravel().tolist())]
    json.dump(out, open(given["exportOutput"], "w"))
"""


class TestTrtexec:
    @pytest.fixture
    def tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        log = tmp_path / "log"
        script = tmp_path / "bin" / "trtexec"
        script.parent.mkdir()
        script.write_text(TRTEXEC.format(python=sys.executable, log=str(log)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")
        return log

    def test_its_times_and_outputs_are_read(self, tool: Path, work: Workload, batch: Any) -> None:
        runner = trtexec_peer.TrtexecRunner(work)
        prepared = runner.prepare([batch])
        assert prepared.samples_ns == tuple(range(1_750_000, 25_000_000, 1_000_000))
        assert "copies to and from the GPU included" in prepared.settings
        assert "not in our rounds" in prepared.settings
        np.testing.assert_allclose(prepared.logits([batch]), linear(batch), atol=1e-5)
        built, ran = tool.read_text().splitlines()
        assert "--shapes=input:4x3x32x32" in built
        assert "--noTF32" in built
        assert "--noDataTransfers" not in built + ran
        place = Path(runner._folder.name)
        runner.close()
        assert not place.exists()

    @pytest.mark.parametrize("text", ["", "{}", "[]", "[3]", '[{"computeMs": 1}]'])
    def test_what_is_no_file_of_times_is_refused(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "times.json"
        path.write_text(text)
        for read in (trtexec_peer.read_times, partial(trtexec_peer.read_output, name="logits")):
            with pytest.raises(BenchError):
                read(path)

    def test_a_failure_says_its_error(self, tool: Path, work: Workload, batch: Any) -> None:
        script = tool.with_name("bin") / "trtexec"
        script.write_text(f"#!{sys.executable}\nprint('[E] no GPU'); raise SystemExit(1)")
        runner = trtexec_peer.TrtexecRunner(work)
        with pytest.raises(BenchError, match=r"trtexec failed: \[E\] no GPU"):
            runner.prepare([batch])
        runner.close()

    def test_it_is_looked_for_on_the_path(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (peer,) = trtexec_peer.PEERS
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "not on the PATH" in (peer.why_not() or "")
