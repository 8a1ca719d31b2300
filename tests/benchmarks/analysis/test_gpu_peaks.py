"""A GPU's peaks: what is counted, on a CPU with a made-up timer; and on a GPU, if there is one."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from repr_bench.analysis import gpu_peaks
from repr_bench.analysis.gpu_peaks import measure_gpu_peaks, repeat
from repr_bench.results.roofline import PRODUCTS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peaks, "SIZES", (32,))
    monkeypatch.setattr(gpu_peaks, "COPIED", 4096)
    monkeypatch.setattr(gpu_peaks, "ACROSS", 1024)
    monkeypatch.setattr(gpu_peaks, "SECONDS", 0)


def a_millisecond(call: Callable[[], object], times: int) -> int:
    call()
    return times * 10**6


@pytest.mark.usefixtures("small")
def test_operations_and_bytes_of_all_calls_of_a_sample_are_counted() -> None:
    peaks, notes = measure_gpu_peaks("cpu", a_millisecond)
    assert notes == ()
    found = {peak.kind: (peak.size, peak.amount) for peak in peaks}
    # five calls of a millisecond are a sample
    assert found == {
        **dict.fromkeys(PRODUCTS, (32, 5 * 2 * 32**3)),
        "memory": (4096, 5 * 2 * 4096),
        "to-gpu": (1024, 5 * 1024),
        "to-host": (1024, 5 * 1024),
    }
    assert {len(peak.samples_ns) for peak in peaks} == {5}
    assert peaks[0].rate == 5 * 2 * 32**3 / 5e6
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("small")
def test_tf32_is_allowed_for_its_own_peak_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: dict[str, bool] = {}
    product = gpu_peaks._product

    def seen(kind: Any, *where: Any) -> Any:
        allowed[kind] = torch.backends.cuda.matmul.allow_tf32
        return product(kind, *where)

    monkeypatch.setattr(gpu_peaks, "_product", seen)
    measure_gpu_peaks("cpu", a_millisecond)
    assert {kind for kind, on in allowed.items() if on} == {"tf32"}


@pytest.mark.usefixtures("small")
def test_what_cannot_be_measured_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", Mock(side_effect=RuntimeError("no kernel\nand more")))
    peaks, notes = measure_gpu_peaks("cpu", a_millisecond)
    assert notes == ("the GPU's peak of int8 could not be measured: no kernel",)
    assert "memory" in {peak.kind for peak in peaks}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found, (note,) = measure_gpu_peaks()
    assert (found, "has no CUDA here" in note) == ((), True)


def test_a_long_call_is_a_sample_alone() -> None:
    assert repeat(lambda: None, lambda _, times: times * 10**8)[0] == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("small")
def test_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    peaks, notes = measure_gpu_peaks()
    assert notes == ()
    assert len(peaks) == len(PRODUCTS) + 3
    assert all(peak.rate > 0 for peak in peaks)
