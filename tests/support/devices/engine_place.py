"""An artifact with engines, on a machine that has what a test says."""

import hashlib
import platform
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import engine_bytes, expected
from onnx import helper
from onnx_bytes import model_of

from repr_runtime import read_manifest
from repr_runtime.artifact.manifest import EngineInfo, Manifest, ProfileInfo
from repr_runtime.backends.tensorrt import checks as engine_checks
from repr_runtime.backends.tensorrt import engines
from repr_runtime.backends.tensorrt import library as library_module
from repr_runtime.backends.tensorrt.library import Edition, Library
from repr_runtime.cuda.driver import CudaStatus, Gpu
from repr_runtime.errors import MissingExtraError

HERE = f"{sys.platform}-{platform.machine().lower()}"
PATH = "engines/fp32.tensorrt.engine"
RTX_PATH = "engines/fp32.tensorrt-rtx.engine"
VERSIONS = {"tensorrt": "10.13.0.35", "tensorrt-rtx": "1.7.1.116"}
REBUILD = "repr-export tiny --engine tensorrt"


def summing_graph() -> bytes:
    """What the fake engine computes, for ONNX Runtime: logits = 2 * sum + class."""
    constants: dict[str, Any] = {"axes": [1, 2, 3], "last": [1], "two": np.float32(2)}
    constants["shift"] = np.arange(5, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["input", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "two"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "last"], ["column"]),
        helper.make_node("Add", ["column", "shift"], ["logits"]),
    ]
    return model_of(nodes, {"input": ("n", 3, 4, 4)}, {"logits": ("n", 5)}, constants)


class Place:
    """An artifact with engines, and what the machine is said to have."""

    def __init__(self, folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.tiny, self.patch = folder, tiny, monkeypatch
        self.devices: list[FakeCuda] = []
        self.modules: dict[str, ModuleType | None] = {}
        self.memory = 1 << 30
        there = property(lambda edition: bool(self.modules.get(edition.name)))
        monkeypatch.setattr(Edition, "installed", there)
        self.gpu("8.9")
        self.install("tensorrt")
        self.install("tensorrt-rtx")
        for module in (engine_checks, engines):
            monkeypatch.setattr(module, "open_library", self._library)
            monkeypatch.setattr(module, "open_cuda", self._cuda)

    def gpu(self, *capabilities: str, driver: tuple[int, int] = (13, 0)) -> None:
        gpus = tuple(Gpu(f"GPU {c}", c, 1 << 37) for c in capabilities)
        status = CudaStatus(len(gpus), "" if gpus else "no driver here", driver, gpus)
        for module in (engine_checks, engines, library_module):
            self.patch.setattr(module, "cuda_status", lambda: status)

    def install(self, library: str, version: str | None = None, **choices: Any) -> None:
        choices |= {"rtx": library == "tensorrt-rtx", "lean": library == "tensorrt-lean"}
        self.modules[library] = fake_tensorrt.module(version=version, **choices)

    def _library(self, edition: Edition) -> Library:
        module = self.modules[edition.name]
        if module is None:
            raise MissingExtraError("running engines", edition.name, edition.module)
        return Library(edition, module)

    def _cuda(self, device: int) -> FakeCuda:
        capability = engine_checks.cuda_status().gpus[device].compute_capability
        self.devices.append(FakeCuda(device, self.memory, capability))
        return self.devices[-1]

    def write(self, *libraries: str, content: bytes | None = None, **changes: Any) -> Path:
        """An artifact with an fp32 engine for each library; ``changes`` are to their entries."""
        golden = {"input.input": self.tiny.inputs(3)}
        golden["output.logits"] = expected(golden["input.input"])
        graph = summing_graph()
        infos, more = [], {}
        for library in libraries:
            path, version = f"engines/fp32.{library}.engine", VERSIONS[library]
            compatible = bool(changes.get("options", {}).get("version_compatible"))
            made = content or engine_bytes(
                rtx=library == "tensorrt-rtx", version=version, compatible=compatible
            )
            more[path] = (made, "engine", "fp32")
            infos.append(engine_info(path, library, version, graph, **changes))
        network = replace(self.tiny.parts()[0].network, source="registry")
        choices = {"graph": graph, "golden": golden, "more": more, "network": network}
        return self.tiny.write(self.folder, **choices, engines=tuple(infos))

    def manifest(self) -> Manifest:
        return read_manifest(self.folder)


def engine_info(path: str, library: str, version: str, graph: bytes, **more: Any) -> EngineInfo:
    """The manifest's entry of an fp32 engine that was built of ``graph`` for this system."""
    return EngineInfo(
        **{
            "path": path,
            "precision": "fp32",
            "flavour": library,
            "version": version,
            "platform": HERE,
            "compute_capabilities": ("8.9",),
            "profiles": (ProfileInfo(1, 4, 16),),
            "graph_sha256": hashlib.sha256(graph).hexdigest(),
            "options": {"tf32": False},
            **more,
        }
    )
