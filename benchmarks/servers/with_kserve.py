"""KServe's model server: a model of one's own, asked by REST and gRPC (PORT + 1)."""

import kserve
from onnx_model import OnnxModel, arguments


class Served(kserve.Model):
    def __init__(self, folder: str) -> None:
        self.model = OnnxModel(folder)
        super().__init__(self.model.name)
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return self.model.metadata()["inputs"]

    def get_output_types(self) -> list[dict]:
        return self.model.metadata()["outputs"]

    async def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002
        outputs = self.model.run({given.name: given.as_numpy() for given in payload.inputs})
        answers = []
        for name, array in outputs.items():
            answer = kserve.InferOutput(name, list(array.shape), f"FP{8 * array.itemsize}")
            answer.set_data_from_numpy(array, binary_data=payload.from_grpc or wants_raw(payload))
            answers.append(answer)
        return kserve.InferResponse(payload.id or "", self.name, answers)


def wants_raw(payload) -> bool:
    return any((one.parameters or {}).get("binary_data") for one in payload.request_outputs or ())


folder, port = arguments()
kserve.ModelServer(http_port=port, grpc_port=port + 1, enable_docs_url=False).start(
    [Served(folder)]
)
