"""Measures the roofs of a GPU: matrix products in each arithmetic, copies in its memory and to it.

Through torch, by the GPU's own clock: events around so many calls that launching them is hidden.
The matrices are drawn at random, since products of zeros take less power and run faster.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from repr_bench.analysis.peaks import LEAST_RUNS, SECONDS
from repr_bench.measuring.measure import Call
from repr_bench.measuring.tf32 import allow_tf32
from repr_bench.results.roofline import PRODUCTS, Kind, Peak

SIZES = (4096, 8192)
"""Sides of the matrices: the largest takes 1.1·10¹² operations."""
COPIED = 2**30
"""Bytes of the array that is copied: many times what a GPU's cache holds."""
ACROSS = 2**28
"""Bytes of the array that is copied to the GPU and back, from pinned memory."""
SAMPLE_NS = 5e6
"""A sample lasts about so long at least."""

Timer = Callable[[Call, int], int]
"""Nanoseconds that so many calls in a row take."""


def measure_gpu_peaks(
    device: str = "cuda", timer: Timer | None = None
) -> tuple[tuple[Peak, ...], tuple[str, ...]]:
    """Every peak of the GPU, and sentences on what could not be measured.

    ``device`` and ``timer`` are others in tests: what is done is the same on a CPU.
    """
    try:
        import torch
    except ImportError as error:
        return (), (f"the GPU's peaks are measured through torch, which is not here: {error}",)
    if device == "cuda" and not torch.cuda.is_available():
        return (), (
            f"the GPU's peaks are not measured: torch {torch.__version__} has no CUDA here",
        )
    timer = timer or by_events
    found: list[Peak] = []
    notes: list[str] = []
    for kind in (*PRODUCTS, *_COPIES):
        try:
            measured = (
                _copy(kind, device, timer) if kind in _COPIES else _products(kind, device, timer)
            )
            found.extend(measured)
        except Exception as error:  # the other peaks are still worth knowing
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            notes.append(f"the GPU's peak of {kind} could not be measured: {first}")
    if device == "cuda":
        torch.cuda.empty_cache()
    return tuple(found), tuple(notes)


def by_events(call: Call, times: int) -> int:
    """By CUDA events on the current stream."""
    import torch

    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return round(milliseconds * 1e6)


def repeat(call: Call, timer: Timer) -> tuple[int, tuple[int, ...]]:
    """How many calls a sample is, and the nanoseconds of each sample, as long as a peak needs."""
    timer(call, 1)  # libraries are loaded, kernels chosen
    times = max(1, round(SAMPLE_NS / max(1, timer(call, 1))))
    samples: list[int] = []
    begin = time.monotonic()
    while len(samples) < LEAST_RUNS or time.monotonic() - begin < SECONDS:
        samples.append(max(1, timer(call, times)))
    return times, tuple(samples)


def _products(kind: Kind, device: str, timer: Timer) -> Iterator[Peak]:
    import torch

    how = f"torch {torch.__version__} {'_int_mm' if kind == 'int8' else 'matmul'}"
    try:
        allow_tf32(allowed=kind == "tf32")
        for size in SIZES:
            times, samples = repeat(_product(kind, size, device), timer)
            yield Peak(kind, how, size, times * 2 * size**3, samples)
    finally:
        allow_tf32(allowed=False)


def _product(kind: Kind, size: int, device: str) -> Call:
    """One product of square matrices."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    make: dict[str, Any] = {"device": device, "generator": generator}
    if kind == "int8":
        a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8, **make) for _ in range(2))
        return partial(torch._int_mm, a, b.t())  # its second is by columns
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    a, b = (torch.randn(size, size, dtype=dtype, **make) for _ in range(2))
    return partial(torch.matmul, a, b, out=torch.empty_like(a))


_COPIES: tuple[Kind, ...] = ("memory", "to-gpu", "to-host")


def _copy(kind: Kind, device: str, timer: Timer) -> Iterator[Peak]:
    import torch

    there = torch.ones(COPIED if kind == "memory" else ACROSS, dtype=torch.uint8, device=device)
    if kind == "memory":
        source, target, moved = there, torch.empty_like(there), 2  # read and written
    else:
        here = torch.ones(ACROSS, dtype=torch.uint8, pin_memory=device == "cuda")
        source, target = (here, there) if kind == "to-gpu" else (there, here)
        moved = 1
    times, samples = repeat(partial(target.copy_, source, non_blocking=True), timer)
    yield Peak(
        kind, f"torch {torch.__version__} copy_", len(there), times * moved * len(there), samples
    )
