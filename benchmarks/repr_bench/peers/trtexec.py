"""TensorRT's own timing tool, `trtexec`, where it is on the PATH: its figures, by its definitions.

It runs by itself and not in our rounds. Its latency of a query is copy there, compute and copy back,
on the GPU's clock, as it exports them; ours is a call of Session.run on the host's.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import BenchError
from repr_bench.peers.base import Arrays, Peer, Prepared, Workload

WARMUP_MS, SECONDS, ITERATIONS = 200, 3, 10
_BUILD_SECONDS = 1800


class TrtexecRunner:
    """Builds an engine for each batch size, times it, and asks it for the outputs of images."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._folder = tempfile.TemporaryDirectory(prefix="trtexec-")

    def prepare(self, arrays: Arrays) -> Prepared:
        place = Path(self._folder.name)
        names = [spec.name for spec in self._workload.manifest.inputs]
        batch = len(arrays[0])
        engine, times = place / f"{batch}.engine", place / f"{batch}.times.json"
        free = any(
            isinstance(size, str) for spec in self._workload.manifest.inputs for size in spec.shape
        )
        pairs = zip(names, arrays, strict=True)
        shapes = ",".join(f"{name}:{'x'.join(map(str, array.shape))}" for name, array in pairs)
        fixed = [f"--shapes={shapes}"] if free else []
        _run(
            f"--onnx={self._workload.path}",
            f"--saveEngine={engine}",
            *fixed,
            "--noTF32",
            f"--exportTimes={times}",
            f"--warmUp={WARMUP_MS}",
            f"--duration={SECONDS}",
            f"--iterations={ITERATIONS}",
        )
        samples, copies = read_times(times)

        def logits(given: Arrays) -> NDArray[Any]:
            return self._outputs(engine, names, fixed, given)

        among = "copies to and from the GPU"
        what = f"{among} included" if copies else f"WITHOUT {among}"
        settings = f"trtexec's latency by its own clock, {what}, no TF32; not in our rounds"
        return Prepared(logits, _no_call, settings, samples_ns=samples)

    def _outputs(
        self, engine: Path, names: Sequence[str], shapes: Sequence[str], arrays: Arrays
    ) -> NDArray[Any]:
        place, files = engine.parent, list[str]()
        for name, array in zip(names, arrays, strict=True):
            file = place / f"input{len(files)}.bin"
            file.write_bytes(np.ascontiguousarray(array).tobytes())
            files.append(f"{name}:{file}")
        out = place / "outputs.json"
        _run(
            f"--loadEngine={engine}",
            *shapes,
            f"--loadInputs={','.join(files)}",
            f"--exportOutput={out}",
            "--warmUp=0",
            "--duration=0",
            "--iterations=1",
        )
        return read_output(out, self._workload.manifest.outputs[0].name)

    def close(self) -> None:
        self._folder.cleanup()


def read_times(path: Path) -> tuple[tuple[int, ...], bool]:
    """The latencies in ns out of a file of ``--exportTimes``, and whether copies are in them.

    trtexec 11 leaves copies out by default, and then exports zeros for them. Raises
    :class:`BenchError` if the file is not such.
    """
    try:
        queries = json.loads(path.read_text("utf-8"))
        parts = [(float(q["h2dMs"]), float(q["computeMs"]), float(q["d2hMs"])) for q in queries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is no file of trtexec's times ({error})") from error
    if not parts:
        raise BenchError("trtexec exported no times")
    copies = any(there > 0 or back > 0 for there, _, back in parts)
    return tuple(round(sum(each) * 1e6) for each in parts), copies


def read_output(path: Path, name: str) -> NDArray[np.float32]:
    """The output ``name`` out of a file of ``--exportOutput``. Raises :class:`BenchError`."""
    try:
        found = {entry["name"]: entry for entry in json.loads(path.read_text("utf-8"))}[name]
        shape = tuple(int(size) for size in str(found["dimensions"]).split("x"))
        return np.array(found["values"], np.float32).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is no file of trtexec's outputs ({error})") from error


def _run(*arguments: str) -> None:
    try:
        done = subprocess.run(
            ["trtexec", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"trtexec did not run: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
        raise BenchError(f"trtexec failed: {lines[0] if lines else done.stderr.strip()[-300:]}")


def _no_call() -> object:
    raise AssertionError("trtexec times itself")


def _why_not() -> str | None:
    return None if shutil.which("trtexec") else "trtexec is not on the PATH; it comes with TensorRT"


PEERS = (Peer("trtexec", TrtexecRunner, _why_not, ("latency",), "gpu"),)
