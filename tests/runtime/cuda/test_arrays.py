"""Arrays on a GPU: taken in and given out without going through the host."""

from __future__ import annotations

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

from repr_runtime import TensorRTOptions
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.cuda import arrays
from repr_runtime.cuda.arrays import DeviceArray, DeviceView, is_device_array, view
from repr_runtime.errors import (
    EmptyBatchError,
    InputDtypeError,
    InputNameError,
    InputShapeError,
    InputTypeError,
    NonFiniteInputError,
)
from repr_runtime.loading import LoadOptions, Opened
from repr_runtime.session import Session

# DLPack, with arrays in ordinary memory: the same structures, of another device


def test_a_capsule_of_torch_is_read() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float16, torch.int64, torch.uint8):
        tensor = torch.arange(12).reshape(3, 4).to(dtype)[1:]
        found = arrays.read_capsule(tensor.__dlpack__())
        assert found.address == tensor.data_ptr()
        assert (found.shape, found.dtype) == ((2, 4), tensor.numpy().dtype)


def test_what_numpy_lacks_or_is_scattered_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputDtypeError, match="cast it to float16 or float32"):
        arrays.read_capsule(torch.zeros(2, dtype=torch.bfloat16).__dlpack__())
    with pytest.raises(ValueError, match=r"shape \(4, 3\) with strides \(1, 4\) is not contiguous"):
        arrays.read_capsule(torch.zeros(3, 4).T.__dlpack__())


class Owner:
    """Something whose end can be seen."""


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8"])
def test_a_capsule_is_taken_by_torch_and_kept_as_long_as_it_lives(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(6).reshape(2, 3).astype(dtype)
    owner = Owner()
    end = weakref.ref(owner)
    capsule = arrays.make_capsule(
        values.ctypes.data, values.shape, values.dtype, owner, (arrays.CPU, 0)
    )
    tensor = torch.from_dlpack(capsule)
    del capsule, owner
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), values)
    assert tensor.data_ptr() == values.ctypes.data
    assert end() is not None
    del tensor
    gc.collect()
    assert end() is None


def test_a_capsule_that_nobody_takes_lets_go() -> None:
    values, owner = np.zeros(3, np.float32), Owner()
    end = weakref.ref(owner)
    capsule = arrays.make_capsule(
        values.ctypes.data, values.shape, values.dtype, owner, (arrays.CPU, 0)
    )
    del owner
    gc.collect()
    assert end() is not None
    del capsule
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
        self.interface = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 3,
            **changes,
        }

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


class Shared(Foreign):
    """As torch's and CuPy's: DLPack, with a stream that the producer is told of."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray, device: int = 0) -> None:
        super().__init__(cuda, values)
        self.values, self.device, self.waited = values, device, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return arrays.CUDA, self.device

    def __dlpack__(self, *, stream: int) -> Any:
        self.waited.append(stream)
        return arrays.make_capsule(
            self.address, self.values.shape, self.values.dtype, self, self.__dlpack_device__()
        )


def test_what_lies_on_a_device() -> None:
    cuda = FakeCuda()
    assert is_device_array(Foreign(cuda, np.zeros(2)))
    assert is_device_array(Shared(cuda, np.zeros(2)))
    for other in (np.zeros(2), [1.0], "x", None, memoryview(b"")):
        assert not is_device_array(other)
    torch = pytest.importorskip("torch")
    assert not is_device_array(torch.zeros(2))


def test_a_view_says_what_must_be_waited_for() -> None:
    cuda = FakeCuda()
    values = np.zeros((2, 3), np.float32)
    settled = view(Foreign(cuda, values, stream=None))
    assert (settled.shape, settled.dtype, settled.needs_synchronize) == ((2, 3), np.float32, False)
    assert view(Foreign(cuda, values, stream=7)).needs_synchronize
    assert view(Foreign(cuda, values)).needs_synchronize  # version 2 says nothing
    shared = Shared(cuda, values, device=1)
    found = view(shared)
    assert (found.device, found.needs_synchronize, shared.waited) == (1, False, [-1])
    found.arrive(5)
    assert shared.waited == [-1, 5]


@pytest.mark.parametrize(
    "changes",
    [{"strides": (4, 8)}, {"mask": object()}, {"typestr": "nonsense"}],
    ids=["scattered", "masked", "unknown"],
)
def test_what_cannot_be_shared_is_refused(changes: dict[str, Any]) -> None:
    array = Foreign(FakeCuda(), np.zeros((2, 3), np.float32), **changes)
    with pytest.raises(InputTypeError, match=r"the Foreign cannot be shared .*x\.detach"):
        view(array)
    view(Foreign(FakeCuda(), np.zeros((2, 3), np.float32), strides=(12, 4)))


# Through a session


class Running:
    """A session over the fake engine, on a fake device."""

    def __init__(self, tiny: Any, folder: Path, **options: Any) -> None:
        made = Made(folder, options=TensorRTOptions(**options))
        self.cuda, self.backend = made.cuda, made.backend
        manifest, _ = tiny.parts()
        self.session = Session(
            folder, Opened(manifest, manifest.files[0], self.backend, "the fake"), LoadOptions()
        )


@pytest.fixture
def start(tiny: Any, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(tiny, tmp_path, **options))
        return started[-1]

    yield start
    for running in started:
        running.session.close()


@pytest.mark.parametrize("kind", [Foreign, Shared])
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_device_in_device_out(start: Callable[..., Running], kind: type, graphs: bool) -> None:
    running = start(cuda_graphs=graphs)
    for count in (1, 3, 3, 5, 16, 3):
        x = batch(count)
        output = running.session.run(kind(running.cuda, x))["logits"]
        assert isinstance(output, DeviceArray)
        assert (output.shape, output.dtype, output.device) == ((count, 5), np.float32, 0)
        np.testing.assert_array_equal(output.copy_to_host(), expected(x))


def test_nothing_goes_through_the_host(start: Callable[..., Running]) -> None:
    running = start(cuda_graphs=False)
    x = Shared(running.cuda, batch(3))
    outputs = [running.session.run(input=x)["logits"] for _ in range(3)]
    assert not {"to_device", "to_host"} & set(running.cuda.calls)
    (stream,) = running.cuda.streams
    assert x.waited == [-1, stream] * 3
    assert len({output.address for output in outputs}) == 3


def test_an_array_that_may_not_be_ready_is_waited_for(start: Callable[..., Running]) -> None:
    running, x = start(cuda_graphs=False), batch(2)
    array = Foreign(running.cuda, np.zeros_like(x))
    with running.cuda.current():
        theirs = running.cuda.create_stream()
    running.cuda.put(
        theirs,
        lambda: running.cuda.at(array.address, x.nbytes).__setitem__(
            slice(None), x.view(np.uint8).reshape(-1)
        ),
    )
    output = running.session.run(array)["logits"]
    np.testing.assert_array_equal(output.copy_to_host(), expected(x))


def test_an_output_is_what_others_take(start: Callable[..., Running]) -> None:
    running = start()
    output = running.session.run(Foreign(running.cuda, batch(2)))["logits"]
    interface = output.__cuda_array_interface__
    assert interface["data"] == (output.address, False)
    assert (interface["shape"], interface["typestr"], interface["stream"]) == ((2, 5), "<f4", None)
    assert output.__dlpack_device__() == (arrays.CUDA, 0)
    found = arrays.read_capsule(output.__dlpack__(stream=1))
    assert (found.address, found.shape, found.dtype) == (output.address, (2, 5), np.float32)
    again = running.session.run(Foreign(running.cuda, batch(2)))["logits"]
    assert again.address != output.address
    assert repr(output) == "<DeviceArray float32[2, 5] on cuda:0>"


def test_outputs_outlive_the_session(start: Callable[..., Running]) -> None:
    running = start()
    x = Foreign(running.cuda, batch(2))
    output = running.session.run(x)["logits"]
    capsule = output.__dlpack__()
    running.session.close()
    assert not running.cuda.closed
    np.testing.assert_array_equal(output.copy_to_host(), expected(batch(2)))
    del output
    gc.collect()
    assert not running.cuda.closed
    del capsule
    gc.collect()
    assert running.cuda.closed
    assert set(running.cuda.blocks) == {x.address}


def test_memory_of_outputs_that_went_is_given_back(start: Callable[..., Running]) -> None:
    running = start()
    x = Foreign(running.cuda, batch(4))
    for _ in range(5):
        running.session.run(x)
        gc.collect()
    assert len(running.cuda.blocks) <= 2 + 1 + 2  # buffers, x, the last output and the one before


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda c: Foreign(c, batch(2).astype(np.float16)), InputDtypeError, "is float16"),
        (lambda c: Foreign(c, batch(2)[:, :2]), InputShapeError, "has shape (2, 2, 4, 4)"),
        (lambda c: Foreign(c, batch(2)[:0]), EmptyBatchError, "nothing in it"),
        (lambda c: Shared(c, batch(2), device=1), InputTypeError, "lies on cuda:1, the engine is"),
        (lambda _: [1.0], InputTypeError, "is list, expected a numpy array"),
    ],
    ids=["dtype", "shape", "empty", "device", "list"],
)
def test_device_arrays_are_checked_as_others_are(
    start: Callable[..., Running], make: Callable[[FakeCuda], Any], kind: type, message: str
) -> None:
    running = start()
    with pytest.raises(InputTypeError if kind is InputTypeError else kind) as caught:
        running.session.run(make(running.cuda))
    assert type(caught.value) is kind
    assert message in str(caught.value)
    with pytest.raises(InputNameError, match="no input 'x'"):
        running.session.run(x=make(running.cuda))


# ONNX Runtime: I/O binding, on the CPU, whose memory is bound the same way


def test_onnx_runtime_binds_what_it_is_given_and_keeps_its_outputs(tiny: Any) -> None:
    backend = OnnxRuntimeBackend(tiny.graph(), "cpu", 1)
    x = tiny.inputs(3)
    there = DeviceView(x.ctypes.data, x.shape, x.dtype, 0, x, False)
    for given in (there, x, np.asfortranarray(x)):
        (output,) = backend._run_bound({"input": given})
        assert (output.shape, output.dtype) == ((3, 5), np.float32)
        np.testing.assert_allclose(output.copy_to_host(), tiny.logits(x), rtol=1e-4, atol=1e-4)


def test_a_session_on_the_cpu_reaches_no_gpu(artifact: Path) -> None:
    from repr_runtime import load

    with (
        load(artifact, device="cpu") as session,
        pytest.raises(InputTypeError, match="'input' lies on a GPU, the session runs on cpu"),
    ):
        session.run(Foreign(FakeCuda(), batch(2)))


def test_numpy_beside_device_arrays_is_still_looked_at(tiny: Any, tmp_path: Path) -> None:
    running = Running(tiny, tmp_path)
    bad = batch(2)
    bad[0] = np.nan
    with pytest.raises(NonFiniteInputError):
        running.session.run(bad)

    class Two:
        """A backend of two inputs that hands over what it was given."""

        name, device = "two", "cuda:0"
        inputs = tuple(running.backend.inputs[0].__class__(n, "float32", ("n", 2)) for n in "ab")
        outputs = inputs[:1]

        def run_on_device(self, feed: Any, check: Any) -> list[Any]:
            check({k: view(v) if is_device_array(v) else v for k, v in feed.items()})
            return [feed["a"]]

        def close(self) -> None:
            return

    manifest, _ = tiny.parts(inputs=Two.inputs, outputs=Two.outputs, preprocessing=None)
    session = Session(tmp_path, Opened(manifest, manifest.files[0], Two(), ""), LoadOptions())
    there = Foreign(running.cuda, np.zeros((3, 2), np.float32))
    assert session.run(there, np.ones((3, 2), np.float32))["a"] is there
    with pytest.raises(NonFiniteInputError, match="'b' holds 6 values"):
        session.run(there, np.full((3, 2), np.inf, np.float32))
    with pytest.raises(InputShapeError, match="n is 3 already"):
        session.run(there, np.ones((4, 2), np.float32))
    running.session.close()
