"""Engines built by the real TensorRT-RTX builder, which needs no GPU: what it takes and refuses."""

import hashlib
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rtx_builds import build, convolution, graph, quantized, refused

from repr_export.errors import EngineBuildError, OptionError
from repr_export.tensorrt.builder_library import listen_alone, open_library
from repr_export.tensorrt.diagnostics import build_failure
from repr_export.tensorrt.options import DEFAULT_PROFILE, EngineOptions, parse_profile
from repr_runtime.artifact.manifest import ProfileInfo
from repr_runtime.backends.tensorrt.messages import logger
from repr_runtime.cuda.driver import CudaStatus, Gpu, cuda_status
from repr_runtime.errors import EngineLoadError, UnsupportedGpuError

pytest.importorskip("tensorrt_rtx")

no_gpu = pytest.mark.skipif(cuda_status().devices > 0, reason="is about a machine without a GPU")


# What an engine knows of itself


def test_engine_knows_where_it_comes_from() -> None:
    content = convolution()
    built = build(content, profiles=(ProfileInfo(1, 2, 4), ProfileInfo(8, 16, 32)))
    assert len(built.content) > 100_000
    assert built.notes == ()
    info = built.info
    assert (info.path, info.precision) == ("engines/fp32.tensorrt-rtx.engine", "fp32")
    assert (info.flavour, info.version.count(".") >= 2, "-" in info.platform) == (
        *("tensorrt-rtx", True, True),
    )
    assert info.compute_capabilities == ("8.0", "8.6", "8.9", "12.0")
    assert info.profiles == (ProfileInfo(1, 2, 4), ProfileInfo(8, 16, 32))
    assert info.graph_sha256 == hashlib.sha256(content).hexdigest()
    chosen = ("later_compute_capabilities", "tf32", "refit_before_use")
    assert [info.options[name] for name in chosen] == [True, False, False]


def test_tf32_is_off_unless_asked_for() -> None:
    fast = build(convolution(), tf32=True)
    assert fast.info.options["tf32"] is True
    assert build(convolution()).content != fast.content


def test_header_is_one_that_the_library_knows() -> None:
    library = open_library("tensorrt-rtx")
    content = build(convolution()).content
    with listen_alone(library) as (logger, _):
        runtime = library.trt.Runtime(logger)
        malformed = int(library.trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        found = [
            int(runtime.get_engine_validity(each)[1]) & malformed
            for each in (content, b"?" + content[1:], content[:40])
        ]
    assert found == [0, malformed, malformed]


# Batch sizes


def test_batch_sizes_are_the_default_or_the_one_that_is_fixed() -> None:
    only = (ProfileInfo(5, 5, 5),)
    assert build(convolution()).info.profiles == (DEFAULT_PROFILE,)
    assert build(convolution(5)).info.profiles == only
    assert build(convolution(5), profiles=only).info.profiles == only
    for asked in ("1,8,32", "4", "1,5,5"):
        with pytest.raises(OptionError, match=r"fixed at 5; leave it out, or export.*free batch"):
            build(convolution(5), profiles=(parse_profile(asked),))


def test_other_free_dimensions_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"dimension 2 of the graph's input 'x' is free.*--input"):
        build(convolution(size="h"))


def test_profiles_are_read() -> None:
    read = [parse_profile(text) for text in ("1,8,32", " 2, 4 ,4", "16")]
    assert read == [ProfileInfo(1, 8, 32), ProfileInfo(2, 4, 4), ProfileInfo(16, 16, 16)]
    for text in ("", "1,8", "1,8,32,64", "a,b,c", "-1,8,32", "1.5,2,3", "1,,3"):
        with pytest.raises(OptionError, match="--shapes must be min,opt,max"):
            parse_profile(text)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"profiles": (ProfileInfo(8, 4, 2),)}, "--shapes must have 1 <= min.*got 8,4,2"),
        ({"profiles": (ProfileInfo(0, 1, 2),)}, "--shapes must have 1 <= min.*got 0,1,2"),
        ({"profiles": (ProfileInfo(1, 1, 2**31),)}, "--shapes must have 1 <= min"),
        ({"profiles": (ProfileInfo(1, 2, 3),) * 2}, "one of them twice"),
        ({"opt_level": 6}, r"--opt-level must lie in 0\.\.5, got 6"),
        ({"opt_level": -1}, r"--opt-level must lie in 0\.\.5, got -1"),
        ({"compute_capabilities": ("86",)}, "--compute-capability must be like 8.6,8.9"),
        ({"compute_capabilities": ("8.6", "8.6")}, "takes each value once"),
        ({"compute_capabilities": ("current", "8.6")}, "'current' alone"),
        ({"edition": "x"}, "--engine must be tensorrt, tensorrt-rtx or auto, got 'x'"),
    ],
)
def test_options_are_checked_when_made(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        EngineOptions(**chosen)


# Options of the builder


def test_opt_levels_and_timing_caches_are_taken_and_make_no_difference_here(
    tmp_path: Path,
) -> None:
    lowest = build(convolution(), opt_level=0, timing_cache=tmp_path / "cache")
    highest = build(convolution(), opt_level=5)
    assert lowest.content == highest.content == build(convolution()).content
    assert "builds the same at each" in lowest.notes[0]
    assert lowest.info.options["opt_level"] is None
    assert "neither read nor written" in lowest.notes[1]
    assert list(tmp_path.iterdir()) == []


def test_engine_for_chosen_gpus() -> None:
    built = build(convolution(), compute_capabilities=("8.6", "12.0"))
    assert built.info.compute_capabilities == ("8.6", "12.0")
    assert built.info.options["later_compute_capabilities"] is False
    assert built.content != build(convolution()).content


def test_what_the_library_lacks_is_said() -> None:
    with pytest.raises(OptionError, match=r"capability 3\.5, but for .*8\.6"):
        build(convolution(), compute_capabilities=("8.6", "3.5"))
    with pytest.raises(EngineBuildError, match="leave out --version-compatible"):
        build(convolution(), version_compatible=True)
    text = "(float[batch,3] x) => (float[batch,4] y) { [product] y = MatMul(x, w) }"
    content = graph(text, w=np.ones((3, 4), np.float32))
    with pytest.raises(EngineBuildError, match=r"'product' for Turing.*build the fp16 graph"):
        build(content, compute_capabilities=("7.5",))


@no_gpu
def test_what_needs_a_gpu_says_so() -> None:
    with pytest.raises(OptionError, match="--compute-capability current needs a GPU"):
        build(convolution(), compute_capabilities=("current",))
    with pytest.raises(EngineBuildError, match="this step needs a GPU and its driver"):
        build(convolution(), strip_weights=True)


def test_for_a_gpu_that_the_library_does_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = CudaStatus(1, "", (13, 0), (Gpu("H100", "9.0", 80 << 30),))
    monkeypatch.setattr("repr_export.tensorrt.build.cuda_status", lambda: h100)
    never = "current: TensorRT-RTX does not run on H100 (compute capability 9.0), but on "
    with pytest.raises(OptionError, match=re.escape(never)) as caught:
        build(convolution(), compute_capabilities=("current",))
    assert str(caught.value).endswith(
        "for other GPUs, name the values, such as 8.6,8.9, or leave it out"
    )


def test_a_driver_that_is_too_old_for_the_librarys_code() -> None:
    """As TensorRT-RTX 1.7.1 said it with driver 580, while it took the weights out of an engine."""
    said = (
        "[cudamod.cpp:31: CUDAMod] CUDA error 222 loading a module.",
        "[myelin_graph.h:1295] MyelinCheckException: graph_jit.cpp:261: CHECK(status == "
        "myelinSuccess) failed",
    )
    assert "newer than the driver: update NVIDIA's driver" in build_failure(said)


@pytest.mark.gpu
@pytest.mark.skipif(cuda_status().devices == 0, reason="needs a GPU")
def test_stripped_engine_is_smaller_and_says_that_it_needs_its_weights() -> None:
    try:
        open_library("tensorrt-rtx").require_gpu(cuda_status().gpus[0])
    except UnsupportedGpuError as error:
        pytest.skip(str(error))
    content = convolution(channels=256)
    stripped = build(content, strip_weights=True)
    assert stripped.info.options["refit_before_use"] is True
    assert len(stripped.content) < len(build(content).content) - 500_000


# Progress and interruption


def test_progress_comes_from_the_builder() -> None:
    seen: list[tuple[str, int, int]] = []
    build(convolution(), progress=lambda *step: seen.append(step))
    assert seen[0] == ("Building engine", 0, 6)
    assert all(0 <= done <= total for _, done, total in seen)
    finished = {name for name, done, total in seen if done == total > 0}
    assert len(finished) > 3


def test_error_in_progress_ends_the_build_and_comes_out() -> None:
    seen = []

    def fail(name: str, done: int, total: int) -> None:
        seen.append((name, done, total))
        if len(seen) == 5:
            raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="the window was closed"):
        build(convolution(), progress=fail)
    assert len(seen) == 5
    assert build(convolution()).content  # and the next build is whole


def test_interrupt_ends_the_build() -> None:
    seen = []

    def interrupt(*step: Any) -> None:
        seen.append(step)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)

    usual = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            build(convolution(), progress=interrupt)
        assert len(seen) < 10
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)


def test_builds_in_threads() -> None:
    graphs = [convolution(n) for n in (1, 2, 3)]
    with ThreadPoolExecutor(3) as threads:
        built = [each.content for each in threads.map(build, graphs)]
    assert built == [build(each).content for each in graphs]


def test_a_living_runtime_and_its_messages_leave_the_notes_alone() -> None:
    library = open_library("tensorrt-rtx")
    runtime = library.trt.Runtime(logger(library.trt))

    def load(*_: Any) -> None:
        with pytest.raises(EngineLoadError, match="damaged"):
            library.deserialize(runtime, bytes(100))

    taken = build(convolution(), progress=load, opt_level=5)
    assert [note for note in taken.notes if "opt-level" not in note] == []
    failed = refused(quantized(np.int8(3)))
    assert "symmetrically" in failed.issues[0].hint
    assert build(convolution()).notes == ()
