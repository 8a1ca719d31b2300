"""OpenVINO underneath: the same answers, from any thread; what is computed in which precision, and kept."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from onnx import helper
from onnx_bytes import model_of
from refusals import refuses

from repr_runtime import Limits, Session, load
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.compiled_cache import prune
from repr_runtime.backends.openvino import compiling as module
from repr_runtime.backends.tuning import Setting, store, this_machine, tuning_subject
from repr_runtime.errors import (
    DeviceUnavailableError,
    ModelLoadError,
    OptionError,
    RunLimitError,
    SessionClosedError,
    UnrunnableInputError,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def opened(artifact: Path) -> Callable[..., Session]:
    return lambda **options: load(artifact, device="openvino", **options)


def test_it_gives_what_the_network_gives(opened: Callable[..., Session], tiny: Any) -> None:
    with opened() as session:
        assert session.choice == (
            f"OpenVINO {module.version()} on cpu, 1 of 1 layers in fp32, as asked for"
        )
        assert (session.device, session.backend.name, session.instances) == ("cpu", "openvino", 1)
        assert session.inputs == (TensorSpec("input", "float32", ("batch", 3, 4, 4)),)
        assert session.outputs == (TensorSpec("logits", "float32", ("batch", 5)),)
        session.self_test()
        first = session.run(x := tiny.inputs(7))["logits"]
        np.testing.assert_allclose(first, tiny.logits(x), rtol=1e-4, atol=1e-4)
        assert first.flags.owndata
        assert first.flags.writeable
        kept = first.copy()
        session.run(tiny.inputs(7, seed=1))
        np.testing.assert_array_equal(first, kept)  # it is the caller's own


def test_inputs_of_any_layout_are_read_and_not_written(
    opened: Callable[..., Session], tiny: Any
) -> None:
    x = tiny.inputs(4)
    fixed = x.copy()
    fixed.flags.writeable = False
    with opened() as session:
        want = session.run(x)["logits"]
        for same in (fixed, np.asfortranarray(x), np.repeat(x, 2, 3)[..., ::2]):
            np.testing.assert_array_equal(session.run(same)["logits"], want)
    np.testing.assert_array_equal(x, fixed)


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"instances": 2, "batch": 1}])
def test_64_threads_get_bit_for_bit_what_one_gets(
    opened: Callable[..., Session], tiny: Any, options: dict[str, Any]
) -> None:
    inputs = [tiny.inputs(1 + seed % 5, seed) for seed in range(64)]
    with opened(threads=1, **options) as session:
        want = [session.run(x)["logits"] for x in inputs]
        with ThreadPoolExecutor(64) as pool:
            for _ in range(3):
                for got, one in zip(pool.map(session.run, inputs), want, strict=True):
                    np.testing.assert_array_equal(got["logits"], one)


def test_a_batch_size_of_its_own_leaves_all_others_open(
    opened: Callable[..., Session], tiny: Any, cache: Path
) -> None:
    with opened(batch=4) as session:
        assert session.batch_size is None
        assert len(list(cache.iterdir())) == 1
        session.run(tiny.inputs(4))
        assert len(list(cache.iterdir())) == 1
        session.self_test()  # of 3 samples: compiled when it is wanted
        assert len(list(cache.iterdir())) == 2


def test_a_graph_of_a_fixed_batch_says_so(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "fixed", batch=3)
    with load(path, device="openvino", batch=2) as session:
        assert session.batch_size == 3
        session.self_test()


def test_what_was_compiled_is_kept_for_the_next_time_and_damage_is_compiled_anew(
    opened: Callable[..., Session], tiny: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = list[object]()
    core = module.core()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            compiled.extend([name] if name == "compile_model" else [])
            return getattr(core, name)

    monkeypatch.setattr(module, "core", Counting)
    want = tiny.logits(x := tiny.inputs(2))
    for damage, times in ((None, 1), (None, 1), (b"", 2), ("flip", 3), ("other", 4), (None, 4)):
        if damage is not None:
            (path,) = cache.iterdir()
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes({"flip": content, "other": content[:31]}.get(damage, b""))  # type: ignore[call-overload]
        with opened() as session:
            np.testing.assert_allclose(session.run(x)["logits"], want, rtol=1e-4, atol=1e-4)
        assert len(compiled) == times, damage
    with opened(threads=1):  # other options, other code
        assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_none(
    opened: Callable[..., Session], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "file"))
    with opened() as session:
        session.run(tiny.inputs(1))


def test_the_cache_has_a_bound(tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (100 - age, 100 - age))
    prune(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_precision_is_the_engines_own_word(tiny: Any, tmp_path: Path) -> None:
    more = {
        f"model.{name}.onnx": (tiny.graph(), "graph", name) for name in ("int8", "bf16", "fp16")
    }
    path = tiny.write(tmp_path / "a", more=more)
    for precision in ("int8", "bf16"):
        if module.why_not(precision) is None:
            words = f"computes the {precision} graph in other precisions (layers: 1 in f32; all else in f32)"
            with refuses(ModelLoadError, words):
                load(path, device="openvino", precision=precision)
    with refuses(
        DeviceUnavailableError, "OpenVINO would only emulate fp16 on a CPU; mend that, or"
    ):
        load(path, device="openvino", precision="fp16")


def test_a_cpu_that_would_only_emulate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(module, "core", Old)
    monkeypatch.setattr(module, "cpu_has_vnni", lambda: False)
    monkeypatch.setattr(module, "cpu_name", lambda: "An old CPU")
    assert module.why_not("fp32") is None
    assert module.why_not("bf16") == (
        "An old CPU has neither AVX512-BF16 nor AMX, and bf16 would only be emulated"
    )
    assert module.why_not("int8") == (
        "An old CPU has no VNNI, without which sums of 8-bit products overflow"
    )


def test_without_the_library_the_way_out_is_its_extra(
    opened: Callable[..., Session], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with refuses(
        DeviceUnavailableError, "openvino is not installed: pip install 'repr-deploy[openvino]'"
    ):
        opened()
    with load(artifact) as session:
        assert session.backend.name == "onnxruntime"


def test_outputs_come_in_their_order_and_an_input_that_nobody_reads_may_be_given(
    tiny: Any, tmp_path: Path
) -> None:
    path = tiny.write_model(
        tmp_path / "a",
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Identity", ["a"], ["b"]),
            helper.make_node("Neg", ["a"], ["c"]),
        ],
        {"unread": ("N", 2), "x": ("N", 2)},
        {"c": ("N", 2), "a": ("N", 2), "b": ("N", 2)},
    )
    x = np.array([[1, -2]], np.float32)
    with load(path, device="openvino") as session:
        got = session.run(unread=x, x=x)
        assert {name: values.tolist() for name, values in got.items()} == {
            "c": [[-1, 0]],
            "a": [[1, 0]],
            "b": [[1, 0]],
        }
        assert "0 of 0 layers in fp32" in session.choice


def test_what_only_the_run_finds_is_an_error_of_the_input(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write_model(
        tmp_path / "a",
        [helper.make_node("Add", ["left", "right"], ["sum"])],
        {"left": ("N", "M"), "right": ("N", "K")},
        {"sum": ("N", "L")},
    )
    with load(path, device="openvino") as session:
        with refuses(UnrunnableInputError, "OpenVINO failed to run the graph: ") as caught:
            session.run(np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))
        assert "Exception from" not in str(caught.value)
        assert session.run(*[np.ones((1, 2), np.float32)] * 2)["sum"].tolist() == [[2, 2]]


def test_a_graph_that_it_has_no_operator_for(tiny: Any, tmp_path: Path) -> None:
    graph = model_of(
        [helper.make_node("Nothing", ["input"], ["logits"], domain="elsewhere")],
        {"input": ("batch", 3, 4, 4)},
        {"logits": ("batch", 5)},
        {},
    )
    with refuses(ModelLoadError, "refuses the graph: "):
        load(tiny.write(tmp_path / "a", graph=graph), device="openvino")


def test_limits(tiny: Any, tmp_path: Path, artifact: Path) -> None:
    with refuses(DeviceUnavailableError, "OpenVINO cannot give up loading (Limits.load_seconds)"):
        load(artifact, device="openvino", limits=Limits(load_seconds=1))
    size = 2000
    nodes = [helper.make_node("MatMul", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(8)]
    path = tiny.write_model(tmp_path / "slow", nodes, {"v0": (size, size)}, {"v8": (size, size)})
    x = np.zeros((size, size), np.float32)
    with (
        load(path, device="openvino", limits=Limits(run_seconds=0.02)) as session,
        refuses(RunLimitError, "given up after 0.02 s, the limit (Limits.run_seconds)"),
    ):
        session.run(x)
    with load(artifact, device="openvino", limits=Limits(run_seconds=30)) as session:
        session.self_test()


def test_closing_while_others_run(opened: Callable[..., Session], tiny: Any) -> None:
    session, x = opened(threads=1, instances=2), tiny.inputs(50)
    want = session.run(x)["logits"]
    started = threading.Barrier(9)

    def runs() -> int:
        started.wait(10)
        for count in range(10**6):
            try:
                got = session.run(x)["logits"]
            except SessionClosedError:
                return count
            np.testing.assert_array_equal(got, want)
        return -1

    with ThreadPoolExecutor(8) as pool:
        every = [pool.submit(runs) for _ in range(8)]
        started.wait(10)
        session.close()
        assert all(each.result(30) >= 0 for each in every)
    with pytest.raises(SessionClosedError):
        session.run(x)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_says_that_it_cannot_run_and_ends(artifact: Path) -> None:
    code = (
        "import os, sys, numpy, repr_runtime\n"
        "session = repr_runtime.load(sys.argv[1], device='openvino')\n"
        "x = numpy.zeros((1, 3, 4, 4), numpy.float32)\n"
        "want = session.run(x)['logits']\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        session.run(x)\n"
        "    except repr_runtime.errors.SessionClosedError as error:\n"
        "        print(error, flush=True)\n"
        "    sys.exit(3)\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "assert (session.run(x)['logits'] == want).all()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(artifact)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "loaded before this process was forked; load it after the fork" in done.stdout


def test_auto_takes_what_was_the_fastest_here(artifact: Path) -> None:
    with load(artifact) as session:
        if session.device != "cpu":
            pytest.skip("auto takes the GPU here")
        assert session.choice.startswith("ONNX Runtime")
        subject = tuning_subject(session.manifest, "fp32")
    fastest = Setting(library="openvino", threads=1, batch=2)
    store("latency", [fastest, Setting(threads=2, batch=2)], subject, this_machine())
    with load(artifact) as session:
        assert f"tuned for latency: {fastest}" in session.choice
        assert session.choice.startswith("OpenVINO")
    with load(artifact, device="cpu", tuned="latency") as session:
        assert "on cpu, tuned for latency: 2 threads, batch 2" in session.choice
    with load(artifact, device="cpu") as session:
        assert "tuned" not in session.choice
    store(
        "throughput", [Setting(library="openvino", instances=2, threads=1)], subject, this_machine()
    )
    with load(artifact, device="cpu", tuned="throughput") as session:
        assert "the fastest was OpenVINO, 2 instances of 1 thread; use device=" in session.choice
    with load(artifact, instances=3) as session:
        assert session.backend.name == "openvino"
        assert session.instances == 3
    with refuses(OptionError, "the setting is one of openvino (OpenVINO, a thread a core), and"):
        load(artifact, device="cpu", tuned=Setting(library="openvino"))


def test_memory_stays_level(opened: Callable[..., Session], tiny: Any) -> None:
    from peak_memory import peak_memory

    runs = int(os.environ.get("REPR_LOADS", "3000"))
    x = tiny.inputs(64)
    with opened(threads=1) as session:
        for _ in range(1000):
            session.run(x)
        before = peak_memory()
        for _ in range(runs):
            session.run(x)
        assert peak_memory() - before < 4 * 2**20


def test_a_run_within_a_limit_that_a_signal_ends_reads_no_further(
    artifact: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = tiny.inputs(2)
    with load(artifact, device="openvino", limits=Limits(run_seconds=30)) as session:
        want = session.run(x)["logits"]
        request = next(iter(vars(session.backend)["_lanes"][0]._requests.values()))
        ended, cancel = list[str](), type(request).cancel
        monkeypatch.setattr(type(request), "cancel", lambda r: (ended.append("it is"), cancel(r)))
        with monkeypatch.context() as patch:
            patch.setattr(type(request), "wait_for", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                session.run(x)
        assert ended == ["it is"]
        np.testing.assert_array_equal(session.run(x)["logits"], want)
