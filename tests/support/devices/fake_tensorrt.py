"""A module with the part of TensorRT's API that runs engines, which keeps TensorRT's rules.

An engine is JSON after a magic: ``scale`` and ``shift`` of ``logits = scale * sum over the
sample + shift``, so that the samples of a batch are independent. Use ``module()`` for a fresh
one; ``rtx=True`` adds what `tensorrt_rtx` has besides.
"""

from __future__ import annotations

import enum
import json
import math
import threading
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from fake_cuda import BrokenRuleError, FakeCuda

CLASSES = 5
SAMPLE = (3, 4, 4)
DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT32")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
REFUSED_GPU = (
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this "
    "GPU, which has compute capability {}. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 "
    ">12.0. TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt "
    "for it. In throwUnlessComputeCapSupported at /_src/runtime/dispatch/runtime.cpp:84)"
)
"""What TensorRT-RTX 1.7.1 says on an H100, of engines for others and for that one alike."""
Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


def engine_bytes(
    *,
    rtx: bool = False,
    version: str = "10.13.0.35",
    profiles: tuple[tuple[int, int, int], ...] = ((1, 4, 16),),
    **fields: Any,
) -> bytes:
    """A serialized fake engine; ``fields`` are among those that `FakeEngine` reads."""
    body = {"version": version, "profiles": profiles, **fields}
    return (b"vtrt" if rtx else b"ftrt") + json.dumps(body).encode()


def expected(x: np.ndarray, scale: float = 2.0, shift: float = 1.0) -> np.ndarray:
    """What an engine computes of ``x``: (n, 3, 4, 4) float32 to (n, 5) float32."""
    total = x.reshape(len(x), -1).sum(axis=1, dtype=np.float64)
    return (scale * total[:, None] + shift * np.arange(CLASSES)).astype(np.float32)


class FakeEngine:
    def __init__(self, fields: dict[str, Any], module: ModuleType) -> None:
        self.fields, self.module = fields, module
        self.device = FakeCuda.stack()[-1]  # it belongs to the one that is current now
        self.num_optimization_profiles = len(fields["profiles"])
        self.num_io_tensors = 2
        self.weights = fields.get("stripped") is None
        self.contexts: list[FakeContext] = []
        self.threads = threading.Lock()

    def get_tensor_name(self, index: int) -> str:
        return ("input", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name == "input" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, _: str) -> Any:
        return DataType[self.fields.get("dtype", "FLOAT")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        free = name == "logits" and self.fields.get("data_dependent")
        return self.shape_of(name, -1 if free else self.fields.get("fixed", -1))

    def shape_of(self, name: str, rows: int) -> tuple[int, ...]:
        return (rows, *SAMPLE) if name == "input" else (rows, CLASSES)

    def get_tensor_profile_shape(self, _: str, index: int) -> list[tuple[int, ...]]:
        return [(rows, *SAMPLE) for rows in self.fields["profiles"][index]]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        self.module.configs.append(FakeRuntimeConfig(self.module))
        return self.module.configs[-1]

    def create_execution_context(self, config: Any = None) -> FakeContext | None:
        if len(self.contexts) >= self.fields.get("most_contexts", 99):
            self.module.logger.log(Severity.ERROR, "out of memory: no context")
            return None
        if not self.threads.acquire(blocking=False):
            raise BrokenRuleError("two contexts are made of an engine at once")
        try:
            time.sleep(0.001)
            self.contexts.append(FakeContext(self, config))
            return self.contexts[-1]
        finally:
            self.threads.release()


class FakeContext:
    """Enforces: addresses and shapes first, one thread at a time, capture only after a warm-up."""

    def __init__(self, engine: FakeEngine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.profile = 0
        self.rows: int | None = None
        self.addresses: dict[str, int] = {}
        self.warm_for: tuple[Any, ...] | None = None  # the state that the last enqueue settled
        self.threads = threading.Lock()
        self.enqueued = 0

    def _state(self) -> tuple[Any, ...]:
        return (self.profile, self.rows, *sorted(self.addresses.items()))

    def set_optimization_profile_async(self, index: int, _: int) -> bool:
        self.profile, self.rows = index, None
        return 0 <= index < len(self.engine.fields["profiles"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.fields["profiles"][self.profile]
        if name != "input" or tuple(shape[1:]) != SAMPLE or not low <= shape[0] <= high:
            self.engine.module.logger.log(Severity.ERROR, f"shape {shape} outside the profile")
            return False
        self.rows = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        free = name == "logits" and self.engine.fields.get("data_dependent")
        rows = -1 if free else self.engine.fields.get("fixed", self.rows)
        return self.engine.shape_of(name, rows)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if not self.threads.acquire(blocking=False):
            raise BrokenRuleError("an execution context in two threads at once")
        try:
            return self._execute(stream)
        finally:
            self.threads.release()

    def _execute(self, stream: int) -> bool:
        self.enqueued += 1
        fields, (*_, device) = self.engine.fields, (None, *FakeCuda.stack())
        if device is None or set(self.addresses) != {"input", "logits"} or not self.rows:
            raise BrokenRuleError("enqueued without a context, all addresses and shapes")
        if not self.engine.weights:
            raise BrokenRuleError("an engine without weights was run before it was refitted")
        if fields.get("fails_after") is not None and self.enqueued > fields["fails_after"]:
            self.engine.module.logger.log(Severity.ERROR, "the kernel could not be launched")
            return False
        capturing = device.streams[stream].captured is not None
        if capturing and (fields.get("uncapturable") or self.warm_for != self._state()):
            device.streams[stream].invalid = True
            return False
        self.warm_for = self._state()
        if device is not self.engine.device:
            return True  # what is said to be captured is nothing, and nobody says so
        state, addresses, rows = self._state(), dict(self.addresses), self.rows

        def compute() -> None:
            if capturing and self._state() != state:
                raise BrokenRuleError(
                    "a graph was launched after its context's shapes or addresses changed"
                )
            x = device.at(addresses["input"], rows * math.prod(SAMPLE) * 4)
            values = x.view(np.float32).reshape(rows, *SAMPLE)
            result = expected(values, fields.get("scale", 2.0), fields.get("shift", 1.0))
            if capturing and fields.get("replays_wrongly"):
                result = result + 1e3
            target = device.at(addresses["logits"], result.nbytes)
            target[...] = result.view(np.uint8).reshape(-1)
            device.clock += 10.0

        device.put(stream, compute)
        return True


class FakeRuntimeCache:
    """Takes only what it wrote itself, of the same version."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.kernels = 0

    def deserialize(self, blob: bytes) -> bool:
        try:
            content = json.loads(blob)
        except ValueError:
            return False
        if content["version"] != self.module.__version__:
            return False
        self.kernels = content["kernels"]
        return True

    def serialize(self) -> bytes:
        return json.dumps({"version": self.module.__version__, "kernels": 3}).encode()


@dataclass
class FakeRuntimeConfig:
    module: ModuleType
    cuda_graph_strategy: Any = "DISABLED"
    dynamic_shapes_kernel_specialization_strategy: Any = "LAZY"
    cache: Any = None

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self.module)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


def numbers(version: str) -> list[int]:
    return [*map(int, version.split("."))]


def module(
    *, rtx: bool = False, lean: bool = False, version: str | None = None, validity: int = 0
) -> Any:
    """A fake ``tensorrt``, or with ``rtx`` a fake ``tensorrt_rtx``, with ``lean`` a fake
    ``tensorrt_lean_bindings``; ``validity`` is what an engine's header is said to lack, as bits
    of ``EngineInvalidityDiagnostics``.
    """
    name = "tensorrt_rtx" if rtx else "tensorrt_lean_bindings" if lean else "tensorrt"
    fake: Any = ModuleType(name)
    usual = {"tensorrt": "10.13.0.35", "tensorrt_rtx": "1.7.1.116"}.get(name, "11.4.0.106")
    fake.__version__ = version or usual
    fake.DataType, fake.TensorIOMode = DataType, TensorIOMode
    fake.configs, fake.engines, fake.logger = [], [], None
    fake.runs_on = ["8.0", "8.6", "8.9", "12.0", "12.1"]

    class ILogger:
        def log(self, severity: Any, text: str) -> None:
            raise NotImplementedError

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            fake.logger = logger
            self.broken = lean and not FakeCuda.stack()
            if self.broken:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")

        def __del__(self) -> None:
            assert not self.broken, "this would have ended the process"

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            fields, why_not = {}, ""
            try:
                if content[:4] != (b"vtrt" if rtx else b"ftrt"):
                    raise ValueError
                fields = json.loads(content[4:])
            except ValueError:
                why_not = "Serialization assertion magicTag failed"
            if self.broken:
                raise BrokenRuleError("this would have ended the process")
            built, compatible = fields.get("version", fake.__version__), fields.get("compatible")
            if not FakeCuda.stack():
                why_not = "CUDA driver version is insufficient"
            elif rtx and (here := FakeCuda.stack()[-1].capability) not in fake.runs_on:
                why_not = REFUSED_GPU.format(here)
            elif lean and not compatible:
                why_not = "Unexpected call to stub loadRunner for ReformatRunner"
            elif built != fake.__version__ and not (
                compatible and numbers(built) <= numbers(fake.__version__)
            ):
                why_not = f"version tag mismatch: {built} against {fake.__version__}"
            elif (compatible or fields.get("host_code")) and not self.engine_host_code_allowed:
                why_not = "host executable code is not allowed"
            if why_not:
                fake.logger.log(Severity.ERROR, why_not)
                return None
            fake.engines.append(FakeEngine(fields, fake))
            return fake.engines[-1]

    class Refitter:
        def __init__(self, engine: FakeEngine, _: Any) -> None:
            self.engine, self.graph = engine, b""

        def refit_cuda_engine(self) -> bool:
            self.engine.weights = True
            self.engine.refitted_from = self.graph
            return True

    class OnnxParserRefitter:
        def __init__(self, refitter: Refitter, _: Any) -> None:
            self.refitter = refitter

        def refit_from_bytes(self, graph: bytes) -> bool:
            self.refitter.graph = graph
            return graph.startswith(b"\x08")

    fake.ILogger, fake.Runtime = ILogger, Runtime
    fake.Refitter = Refitter
    if not lean:
        fake.OnnxParserRefitter = OnnxParserRefitter
    if rtx:
        fake.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
        fake.DynamicShapesKernelSpecializationStrategy = enum.Enum(
            "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE"
        )
        fake.ComputeCapability = enum.Enum(
            "ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121"
        )
        fake.EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
        fake.EngineInvalidityDiagnostics = enum.Enum(
            "EngineInvalidityDiagnostics",
            {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "MALFORMED_ENGINE": 32},
        )
        verdict = fake.EngineValidity.INVALID if validity else fake.EngineValidity.VALID
        Runtime.get_engine_validity = lambda *_: (verdict, validity)
    return fake
