"""LitServe: a worker with one thread for each core; it hands JSON from its server to its workers."""

import os

import litserve
from onnx_model import OnnxModel, arguments


class Api(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002
        self.model = OnnxModel(self.folder, threads=1)

    def decode_request(self, request):
        return request

    def predict(self, request):
        return self.model.infer(request)

    def encode_response(self, answer):
        return answer


if __name__ == "__main__":
    folder, port = arguments()
    described = OnnxModel(folder, threads=1)
    api = Api(api_path=f"/v2/models/{described.name}/infer")
    api.folder = folder
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=os.cpu_count())
    server.app.get(f"/v2/models/{described.name}")(described.metadata)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")
