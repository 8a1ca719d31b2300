"""Arrays on a GPU: taken in and given out without going through the host."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import expected
from made_backend import Made, batch
from refusals import refuses

from repr_runtime import TensorRTOptions, errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends import onnxruntime
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.cuda import arrays, driver
from repr_runtime.cuda.arrays import DeviceArray, DeviceView, is_device_array, view
from repr_runtime.loading import LoadOptions, Opened
from repr_runtime.session import Session

# DLPack, with arrays in ordinary memory: the same structures, of another device


def test_a_capsule_of_torch_is_read_unless_numpy_lacks_it_or_it_is_scattered() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float16, torch.int64, torch.uint8):
        tensor = torch.arange(12).reshape(3, 4).to(dtype)[1:]
        found = arrays.read_capsule(tensor.__dlpack__())
        assert found.address == tensor.data_ptr()
        assert (found.shape, found.dtype) == ((2, 4), tensor.numpy().dtype)
    with pytest.raises(errors.InputDtypeError, match="cast it to float16 or float32"):
        arrays.read_capsule(torch.zeros(2, dtype=torch.bfloat16).__dlpack__())
    with pytest.raises(ValueError, match=r"shape \(4, 3\) with strides \(1, 4\) is not contiguous"):
        arrays.read_capsule(torch.zeros(3, 4).T.__dlpack__())


class Owner:
    """Something whose end can be seen."""


@pytest.mark.parametrize(
    ("dtype", "taken"),
    [*((dtype, True) for dtype in ("float32", "float16", "int32", "uint8")), ("float32", False)],
)
def test_a_capsule_keeps_its_owner_as_long_as_it_or_what_took_it_lives(
    dtype: str, taken: bool
) -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(6).reshape(2, 3).astype(dtype)
    owner = Owner()
    end = weakref.ref(owner)
    holder = arrays.make_capsule(
        values.ctypes.data, values.shape, values.dtype, owner, (arrays.CPU, 0)
    )
    if taken:
        holder = torch.from_dlpack(holder)
        np.testing.assert_array_equal(holder.numpy(), values)
        assert holder.data_ptr() == values.ctypes.data
    del owner
    gc.collect()
    assert end() is not None
    del holder
    gc.collect()
    assert end() is None


# Device arrays of other libraries, in the memory of the fake device


class Foreign:
    """As PyCUDA's and Numba's arrays: the CUDA array interface alone."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray, **changes: Any) -> None:
        with cuda.current():
            self.address = cuda.allocate(max(1, values.nbytes))
        if values.nbytes:
            flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            cuda.at(self.address, values.nbytes)[:] = flat
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 3,
            **changes,
        }


class Shared(Foreign):
    """As torch's and CuPy's: DLPack, with a stream that the producer is told of."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray, device: int = 0) -> None:
        super().__init__(cuda, values)
        self.values, self.device, self.waited = values, device, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return arrays.CUDA, self.device

    def __dlpack__(self, *, stream: int) -> Any:
        current = FakeCuda.stack()[-1].device if FakeCuda.stack() else 0
        if self.device != current:
            raise BufferError(f"on a different CUDA device index. Current device: {current}")
        self.waited.append(stream)
        return arrays.make_capsule(
            self.address, self.values.shape, self.values.dtype, self, self.__dlpack_device__()
        )


def test_a_view_says_what_must_be_waited_for() -> None:
    cuda = FakeCuda()
    values = np.zeros((2, 3), np.float32)
    torch = pytest.importorskip("torch")
    for here in (values, torch.zeros(2), [1.0], "x", None, memoryview(b"")):
        assert not is_device_array(here)
    assert is_device_array(Foreign(cuda, values))
    assert is_device_array(Shared(cuda, values))
    settled = view(Foreign(cuda, values, stream=None))
    assert (settled.shape, settled.dtype, settled.needs_synchronize) == ((2, 3), np.float32, False)
    assert view(Foreign(cuda, values, stream=7)).needs_synchronize
    assert view(Foreign(cuda, values)).needs_synchronize  # version 2 says nothing
    shared = Shared(cuda, values, device=1)
    with FakeCuda(1).current():
        found = view(shared)
        found.arrive(5)
    assert (found.device, found.needs_synchronize) == (1, False)
    assert shared.waited == [-1, 5]


@pytest.mark.parametrize(
    "changes",
    [{"strides": (4, 8)}, {"mask": object()}, {"typestr": "nonsense"}],
    ids=["scattered", "masked", "unknown"],
)
def test_what_cannot_be_shared_is_refused(changes: dict[str, Any]) -> None:
    array = Foreign(FakeCuda(), np.zeros((2, 3), np.float32), **changes)
    with pytest.raises(errors.InputTypeError, match=r"the Foreign cannot be shared .*x\.detach"):
        view(array)
    view(Foreign(FakeCuda(), np.zeros((2, 3), np.float32), strides=(12, 4)))


# Through a session


@pytest.fixture
def start(tiny: Any, tmp_path: Path) -> Iterator[Callable[..., tuple[Session, FakeCuda]]]:
    """A session over the fake engine, and its fake device."""
    started: list[Session] = []

    def start(gpu: int = 0, **options: Any) -> tuple[Session, FakeCuda]:
        made = Made(tmp_path, options=TensorRTOptions(**options), cuda=FakeCuda(gpu))
        manifest, _ = tiny.parts()
        opened = Opened(manifest, manifest.files[0], made.backend, "the fake")
        started.append(Session(tmp_path, opened, LoadOptions()))
        return started[-1], made.cuda

    yield start
    for session in started:
        session.close()


@pytest.mark.parametrize("kind", [Foreign, Shared])
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_device_in_device_out(start: Callable[..., Any], kind: type, graphs: bool) -> None:
    session, cuda = start(cuda_graphs=graphs)
    for count in (1, 3, 3, 5, 16, 3):
        x = batch(count)
        output = session.run(kind(cuda, x))["logits"]
        assert isinstance(output, DeviceArray)
        assert (output.shape, output.dtype, output.device) == ((count, 5), np.float32, 0)
        np.testing.assert_array_equal(output.copy_to_host(), expected(x))


def test_on_the_second_gpu(start: Callable[..., Any]) -> None:
    session, cuda = start(gpu=1)
    x = Shared(cuda, batch(3), device=1)
    output = session.run(x)["logits"]
    assert output.device == 1
    np.testing.assert_array_equal(output.copy_to_host(), expected(batch(3)))


def test_nothing_goes_through_the_host(start: Callable[..., Any]) -> None:
    session, cuda = start(cuda_graphs=False)
    x = Shared(cuda, batch(3))
    outputs = [session.run(input=x)["logits"] for _ in range(3)]
    assert not {"to_device", "to_host"} & set(cuda.calls)
    (stream,) = cuda.streams
    assert x.waited == [-1, stream] * 3
    assert len({output.address for output in outputs}) == 3


def test_an_array_that_may_not_be_ready_is_waited_for(start: Callable[..., Any]) -> None:
    (session, cuda), x = start(cuda_graphs=False), batch(2)
    array = Foreign(cuda, np.zeros_like(x))
    with cuda.current():
        theirs = cuda.create_stream()
    flat, there = x.view(np.uint8).reshape(-1), cuda.at(array.address, x.nbytes)
    cuda.put(theirs, lambda: np.copyto(there, flat))
    output = session.run(array)["logits"]
    np.testing.assert_array_equal(output.copy_to_host(), expected(x))


def test_an_output_is_what_others_take(start: Callable[..., Any]) -> None:
    session, cuda = start()
    output = session.run(Foreign(cuda, batch(2)))["logits"]
    interface = output.__cuda_array_interface__
    assert interface["data"] == (output.address, False)
    assert (interface["shape"], interface["typestr"], interface["stream"]) == ((2, 5), "<f4", None)
    assert output.__dlpack_device__() == (arrays.CUDA, 0)
    with pytest.raises(TypeError):  # by which whoever asks for a copy knows to make it
        output.__dlpack__(stream=1, copy=True)
    found = arrays.read_capsule(output.__dlpack__(stream=1))
    assert (found.address, found.shape, found.dtype) == (output.address, (2, 5), np.float32)
    again = session.run(Foreign(cuda, batch(2)))["logits"]
    assert again.address != output.address
    assert repr(output) == "<DeviceArray float32[2, 5] on cuda:0>"


def test_outputs_outlive_the_session(start: Callable[..., Any]) -> None:
    session, cuda = start()
    x = Foreign(cuda, batch(2))
    output = session.run(x)["logits"]
    capsule = output.__dlpack__()
    session.close()
    np.testing.assert_array_equal(output.copy_to_host(), expected(batch(2)))
    del output
    gc.collect()
    assert not cuda.closed
    del capsule
    gc.collect()
    assert cuda.closed
    assert set(cuda.blocks) == {x.address}


def test_memory_of_outputs_that_went_is_given_back(start: Callable[..., Any]) -> None:
    session, cuda = start()
    x = Foreign(cuda, batch(4))
    for _ in range(5):
        session.run(x)
        gc.collect()
    assert len(cuda.blocks) <= 2 + 1 + 2  # buffers, x, the last output and the one before


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda c: Foreign(c, batch(2).astype(np.float16)), errors.InputDtypeError, "is float16"),
        (lambda c: Foreign(c, batch(2)[:, :2]), errors.InputShapeError, "has shape (2, 2, 4, 4)"),
        (lambda c: Foreign(c, batch(2)[:0]), errors.EmptyBatchError, "nothing in it"),
        (lambda c: Shared(c, batch(2), device=1), errors.InputTypeError, "lies on cuda:1, the eng"),
        (lambda _: [1.0], errors.InputTypeError, "is list, expected a numpy array"),
        (lambda _: batch(2) * np.nan, errors.NonFiniteInputError, "holds 96 values"),
    ],
    ids=["dtype", "shape", "empty", "device", "list", "nan"],
)
def test_device_arrays_are_checked_as_others_are(
    start: Callable[..., Any], make: Callable[[FakeCuda], Any], kind: type, message: str
) -> None:
    session, cuda = start()
    with refuses(kind, message):
        session.run(make(cuda))
    with refuses(errors.InputNameError, "no input 'x'"):
        session.run(x=make(cuda))


# ONNX Runtime: I/O binding, on the CPU, whose memory is bound the same way


def test_onnx_runtime_binds_what_it_is_given_and_keeps_its_outputs(tiny: Any) -> None:
    backend = OnnxRuntimeBackend(tiny.graph(), "cpu", 1)
    x = tiny.inputs(3)
    there = DeviceView(x.ctypes.data, x.shape, x.dtype, 0, x, False)
    for given in (there, x, np.asfortranarray(x)):
        (output,) = backend._run_bound({"input": given})
        assert (output.shape, output.dtype) == ((3, 5), np.float32)
        np.testing.assert_allclose(output.copy_to_host(), tiny.logits(x), rtol=1e-4, atol=1e-4)
    with refuses(errors.InputTypeError, "'input' lies on a GPU, the session runs on cpu"):
        backend.run_on_device({"input": Foreign(FakeCuda(), x)}, lambda _: None)


def test_onnx_runtime_uses_an_outputs_memory_again_once_the_device_was_waited_for(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, x, there = OnnxRuntimeBackend(tiny.graph(), "cpu", 1), tiny.inputs(3), list[bool]()
    (output,) = backend._run_bound({"input": x})
    del output
    gc.collect()
    assert len(backend._returned) == 1
    owner = Owner()
    end = weakref.ref(owner)
    backend._returned[0] = owner
    del owner
    monkeypatch.setattr(onnxruntime, "wait_for_device", lambda _: there.append(end() is not None))
    backend.run_on_device({"input": x}, lambda _: None)
    assert (there, end()) == ([True], None)


@pytest.mark.parametrize(
    ("words", "lost", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", True, "DeviceLostError"),
        ("Failed to allocate memory for requested buffer of size 9", True, "DeviceMemoryError"),
        ("the node fails", False, "ExecutionError"),
    ],
)
def test_what_onnx_runtime_says_on_a_gpu(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, words: str, lost: bool, kind: str
) -> None:
    def wait(_: int) -> None:
        if lost:
            raise errors.CudaError("waiting failed (codes [700])")

    def fail(*_: object) -> Any:
        raise RuntimeError(words)

    monkeypatch.setattr(driver, "wait_for_device", wait)
    backend = OnnxRuntimeBackend(tiny.graph(), "cpu", 1)
    backend._place, backend._run = ("cuda", 0), fail
    with refuses(getattr(errors, kind), "start it again" if kind == "DeviceLostError" else words):
        backend.run({"input": tiny.inputs(1)})


def test_onnx_runtime_binds_runs_and_waits_once_a_run(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Counted:
        """The library's object, whose calls are written down."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            value = getattr(self.real, name)
            if name.startswith("_"):
                return value
            calls.append(name)
            return (lambda: Counted(value())) if name == "io_binding" else value

    backend, x = OnnxRuntimeBackend(tiny.graph(), "cpu", 1), tiny.inputs(3)
    backend.session = Counted(backend.session)
    monkeypatch.setattr(onnxruntime, "wait_for_device", lambda _: calls.append("wait"))
    each = ["wait", "io_binding", "bind_cpu_input", "bind_output", "run_with_iobinding"]
    for _ in range(2):
        backend.run_on_device({"input": x}, lambda _: None)
        assert calls == [*each, "synchronize_outputs", "get_outputs"]
        calls.clear()


def test_numpy_beside_device_arrays_is_still_looked_at(tiny: Any, tmp_path: Path) -> None:
    class Two:
        """A backend of two inputs that hands over what it was given."""

        name, device = "two", "cuda:0"
        inputs = tuple(TensorSpec(name, "float32", ("n", 2)) for name in "ab")
        outputs = inputs[:1]

        def run_on_device(self, feed: Any, check: Any) -> list[Any]:
            check({k: view(v) if is_device_array(v) else v for k, v in feed.items()})
            return [feed["a"]]

    manifest, _ = tiny.parts(inputs=Two.inputs, outputs=Two.outputs, preprocessing=None)
    session = Session(tmp_path, Opened(manifest, manifest.files[0], Two(), ""), LoadOptions())
    there = Foreign(FakeCuda(), np.zeros((3, 2), np.float32))
    assert session.run(there, np.ones((3, 2), np.float32))["a"] is there
    with pytest.raises(errors.NonFiniteInputError, match="'b' holds 6 values"):
        session.run(there, np.full((3, 2), np.inf, np.float32))
    with pytest.raises(errors.InputShapeError, match="n is 3 already"):
        session.run(there, np.ones((4, 2), np.float32))
