"""ONNX Runtime as its first example shows it: the artifact's graph, its defaults, `session.run`."""

from functools import partial
from typing import Any

from numpy.typing import NDArray

from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed


class OnnxRuntimeRunner:
    """``InferenceSession(path)``, on one execution provider.

    ``threads`` are set only if they were asked for. The graph is the folded one, the same file
    that ours runs.
    """

    def __init__(self, workload: Workload, provider: str = "CPUExecutionProvider") -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # said below, if it matters
        if workload.threads is not None:
            options.intra_op_num_threads = workload.threads
        self._session = ort.InferenceSession(str(workload.path), options, providers=[provider])
        got = self._session.get_providers()
        if got[0] != provider:  # falling back is silent
            raise PeerAbsentError(f"ONNX Runtime fell back from {provider} to {', '.join(got)}")
        threads = "default threads" if workload.threads is None else f"threads {workload.threads}"
        self._settings = f"ONNX Runtime {ort.__version__}, {provider}, {threads}"
        self._names = [node.name for node in self._session.get_inputs()]

    def prepare(self, arrays: Arrays) -> Prepared:
        return Prepared(self._logits, self._call(arrays), self._settings)

    def _call(self, arrays: Arrays) -> partial[Any]:
        return partial(self._session.run, None, dict(zip(self._names, arrays, strict=True)))

    def _logits(self, arrays: Arrays) -> NDArray[Any]:
        found: NDArray[Any] = self._call(arrays)()[0]
        return found

    def close(self) -> None:
        del self._session


def _on_gpu(name: str, provider: str) -> Peer:
    library = not_installed("onnxruntime", "pip install onnxruntime-gpu")

    def why_not() -> str | None:
        if (reason := library()) is not None:
            return reason
        import onnxruntime as ort

        from repr_runtime.cuda.driver import cuda_status

        if provider not in ort.get_available_providers():
            return f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu in its place"
        return None if cuda_status().devices else cuda_status().reason

    return Peer(name, partial(OnnxRuntimeRunner, provider=provider), why_not, device="gpu")


PEERS = (
    Peer("onnxruntime", OnnxRuntimeRunner, not_installed("onnxruntime", "pip install repr-deploy")),
    _on_gpu("onnxruntime-cuda", "CUDAExecutionProvider"),
    _on_gpu("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
)
