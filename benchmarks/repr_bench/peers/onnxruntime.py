"""ONNX Runtime as its first example shows it: the artifact's graph, its defaults, `session.run`."""

from __future__ import annotations

from functools import partial
from typing import Any

from numpy.typing import NDArray

from repr_bench.peers.base import (
    Arrays,
    Peer,
    PeerAbsentError,
    Prepared,
    Runner,
    Work,
    not_installed,
    repeated,
)


class OnnxRuntimeRunner:
    """``InferenceSession(path)``, on one execution provider.

    ``threads`` are set only if they were asked for. The graph is the folded one, the same file
    that ours runs.
    """

    def __init__(self, work: Work, provider: str = "CPUExecutionProvider") -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # said below, if it matters
        if work.threads is not None:
            options.intra_op_num_threads = work.threads
        self._session = ort.InferenceSession(str(work.path), options, providers=[provider])
        got = self._session.get_providers()
        if got[0] != provider:  # falling back is silent
            raise PeerAbsentError(f"ONNX Runtime fell back from {provider} to {', '.join(got)}")
        threads = "default threads" if work.threads is None else f"threads {work.threads}"
        self._settings = f"ONNX Runtime {ort.__version__}, {provider}, {threads}"
        self._names = [node.name for node in self._session.get_inputs()]

    def prepare(self, arrays: Arrays) -> Prepared:
        call = partial(self._session.run, None, dict(zip(self._names, arrays, strict=True)))
        return Prepared(self._logits, call, repeated(call), self._settings)

    def _logits(self, arrays: Arrays) -> NDArray[Any]:
        found: NDArray[Any] = self._session.run(None, dict(zip(self._names, arrays, strict=True)))[
            0
        ]
        return found

    def close(self) -> None:
        del self._session


def _on_gpu(provider: str) -> Any:
    library = not_installed("onnxruntime", "pip install onnxruntime-gpu")

    def why_not() -> str | None:
        if (reason := library()) is not None:
            return reason
        import onnxruntime as ort

        from repr_runtime.cuda.driver import cuda_status

        if provider not in ort.get_available_providers():
            return f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu in its place"
        return None if cuda_status().devices else cuda_status().reason

    return why_not


def _cpu(work: Work) -> Runner:
    return OnnxRuntimeRunner(work)


def _cuda(work: Work) -> Runner:
    return OnnxRuntimeRunner(work, "CUDAExecutionProvider")


def _tensorrt(work: Work) -> Runner:
    return OnnxRuntimeRunner(work, "TensorrtExecutionProvider")


PEERS = (
    Peer("onnxruntime", _cpu, not_installed("onnxruntime", "pip install repr-deploy")),
    Peer("onnxruntime-cuda", _cuda, _on_gpu("CUDAExecutionProvider"), device="gpu"),
    Peer("onnxruntime-tensorrt", _tensorrt, _on_gpu("TensorrtExecutionProvider"), device="gpu"),
)
