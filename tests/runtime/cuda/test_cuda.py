"""CUDA through each binding: the same tests for all, on a GPU and over stand-ins without one."""

import ctypes
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driver_in_c import run_over_it
from fake_cuda import FakeCuda
from fake_drivers import install
from refusals import refuses

from repr_runtime import errors
from repr_runtime.cuda import bindings, driver
from repr_runtime.cuda import opening as cuda_module
from repr_runtime.cuda.bindings import BindingsCuda
from repr_runtime.cuda.device import Cuda
from repr_runtime.cuda.driver import CudaStatus, cuda_status
from repr_runtime.cuda.opening import open_cuda


def _real(package: str) -> None:
    if not cuda_status().devices:
        pytest.skip(f"no GPU: {cuda_status().reason}")
    if importlib.util.find_spec(package.lower()) is None:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(
    params=[
        "fake",
        "cuda.bindings over the fake",
        "PyCUDA over the fake",
        pytest.param("cuda.bindings", marks=pytest.mark.gpu),
        pytest.param("PyCUDA", marks=pytest.mark.gpu),
    ]
)
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    device = FakeCuda()
    package, _, over_fake = request.param.partition(" over the ")
    if over_fake:
        install(device, monkeypatch, pycuda=package == "PyCUDA")
    elif package != "fake":
        _real(package)
    if package == "PyCUDA":
        from repr_runtime.cuda.pycuda import PyCuda

        made: Cuda = PyCuda(0)
    else:
        made = device if package == "fake" else BindingsCuda(0)
    assert (made.name.split()[0], made.device) == (package, 0)
    yield made
    if not device.closed:
        made.close()
    if "fake" in request.param:
        assert (device.closed, device.primary) == (
            (False, ["pycuda"]) if package == "PyCUDA" else (True, [])
        )
        assert device.leaks == {}
        assert FakeCuda.stack() == []


class Kit:
    """A stream, device memory of 64 bytes twice, pinned memory of as many."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.stream = cuda.create_stream()
        self.a, self.b = cuda.allocate(64), cuda.allocate(64)
        self.host = cuda.allocate_pinned(64)

    def put(self, address: int, value: int) -> None:
        self.host[:] = value
        self.cuda.to_device(address, self.host, self.stream)
        self.cuda.synchronize(self.stream)

    def get(self, address: int) -> list[int]:
        self.host[:] = 0
        self.cuda.to_host(self.host, address, self.stream)
        self.cuda.synchronize(self.stream)
        return sorted(set(self.host.tolist()))

    def close(self) -> None:
        self.cuda.free(self.a)
        self.cuda.free(self.b)
        self.cuda.free_pinned(self.host)
        self.cuda.destroy_stream(self.stream)


@pytest.fixture
def kit(cuda: Cuda) -> Iterator[Kit]:
    with cuda.current():
        kit = Kit(cuda)
        yield kit
        kit.close()


def test_what_goes_there_comes_back(kit: Kit) -> None:
    assert (kit.host.dtype, kit.host.shape) == (np.dtype(np.uint8), (64,))
    assert kit.host.flags.writeable
    assert kit.host.view(np.float32).shape == (16,)
    kit.put(kit.a, 7)
    kit.put(kit.b, 9)
    assert (kit.get(kit.a), kit.get(kit.b)) == ([7], [9])
    kit.cuda.copy(kit.b, kit.a, 64, kit.stream)
    assert kit.get(kit.b) == [7]
    kit.cuda.copy(kit.b + 32, kit.b, 32, kit.stream)
    kit.host[:32] = 5
    kit.cuda.to_device(kit.b, kit.host[:32], kit.stream)
    kit.cuda.synchronize()  # or the next lines would change what is being copied
    assert kit.get(kit.b) == [5, 7]


def test_memory_is_counted_and_too_much_is_its_own_error(kit: Kit) -> None:
    free, total = kit.cuda.memory_info()
    assert 0 < free <= total
    big = kit.cuda.allocate(64 << 20)
    assert kit.cuda.memory_info()[0] <= free - (32 << 20)
    kit.cuda.free(big)
    with pytest.raises(errors.DeviceMemoryError):
        kit.cuda.allocate(1 << 50)
    kit.put(kit.a, 1)
    assert kit.get(kit.a) == [1]


def test_events_tell_the_time_between(kit: Kit) -> None:
    cuda, events = kit.cuda, [kit.cuda.create_event() for _ in range(2)]
    cuda.record(events[0], kit.stream)
    cuda.copy(kit.b, kit.a, 64, kit.stream)
    cuda.record(events[1], kit.stream)
    cuda.synchronize(kit.stream)
    assert 0 < cuda.elapsed(*events) < 1000
    for event in events:
        cuda.destroy_event(event)


def test_a_captured_graph_does_its_work_at_each_launch(kit: Kit) -> None:
    cuda = kit.cuda

    def work() -> bool:
        cuda.copy(kit.b, kit.a, 64, kit.stream)
        return True

    kit.put(kit.a, 1)
    kit.put(kit.b, 2)
    graph = cuda.capture(kit.stream, work)
    assert kit.get(kit.b) == [2]  # recorded, not done
    for value in (1, 3):
        kit.put(kit.a, value)
        cuda.launch(graph, kit.stream)
        assert kit.get(kit.b) == [value]
    cuda.destroy_executable(graph)


def _divides(_: Kit) -> bool:
    raise ZeroDivisionError("by hand")


def _synchronizes(kit: Kit) -> bool:
    with pytest.raises(errors.CudaError):
        kit.cuda.synchronize(kit.stream)
    return True


@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [
        (lambda _: True, errors.CudaGraphError, "the captured graph is empty"),
        (lambda _: False, errors.CudaGraphError, "the work to capture failed"),
        (_divides, ZeroDivisionError, "by hand"),
        (_synchronizes, errors.CudaGraphError, "invalidated"),
    ],
)
def test_a_stream_goes_on_after_a_capture_that_failed(
    kit: Kit, work: Callable[[Kit], bool], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        kit.cuda.capture(kit.stream, lambda: work(kit))
    kit.put(kit.a, 4)
    assert kit.get(kit.a) == [4]


def test_who_waits_for_all_streams_lets_a_capture_end_first(kit: Kit) -> None:
    cuda, waiting = kit.cuda, list[Future[None]]()

    def settle() -> None:
        with cuda.current():
            cuda.settle()

    def work() -> bool:
        waiting.append(pool.submit(settle))
        with pytest.raises(TimeoutError):
            waiting[0].result(0.02)
        cuda.copy(kit.b, kit.a, 64, kit.stream)
        return True

    with ThreadPoolExecutor(1) as pool:
        cuda.destroy_executable(cuda.capture(kit.stream, work))
        waiting[0].result()


def test_contexts_nest(cuda: Cuda) -> None:
    with cuda.current():
        with cuda.current():
            inner = cuda.allocate(8)
        cuda.free(inner)


def test_closing_leaves_the_thread_as_it_was(cuda: Cuda) -> None:
    with cuda.current():
        cuda.close()  # as a session does, whose last lane has gone
    assert FakeCuda.stack() == []


LOST = """
import os
import torch
from repr_runtime.cuda.opening import open_cuda
from repr_runtime.errors import CudaError
cuda = open_cuda()
with cuda.current():
    cuda.settle()
torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")]  # an assertion on the device
for _ in range(2):
    try:
        with cuda.current():
            cuda.settle()
    except CudaError as error:
        print(error, flush=True)
try:
    cuda.close()
except CudaError as error:
    print("close:", error, flush=True)
os._exit(0)  # what torch makes of it is its own
"""


@pytest.mark.gpu
def test_a_lost_context_says_so_again_and_again() -> None:
    _real("torch")
    if importlib.import_module("torch").version.cuda is None:
        pytest.skip("this torch has no CUDA")
    ran = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=120)
    said = [line for line in ran.stdout.splitlines() if not line.startswith("close:")]
    assert (len(said), ran.returncode) == (2, 0), ran
    assert "710" in said[0], ran


@pytest.mark.gpu
def test_the_context_is_still_there_when_all_have_closed_it() -> None:
    _real("cuda.bindings")
    open_cuda().close()
    library, active, flags = ctypes.CDLL(driver._LIBRARY), ctypes.c_int(), ctypes.c_uint()
    library.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active))
    assert active.value == 1


def test_nvidias_package_calls_a_driver_as_it_wants_to_be_called(tmp_path: Path) -> None:
    """The tests above that are for a GPU, over a driver of a few functions in C."""
    pytest.importorskip("cuda.bindings")
    chosen = "(bindings or status or all_have_closed) and not fake"
    options = ("-q", "-p", "no:cacheprovider", __file__, "-k", chosen)
    ran = run_over_it(tmp_path, "-m", "pytest", *options)
    found = re.search(r"(\d+) passed", ran.stdout)
    assert ran.returncode == 0, ran.stdout
    assert found is not None
    assert int(found[1]) >= 10, ran.stdout


# Which binding is taken


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "cuda_status", lambda: CudaStatus(1, ""))


@pytest.mark.usefixtures("one_gpu")
def test_neither_is_said_with_the_line_that_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "repr_runtime.cuda.pycuda", raising=False)
    with refuses(errors.DeviceUnavailableError, "neither PyCUDA nor ", "pip install cuda-bindings"):
        open_cuda()


@pytest.mark.usefixtures("one_gpu")
def test_pycuda_is_taken_where_it_is_installed_and_alone_cannot_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = FakeCuda()
    install(FakeCuda(), monkeypatch, pycuda=False)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert open_cuda().name == "cuda.bindings 0.fake"
    install(device, monkeypatch, pycuda=True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    cuda = open_cuda()
    assert cuda.name == "PyCUDA 0.fake"
    with cuda.current():
        stream = cuda.create_stream()
        with refuses(errors.CudaGraphError, "PyCUDA cannot capture", "pip install cuda-bindings"):
            cuda.capture(stream, lambda: True)
        cuda.destroy_stream(stream)
    cuda.close()
    assert device.leaks == {}


@pytest.mark.usefixtures("one_gpu")
def test_the_context_outlives_those_who_opened_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    library = SimpleNamespace(cuDevicePrimaryCtxRetain=lambda _, device: kept.append(device))
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda _: library)
    driver.keep_context.cache_clear()
    install(FakeCuda(), monkeypatch, pycuda=False)
    for _ in range(2):
        open_cuda().close()
        install(FakeCuda(), monkeypatch, pycuda=False)
    driver.keep_context.cache_clear()
    assert kept == [0]


@pytest.mark.parametrize("failing", ["", "cuCtxPushCurrent_v2", "cuCtxSynchronize"])
def test_what_it_takes_to_wait_for_a_device_is_found_once(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    calls: list[str] = []

    class Library:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: calls.append(name) or 700 * (name == failing)

    monkeypatch.setattr(driver.ctypes, "CDLL", lambda _: calls.append("load") or Library())
    driver._held.cache_clear()
    for _ in range(2):
        with (
            refuses(errors.CudaError, "waiting for device 0 failed", "700")
            if failing
            else nullcontext()
        ):
            driver.wait_for_device(0)
    driver._held.cache_clear()
    push, synchronize, pop = "cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuCtxPopCurrent_v2"
    each = [push] if failing == push else [push, synchronize, pop]
    assert calls == ["load", "cuDevicePrimaryCtxRetain", *each, *each]


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, status, reason in (
        (0, CudaStatus(0, "no driver at all"), "no driver at all"),
        (2, CudaStatus(2, ""), "there are 2"),
    ):
        monkeypatch.setattr(cuda_module, "cuda_status", lambda status=status: status)
        with refuses(errors.DeviceUnavailableError, f"CUDA device {device} is not there: {reason}"):
            open_cuda(device)


def test_real_bindings_without_a_driver_say_so() -> None:
    pytest.importorskip("cuda.bindings")
    if cuda_status().devices:
        pytest.skip("there is a GPU")
    with refuses(errors.DeviceUnavailableError, "finds no CUDA driver", "install NVIDIA's driver"):
        BindingsCuda(0)


def test_the_functions_that_are_called_are_there() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    source = Path(bindings.__file__).read_text()
    called = re.findall(r'_call\(\s*"(\w+)"((?:, [^,()]+)*)\)', source)
    assert len(called) >= 25
    for name, given in called:
        signature = getattr(driver, name).__doc__.splitlines()[0]
        parameters = [p for p in re.sub(r".*\((.*)\).*", r"\1", signature).split(",") if p.strip()]
        needed = [p for p in parameters if "=" not in p]
        assert len(needed) <= given.count(",") <= len(parameters), signature
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def test_the_status_is_the_drivers_own() -> None:
    status = cuda_status()
    assert len(status.gpus) == status.devices
    assert bool(status.reason) == (status.devices == 0)
    for gpu in status.gpus:
        major, minor = map(int, gpu.compute_capability.split("."))
        assert 3 <= major < 30
        assert 0 <= minor < 10
        assert gpu.memory > 1 << 30
