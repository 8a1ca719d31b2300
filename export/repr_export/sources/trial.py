"""A stranger's graph is first run in a process of its own: ONNX Runtime can crash on it.

Run as a program: GRAPH INPUTS.npz. Exit status 0 if it ran or failed with a message (which the
caller will get again, in a better place); a crash ends it by a signal.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIMIT = 600.0  # seconds


def crash_of(graph: bytes, inputs: dict[str, NDArray[np.generic]]) -> str:
    """How ONNX Runtime crashes on ``graph``, unoptimised or optimised, or "" if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        path, arrays = Path(folder) / "graph.onnx", Path(folder) / "inputs.npz"
        path.write_bytes(graph)
        np.savez(arrays, allow_pickle=False, **{f"input.{k}": v for k, v in inputs.items()})
        # -P: of the files beside this one, some are called as libraries are.
        command = [sys.executable, "-P", __file__, str(path), str(arrays)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return f"does not end within {_LIMIT:.0f} s on one sample"
    if done.returncode >= 0:
        return ""
    return f"crashes (signal {-done.returncode})"


def _main(graph: str, arrays: str) -> None:
    import onnxruntime as ort

    with np.load(arrays, allow_pickle=False) as content:
        inputs = {key.removeprefix("input."): content[key + ".npy"] for key in content.files}
    for level in (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        try:
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            session.run(None, inputs)
        except Exception:
            pass


if __name__ == "__main__":
    _main(*sys.argv[1:])
