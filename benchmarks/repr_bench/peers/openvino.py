"""OpenVINO on the CPU with its performance hints, in float32, bfloat16 or int8.

Where a CPU has AVX512-BF16 or AMX, OpenVINO computes a float32 graph in bfloat16 unless told
otherwise; so the precision is set, and read back. In bf16 it gets the float32 graph and that hint,
and in int8, where all else is float32, the faster of the artifact's graphs.
"""

import importlib
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed
from repr_bench.peers.trials import on_the_faster_graph
from repr_bench.results.peers import Measure

Hint = Literal["LATENCY", "THROUGHPUT"]


class OpenVINORunner:
    """The artifact's graph, fixed to each batch size and compiled for it.

    Raises :class:`PeerAbsentError` for bf16 where the CPU would only emulate it. With the
    THROUGHPUT hint, as many requests are in flight as OpenVINO itself advises.
    """

    def __init__(self, workload: Workload, hint: Hint) -> None:
        self._library: Any = importlib.import_module("openvino")
        self._core = self._library.Core()
        self._hint, self._threads, self._path = hint, workload.threads, workload.path
        self._precision = "f32"  # of all that the graph does not say itself
        if workload.precision == "bf16":
            if "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise PeerAbsentError(
                    "OpenVINO would only emulate bf16 here: the CPU has neither AVX512-BF16 nor AMX"
                )
            graph = workload.manifest.graph("fp32")
            if graph is None:
                raise PeerAbsentError("the artifact has no fp32 graph for it to compute in bf16")
            self._precision, self._path = "bf16", workload.folder / graph.path

    def prepare(self, arrays: Arrays) -> Prepared:
        model = self._core.read_model(str(self._path))
        names = [port.get_any_name() for port in model.inputs]
        shapes = {name: array.shape for name, array in zip(names, arrays, strict=True)}
        model.reshape(shapes)  # a free batch would cost it
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": self._hint,
            "INFERENCE_PRECISION_HINT": self._precision,
        }
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._threads
        compiled = self._core.compile_model(model, "CPU", config)
        got = compiled.get_property("INFERENCE_PRECISION_HINT")  # a type of OpenVINO's, or its name
        precision = str(got.get_type_name() if hasattr(got, "get_type_name") else got)
        if precision != self._precision:
            raise PeerAbsentError(
                f"OpenVINO computes in {precision}, though {self._precision} was asked for"
            )
        version, *_ = str(self._library.__version__).split("-")
        settings = (
            f"OpenVINO {version}, hint {self._hint}, inference precision {precision}, "
            f"{compiled.get_property('INFERENCE_NUM_THREADS')} threads"
        )
        request = compiled.create_infer_request()
        given = list(arrays)

        def logits(inputs: Arrays) -> NDArray[Any]:
            request.infer(list(inputs), share_inputs=True)
            found: NDArray[Any] = request.get_output_tensor(0).data.copy()
            return found

        def call() -> object:
            return request.infer(given, share_inputs=True, share_outputs=True)

        if self._hint == "LATENCY":
            return Prepared(logits, call, settings)
        lanes = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        queue = self._library.AsyncInferQueue(compiled, lanes)

        def at_once(times: int) -> None:
            for _ in range(times):
                queue.start_async(given, share_inputs=True)
            queue.wait_all()

        return Prepared(logits, call, f"{settings}, {lanes} requests at once", at_once, lanes)

    def close(self) -> None:
        del self._core


_WHY_NOT = not_installed("openvino", "pip install 'repr-deploy[openvino]'")
_HINTS: dict[Measure, Hint] = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
PEERS = tuple(
    Peer(
        f"openvino-{measure}",
        on_the_faster_graph(partial(OpenVINORunner, hint=hint)),
        _WHY_NOT,
        (measure,),
    )
    for measure, hint in _HINTS.items()
)
