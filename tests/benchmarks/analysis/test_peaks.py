"""The machine's peaks: what is counted, on a fake clock, and what cannot be measured."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from repr_bench.analysis import peaks as module
from repr_bench.analysis.peaks import cache_bytes, copy_peak, measure_peaks, numpy_products, repeat
from repr_bench.results.roofline import Peak


def ticks(step: int) -> Callable[[], int]:
    """A clock that goes on by ``step`` nanoseconds whenever it is read."""
    return partial(next, count(0, step))


def test_repeats_until_time_and_runs_are_reached() -> None:
    calls: list[int] = []
    # 0.1 s a run: five runs; the first call is not counted
    assert repeat(lambda: calls.append(1), ticks(10**8)) == (10**8,) * 5
    assert len(calls) == 6
    # 10 ms a run: thirty runs until 0.3 s
    assert len(repeat(lambda: None, ticks(10**7))) == 30


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_product_of_onnx_runtime_is_one(kind: Any) -> None:
    product: Any = module._onnxruntime_product(8, 1, kind)
    (found,) = product()
    a = product.args[1]["a"]
    generator = np.random.default_rng(0)
    if kind == "float32":
        expected = a @ [generator.standard_normal((8, 8), np.float32) for _ in range(2)][1]
    else:
        generator.integers(0, 128, (8, 8), np.uint8)
        b = generator.integers(-64, 64, (8, 8), np.int8)
        expected = a.astype(np.int32) @ b.astype(np.int32)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_numpys_products_count_two_operations_a_multiply_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SIZES", (4, 8))
    found = list(numpy_products(ticks(10**8)))
    assert [(peak.size, peak.amount) for peak in found] == [(4, 128), (8, 1024)]
    assert found[0].rate == 128 / 10**8


def test_a_copy_counts_bytes_read_and_written() -> None:
    peak = copy_peak("memory", 4096, 2, ticks(10**8))
    assert (peak.size, peak.amount) == (4096, 2 * 4096)
    # a clock that ticks a millisecond: five copies a sample
    assert copy_peak("cache", 4096, 1, ticks(10**6)).amount == 5 * 2 * 4096


def test_caches_as_linux_tells_them(tmp_path: Path) -> None:
    caches = ("Data 1 48K", "Instruction 1 32K", "Unified 2 2M", "Unified 3 x")
    for index, cache in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in zip(("type", "level", "size"), cache.split(), strict=True):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "index9").mkdir()
    assert cache_bytes(tmp_path) == {1: 48 * 2**10, 2: 2 * 2**20}
    assert cache_bytes(tmp_path / "nothing") == {2: 2**20, 3: 32 * 2**20}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Small matrices and arrays, and a process for numpy that only remembers its environment."""
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options["env"], command=command[1:])
        one = Peak("float32", module.NUMPY, 4, 128, (3, 2))
        return SimpleNamespace(stdout=json.dumps([asdict(one)]))

    monkeypatch.setattr(module, "SIZES", (4,))
    monkeypatch.setattr(module, "cache_bytes", lambda: {2: 4096, 3: 8192})
    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_all_peaks_with_the_threads_of_the_sessions(small: dict[str, Any]) -> None:
    # an eighth of 64 KiB is less than what would be wanted, and that is said
    peaks, notes = measure_peaks(1, memory_bytes=2**16, int8=True, clock=ticks(10**8))
    assert [peak.kind for peak in peaks] == ["float32", "float32", "int8", "memory", "cache"]
    assert peaks[1].samples_ns == (3, 2)
    assert small["command"] == ["-P", "-m", "repr_bench.analysis.peaks"]
    assert small["OPENBLAS_NUM_THREADS"] == small["OMP_NUM_THREADS"] == "1"
    assert [peak.size for peak in peaks[3:]] == [2**13, 1024]
    (note,) = notes
    assert "partly the cache's" in note


@pytest.mark.usefixtures("small")
def test_what_cannot_be_measured_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Mock(side_effect=RuntimeError("no kernel for that\nand more"))
    monkeypatch.setattr(module, "_onnxruntime_product", broken)
    peaks, notes = measure_peaks(1, memory_bytes=2**16, int8=False, clock=ticks(10**8))
    assert [peak.how for peak in peaks] == [module.NUMPY, module.COPY, module.COPY]
    assert "ONNX Runtime MatMul could not be measured: no kernel for that" in notes


def test_the_process_of_numpy_prints_its_peaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SIZES", (2,))
    monkeypatch.setattr(module, "SECONDS", 0)
    module.main()
    (peak,) = (Peak(**each) for each in json.loads(capsys.readouterr().out))
    assert (peak.kind, peak.size, peak.amount, len(peak.samples_ns)) == ("float32", 2, 16, 5)


def test_the_process_of_numpy_imports_nothing_from_the_working_folder(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_peaks(1, memory_bytes=2**16, int8=False, clock=ticks(10**8))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name in ("json", "numpy", "subprocess"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(66)")
    *python, _ = small["command"]
    program = tmp_path / "away" / "repr_away.py"
    program.parent.mkdir()
    program.write_text("import json, numpy, subprocess, repr_bench.analysis.peaks")
    for flags, status in ((python, 0), (["-m"], 66)):
        done = subprocess.run(
            [sys.executable, *flags, "repr_away"],
            env={**os.environ, "PYTHONPATH": str(program.parent)},
            check=False,
        )
        assert done.returncode == status
