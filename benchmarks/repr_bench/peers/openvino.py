"""OpenVINO on the CPU with its performance hints, in float32.

Where a CPU has AVX512-BF16 or AMX, OpenVINO computes a float32 graph in bfloat16 unless told
otherwise; so the precision is set, and read back.
"""

import importlib
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Workload, not_installed

Hint = Literal["LATENCY", "THROUGHPUT"]


class OpenVINORunner:
    """The artifact's graph, fixed to each batch size and compiled for it.

    With the THROUGHPUT hint, as many requests are in flight as OpenVINO itself advises.
    """

    def __init__(self, workload: Workload, hint: Hint) -> None:
        self._library: Any = importlib.import_module("openvino")
        self._core = self._library.Core()
        self._workload, self._hint = workload, hint

    def prepare(self, arrays: Arrays) -> Prepared:
        model = self._core.read_model(str(self._workload.path))
        names = [port.get_any_name() for port in model.inputs]
        shapes = {name: array.shape for name, array in zip(names, arrays, strict=True)}
        model.reshape(shapes)  # a free batch would cost it
        config: dict[str, Any] = {"PERFORMANCE_HINT": self._hint, "INFERENCE_PRECISION_HINT": "f32"}
        if self._workload.threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._workload.threads
        compiled = self._core.compile_model(model, "CPU", config)
        got = compiled.get_property("INFERENCE_PRECISION_HINT")  # a type of OpenVINO's, or its name
        precision = str(got.get_type_name() if hasattr(got, "get_type_name") else got)
        if precision != "f32":
            raise PeerAbsentError(f"OpenVINO computes in {precision}, though f32 was asked for")
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
PEERS = (
    Peer("openvino-latency", partial(OpenVINORunner, hint="LATENCY"), _WHY_NOT, ("latency",)),
    Peer(
        "openvino-throughput", partial(OpenVINORunner, hint="THROUGHPUT"), _WHY_NOT, ("throughput",)
    ),
)
