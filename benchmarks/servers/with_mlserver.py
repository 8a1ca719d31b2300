"""MLServer: a model of one's own, in its own process, asked by REST and gRPC (PORT + 1)."""

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor
from onnx_model import OnnxModel, arguments


class Served(MLModel):
    async def load(self) -> bool:
        self.model = OnnxModel(self.settings.parameters.uri)
        found = self.model.metadata()
        self.inputs = [MetadataTensor(**tensor) for tensor in found["inputs"]]
        self.outputs = [MetadataTensor(**tensor) for tensor in found["outputs"]]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        outputs = [NumpyCodec.encode_output(*pair) for pair in self.model.run(inputs).items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    folder, port = arguments()
    name = OnnxModel(folder).name
    settings = ModelSettings(name=name, implementation=Served, parameters={"uri": folder})
    server = MLServer(
        Settings(
            http_port=port,
            grpc_port=port + 1,
            metrics_port=port + 2,
            parallel_workers=0,
            host="127.0.0.1",
        )
    )
    await server.start([settings])


asyncio.run(main())
