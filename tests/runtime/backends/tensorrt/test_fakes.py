"""The fakes keep the rules of real devices: one that they did not keep would prove nothing."""

from collections.abc import Iterator
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import BrokenRuleError, FakeCuda
from fake_tensorrt import engine_bytes

from repr_runtime.errors import CudaError


@pytest.fixture
def bare() -> Iterator[tuple[FakeCuda, Any, int]]:
    """A device that is current, a context of an engine with addresses set, and a stream."""
    cuda = FakeCuda()
    with cuda.current():
        trt = fake_tensorrt.module()

        class Quiet(trt.ILogger):
            def log(self, *_: Any) -> None:
                return

        context = trt.Runtime(Quiet()).deserialize_cuda_engine(engine_bytes())
        context = context.create_execution_context()
        context.set_input_shape("input", (2, 3, 4, 4))
        for name, size in (("input", 2 * 48 * 4), ("logits", 2 * 5 * 4)):
            context.set_tensor_address(name, cuda.allocate(size))
        yield cuda, context, cuda.create_stream()


def test_a_capture_wants_a_warm_up_and_freezes_addresses_and_shapes(
    bare: tuple[FakeCuda, Any, int],
) -> None:
    cuda, context, stream = bare
    with pytest.raises(CudaError, match="the work to capture failed"):
        cuda.capture(stream, lambda: context.execute_async_v3(stream))
    assert context.execute_async_v3(stream)
    with pytest.raises(CudaError, match="STREAM_CAPTURE_UNSUPPORTED"):
        cuda.capture(stream, lambda: bool(cuda.synchronize(stream)))
    cuda.synchronize(stream)  # the capture was ended
    graph = cuda.capture(stream, lambda: context.execute_async_v3(stream))
    cuda.launch(graph, stream)
    cuda.synchronize(stream)
    context.set_input_shape("input", (1, 3, 4, 4))
    cuda.launch(graph, stream)
    with pytest.raises(BrokenRuleError, match="shapes or addresses changed"):
        cuda.synchronize(stream)
    with context.threads, pytest.raises(BrokenRuleError, match="two threads at once"):
        context.execute_async_v3(stream)


def test_the_fake_wants_pinned_memory_and_a_current_device() -> None:
    cuda = FakeCuda()
    with pytest.raises(BrokenRuleError, match="without the device's context"):
        cuda.allocate(1)
    with cuda.current():
        stream, address = cuda.create_stream(), cuda.allocate(4)
        with pytest.raises(BrokenRuleError, match="not pinned"):
            cuda.to_device(address, np.zeros(4, np.uint8), stream)
        cuda.copy(address + 2, address, 4, stream)
        with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
            cuda.synchronize(stream)
