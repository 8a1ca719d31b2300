"""What this machine has to run networks with: its GPUs, the libraries, and which devices work."""

import hashlib
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.openvino.compiling import version
from repr_runtime.backends.precisions import sentence
from repr_runtime.backends.tensorrt.library import RUNNERS, open_library
from repr_runtime.backends.tensorrt.messages import listen
from repr_runtime.cuda.driver import CudaStatus, cuda_status
from repr_runtime.cuda.opening import open_cuda
from repr_runtime.errors import BackendError
from repr_runtime.machine import cpu_name, usable_cores

DEVICES = ("tensorrt", "onnxruntime-tensorrt", "cuda", "openvino", "cpu")
_SECONDS = 45
"""For each attempt: the first import of a large library from a cold disk takes a while."""

_LIBRARIES = (
    "numpy",
    "onnxruntime",
    "openvino",
    *(edition.module for edition in RUNNERS.values()),
    "cuda.bindings.driver",
    "pycuda.driver",
    "torch",
    "triton",
    "onnx",
    "onnx_ir",
    "onnxscript",
)
_IMPORT = """
import importlib, importlib.metadata
module = importlib.import_module(name)
if module.__file__ is None:
    raise ModuleNotFoundError(f"{name} has no code here (type stubs alone leave such a package)")
parts = name.split(".")
parents = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
known = [getattr(importlib.import_module(each), "__version__", "") for each in parents]
known += map(importlib.metadata.version, importlib.metadata.packages_distributions().get(parts[0], []))
print(next(filter(None, known), "of no known version"))
if name == "torch":
    print(f"built for CUDA {module.version.cuda}; sees a GPU: {module.cuda.is_available()}")
if name == "onnxruntime":
    print(", ".join(module.get_available_providers()))
"""
_TRY = """
from repr_runtime.backends.survey import try_device
print(try_device(name))
"""
_ATTEMPT = """
import sys
name = sys.argv[1]
try:
    exec(sys.argv[2])
except BaseException as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(1)
"""
_SMI = (
    "driver_version,clocks.max.sm,clocks.max.memory,power.limit,persistence_mode,ecc.mode.current"
)

# y = x + x of float32[1, 4], as ONNX: enough to see whether a provider computes at all.
_GRAPH = bytes.fromhex(
    "08083a3d0a0e0a01780a017812017922034164641201675a130a0178120e0a0c080112080a0208010a020804"
    "62130a0179120e0a0c080112080a0208010a02080442040a001011"
)


@dataclass(frozen=True)
class Found:
    """A library or device: whether it works here, and its version, or exactly why not."""

    name: str
    works: bool
    detail: str


@dataclass(frozen=True)
class Survey:
    """``facts`` are by what they are of; ``devices`` in the order in which ``auto`` tries them."""

    facts: Mapping[str, str]
    libraries: tuple[Found, ...]
    devices: tuple[Found, ...]

    def lines(self) -> Iterator[str]:
        """For a person."""
        for name, text in self.facts.items():
            yield f"{name:<9} {text}"
        for title, group in (("library", self.libraries), ("device", self.devices)):
            yield ""
            for found in group:
                mark = "ok" if found.works else "NO"
                yield f"[{mark}] {title} {found.name}: {found.detail}"


def survey() -> Survey:
    """Ask the driver, import each library, and compute something on each device.

    Each in a process of its own, which may crash or hang without harm to the others.
    """
    with ThreadPoolExecutor(4) as pool:
        libraries = pool.map(lambda name: _attempt(name, _IMPORT), _LIBRARIES)
        devices = pool.map(lambda name: _attempt(name, _TRY), DEVICES)
        return Survey(dict(_facts(cuda_status())), tuple(libraries), tuple(devices))


def _facts(status: CudaStatus) -> Iterator[tuple[str, str]]:
    python = f"Python {platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.platform()}, {python}"
    yield "CPU", f"{cpu_name()}, {usable_cores()} cores for this process"
    yield "precision", f"on the CPU: {sentence()}"
    if not status.devices:
        yield "GPU", f"none: {status.reason}"
        return
    cuda = ".".join(map(str, status.driver or ()))
    yield "CUDA", f"the driver speaks CUDA {cuda}"
    for index, gpu in enumerate(status.gpus):
        capability = f"compute capability {gpu.compute_capability}"
        yield f"GPU {index}", f"{gpu.name}, {capability}, {gpu.memory / 2**30:.1f} GiB"
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        told = said.stdout.strip() or said.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        told = f"says nothing: {error}"
    for index, line in enumerate(told.splitlines()):
        yield f"SMI {index}", f"{_SMI}: {line}"


def _attempt(name: str, code: str) -> Found:
    command = [sys.executable, "-c", _ATTEMPT, name, code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Found(name, False, f"it has not come back within {_SECONDS} s")
    said = "; ".join(done.stdout.strip().splitlines())
    if done.returncode < 0:
        crash = f"its process ended with {signal.Signals(-done.returncode).name}"
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        return Found(name, False, f"{crash}; the last it said: {last[0]}")
    return Found(name, done.returncode == 0, said)


def try_device(device: str) -> str:
    """Compute on ``device``, one of :data:`DEVICES`, as far as that goes without an artifact.

    Returns what it is. Raises what stands in the way: of ``tensorrt``, whose engines come with
    artifacts, a library or a GPU that is not to be had.
    """
    if device == "tensorrt":
        return _try_tensorrt()
    from repr_runtime.backends import onnxruntime as ort
    from repr_runtime.backends.openvino import backend as openvino

    backend: ort.OnnxRuntimeBackend | openvino.OpenVINOBackend
    if device == "openvino":
        specs = [TensorSpec(name, "float32", (1, 4)) for name in "xy"]
        digest = hashlib.sha256(_GRAPH).hexdigest()
        backend = openvino.open_openvino(_GRAPH, digest, "fp32", (specs[:1], specs[1:]))
        said = f"OpenVINO {version()} computes there"
    else:
        backend = ort.OnnxRuntimeBackend(_GRAPH, device, None)
        said = (
            f"ONNX Runtime {ort.version()} computes there, by {', '.join(backend.provider_options)}"
        )
    (got,) = backend.run({"x": np.arange(4, dtype=np.float32)[None]})
    if got.tolist() != [[0.0, 2.0, 4.0, 6.0]]:
        raise BackendError(f"{device} says that 0 to 3, doubled, are {got.tolist()}")
    return said


def _try_tensorrt() -> str:
    cuda = open_cuda()
    works, fails = list[str](), list[str]()
    with cuda.current():
        free, total = cuda.memory_info()
        for edition in RUNNERS.values():
            if not edition.installed:
                fails.append(f"{edition.title} is not installed")
                continue
            try:
                library = open_library(edition)
                for gpu in cuda_status().gpus[:1]:
                    library.require_gpu(gpu)
                with listen(library.trt) as messages:
                    made = library.runtime()
                said = f" (it says: {'; '.join(messages.errors)})" if messages.errors else ""
                (works if made is not None else fails).append(f"{library.title}{said}")
            except Exception as error:  # whatever a library with shared objects raises
                fails.append(str(error))
    cuda.close()
    if not works:
        raise BackendError("; ".join(fails))
    memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    text = f"{', '.join(works)} through {cuda.name}, {memory}; whether it takes an engine, each engine shows"
    return "; ".join([text, *fails])


def as_json(found: Survey) -> str:
    """For a program."""
    groups: dict[str, Sequence[Found]] = {"libraries": found.libraries, "devices": found.devices}
    body = {name: [vars(each) for each in group] for name, group in groups.items()}
    return json.dumps({"facts": dict(found.facts), **body}, indent=1)
