"""Measures the two roofs of this machine: matrix products, and copies through memory and caches.

Matrix products run in ONNX Runtime, as the networks do, and in numpy (its BLAS), in a process
of its own, since a BLAS reads its number of threads once, when it is loaded. Copies are
numpy's, one slice of the array a thread.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.measuring.environment import read_text
from repr_bench.measuring.measure import Call, Clock, took
from repr_bench.results.roofline import Kind, Peak

SIZES = (512, 1024, 2048)
"""Sides of the matrices: the largest takes 17·10⁹ operations and three times 17 MB."""
LEAST_RUNS = 5
SECONDS = 0.3
"""A peak is the best of at least so many runs, over at least so long."""
_COPY_NS = 5e6
"""A sample of a copy lasts about so long at least; a small array is copied many times."""
_BLAS_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_CACHES = {2: 2**20, 3: 32 * 2**20}
_LARGEST_SHARE_OF_MEMORY = 8
_BLAS_LIMIT_SECONDS = 120

ONNX_RUNTIME, NUMPY, COPY = "ONNX Runtime MatMul", "numpy matmul (BLAS)", "numpy copyto"
ONNX_RUNTIME_INT8 = "ONNX Runtime MatMulInteger, uint8 × int8"


def measure_peaks(
    threads: int, *, memory_bytes: int, int8: bool, clock: Clock = time.perf_counter_ns
) -> tuple[tuple[Peak, ...], tuple[str, ...]]:
    """Every peak with ``threads`` threads, and sentences on what could not be measured.

    The peak of int8 products is measured only if ``int8`` asks for it. ``memory_bytes`` is the
    machine's memory, of which an eighth is taken at most for each of two arrays.
    """
    peaks: list[Peak] = []
    notes: list[str] = []

    def attempt(what: str, measured: Callable[[], Sequence[Peak]]) -> None:
        try:
            peaks.extend(measured())
        except Exception as error:  # the other peaks are still worth knowing
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            notes.append(f"{what} could not be measured: {first}")

    attempt(ONNX_RUNTIME, lambda: [*_products(threads, "float32", clock)])
    attempt(NUMPY, lambda: _numpy_elsewhere(threads))
    if int8:
        attempt(ONNX_RUNTIME_INT8, lambda: [*_products(threads, "int8", clock)])
    caches = cache_bytes()
    wanted = max(2**28, 2 * caches[max(caches)])
    most = memory_bytes // _LARGEST_SHARE_OF_MEMORY
    if wanted > most:
        notes.append(
            f"the array copied through memory is {most / 1e6:,.0f} MB, an eighth of it, where twice "
            f"the last cache would be {wanted / 1e6:,.0f} MB: its bandwidth may be partly the cache's"
        )
    attempt("memory bandwidth", lambda: [copy_peak("memory", min(wanted, most), threads, clock)])
    # A quarter of the second-level cache each for source and target, in every thread's own core.
    inside = caches.get(2, _DEFAULT_CACHES[2]) // 4 * threads
    attempt("cache bandwidth", lambda: [copy_peak("cache", inside, threads, clock)])
    return tuple(peaks), tuple(notes)


def repeat(call: Call, clock: Clock) -> tuple[int, ...]:
    """Nanoseconds of each run of ``call``, after one that is not counted."""
    call()
    samples: list[int] = []
    while len(samples) < LEAST_RUNS or sum(samples) < SECONDS * 1e9:
        samples.append(took(call, clock))
    return tuple(samples)


def _products(threads: int, kind: Kind, clock: Clock) -> Iterator[Peak]:
    how = ONNX_RUNTIME if kind == "float32" else ONNX_RUNTIME_INT8
    for size in SIZES:
        samples = repeat(_onnxruntime_product(size, threads, kind), clock)
        yield Peak(kind, how, size, 2 * size**3, samples)


def _onnxruntime_product(size: int, threads: int, kind: Kind) -> Call:
    """One product of square matrices, the second a constant, as weights are."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    if kind == "float32":
        op, given, made = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        a, b = (generator.standard_normal((size, size), np.float32) for _ in range(2))
    else:
        op, given, made = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        # 7 bits: what a kernel without VNNI can add without overflow
        a = generator.integers(0, 128, (size, size), np.uint8)
        b = generator.integers(-64, 64, (size, size), np.int8)
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", given, [size, size])],
        [helper.make_tensor_value_info("c", made, [size, size])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return partial(session.run, None, {"a": a})


def numpy_products(clock: Clock = time.perf_counter_ns) -> Iterator[Peak]:
    """float32 products of numpy in this process, with the threads that its BLAS has."""
    generator = np.random.default_rng(0)
    for size in SIZES:
        a, b = (generator.standard_normal((size, size), np.float32) for _ in range(2))
        product = partial(np.matmul, a, b, out=np.empty_like(a))
        yield Peak("float32", NUMPY, size, 2 * size**3, repeat(product, clock))


def _numpy_elsewhere(threads: int) -> list[Peak]:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "repr_bench.analysis.peaks",
        ],  # -P: not from the working folder
        env={**os.environ, **dict.fromkeys(_BLAS_THREADS, str(threads))},
        capture_output=True,
        text=True,
        timeout=_BLAS_LIMIT_SECONDS,
        check=True,
    )
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return [Peak(**{**peak, "samples_ns": tuple(peak["samples_ns"])}) for peak in told]


def copy_peak(kind: Kind, size: int, threads: int, clock: Clock) -> Peak:
    """Copies of an array of ``size`` bytes, each of ``threads`` threads its slice of it."""
    elements = max(1, size // 4 // threads)
    pairs = [
        (np.ones(elements, np.float32), np.zeros(elements, np.float32)) for _ in range(threads)
    ]
    with ThreadPoolExecutor(threads) as pool:

        def copy(times: int) -> None:
            for done in [pool.submit(_copy, *pair, times) for pair in pairs]:
                done.result()

        copy(1)  # the pages of the target are made
        times = max(1, round(_COPY_NS / max(1, took(partial(copy, 1), clock))))
        samples = repeat(partial(copy, times), clock)
    return Peak(kind, COPY, 4 * elements * threads, times * 2 * 4 * elements * threads, samples)


def _copy(source: NDArray[np.float32], target: NDArray[np.float32], times: int) -> None:
    for _ in range(times):
        np.copyto(target, source)


def cache_bytes(folder: Path = _CACHES) -> dict[int, int]:
    """Bytes of the data caches by level, as Linux tells them; 1 MiB and 32 MiB elsewhere."""
    found: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        kind, level, size = (read_text(str(index / n)) or "" for n in ("type", "level", "size"))
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind in ("Data", "Unified") and level.isdecimal() and amount:
            scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[amount[2]]
            found[int(level)] = int(amount[1]) * scale
    return found or dict(_DEFAULT_CACHES)


def main() -> None:
    """Prints numpy's peaks as JSON, for the process that set the number of threads."""
    json.dump([asdict(peak) for peak in numpy_products()], sys.stdout)


if __name__ == "__main__":
    main()
