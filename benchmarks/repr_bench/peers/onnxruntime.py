"""ONNX Runtime as its first example shows it: the artifact's graph, its defaults, `session.run`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed
from repr_bench.peers.trials import on_the_faster_graph
from repr_runtime.cuda.libraries import preload

_CPU = "CPUExecutionProvider"
_TF32 = {"CUDAExecutionProvider"}
"""The providers that have this option, on by default."""


class OnnxRuntimeRunner:
    """``InferenceSession(path)``, on one execution provider.

    ``threads`` are set only if they were asked for. The graph is the folded one, the same file
    that ours runs. On a GPU each batch size has a session, as ours has there, and TF32 is as in
    ours: off, but for half precisions, which lose the tensor cores with it. ``nhwc`` lets its CUDA
    provider compute with the channels last, for which tensor cores are made; its default is not to.
    """

    def __init__(self, workload: Workload, provider: str = _CPU, *, nhwc: bool = False) -> None:
        import onnxruntime as ort

        if provider == _CPU and workload.precision == "bf16":
            raise PeerAbsentError("ONNX Runtime computes no bf16 on a CPU")
        self._ort, self._provider = ort, provider
        self._options = ort.SessionOptions()
        self._options.log_severity_level = 3  # said below, if it matters
        if workload.threads is not None:
            self._options.intra_op_num_threads = workload.threads
        threads = "default threads" if workload.threads is None else f"threads {workload.threads}"
        self._settings = f"ONNX Runtime {ort.__version__}, {provider}, {threads}"
        chosen: dict[str, str] = {}
        if provider in _TF32:
            half = workload.precision in ("fp16", "bf16")
            chosen["use_tf32"] = str(int(half))
            self._settings += (
                f", TF32 {'allowed' if half else 'off'}, a session for each batch size"
            )
        if nhwc:
            chosen["prefer_nhwc"] = "1"
            self._settings += ", channels last"
        if provider != _CPU:
            preload(str(getattr(ort, "cuda_version", "")))
        self._open = partial(
            ort.InferenceSession,
            str(workload.path),
            self._options,
            providers=[(provider, chosen)] if chosen else [provider],
        )
        self._first: Any = self._open()
        got = self._first.get_providers()
        if got[0] != provider:  # falling back is silent
            raise PeerAbsentError(f"ONNX Runtime fell back from {provider} to {', '.join(got)}")
        self._unused = True
        self._names = [node.name for node in self._first.get_inputs()]

    def prepare(self, arrays: Arrays) -> Prepared:
        session = self._first if self._provider == _CPU or self._unused else self._open()
        self._unused = False
        call = self._call(session, arrays)
        on_gpu = None if self._provider == _CPU else self._bound(session, arrays)
        logits = partial(self._logits, session)
        return Prepared(logits, call, self._settings, on_gpu=on_gpu)

    def _call(self, session: Any, arrays: Arrays) -> partial[Any]:
        return partial(session.run, None, dict(zip(self._names, arrays, strict=True)))

    def _bound(self, session: Any, arrays: Arrays) -> Callable[[], None]:
        """A run by I/O binding, of inputs that lie on the GPU, with outputs that stay there.

        Each run writes to the same outputs; those of ours are the caller's own.

        It is bound by the first call, so that what fails then is the failure of that row alone.
        """
        bound: list[Any] = []

        def call() -> None:
            if not bound:
                binding = session.io_binding()
                for name, array in zip(self._names, arrays, strict=True):
                    there = self._ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
                    binding.bind_ortvalue_input(name, there)
                for node in session.get_outputs():
                    binding.bind_output(node.name, "cuda")
                bound.append(binding)
            session.run_with_iobinding(bound[0])
            bound[0].synchronize_outputs()

        return call

    def _logits(self, session: Any, arrays: Arrays) -> NDArray[Any]:
        found: NDArray[Any] = self._call(session, arrays)()[0]
        return found

    def close(self) -> None:
        del self._first, self._open


def _on_gpu(name: str, provider: str, *, nhwc: bool = False) -> Peer:
    library = not_installed("onnxruntime", "pip install onnxruntime-gpu")

    def why_not() -> str | None:
        if (reason := library()) is not None:
            return reason
        import onnxruntime as ort

        from repr_runtime.cuda.driver import cuda_status

        if provider not in ort.get_available_providers():
            return f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu in its place"
        return None if cuda_status().devices else cuda_status().reason

    runner = partial(OnnxRuntimeRunner, provider=provider, nhwc=nhwc)
    return Peer(name, runner, why_not, device="gpu")


PEERS = (
    Peer(
        "onnxruntime",
        on_the_faster_graph(OnnxRuntimeRunner),
        not_installed("onnxruntime", "pip install repr-deploy"),
    ),
    _on_gpu("onnxruntime-cuda", "CUDAExecutionProvider"),
    _on_gpu("onnxruntime-cuda-nhwc", "CUDAExecutionProvider", nhwc=True),
    _on_gpu("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
)
