"""Ray Serve: a replica with one thread for each core, asked in JSON through Serve's proxy."""

import os
import time

from onnx_model import OnnxModel, arguments
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=os.cpu_count(), ray_actor_options={"num_cpus": 0.5})
class Served:
    def __init__(self, folder: str) -> None:
        self.model = OnnxModel(folder, threads=1)

    async def __call__(self, request: Request) -> dict:
        if request.method == "GET":
            return self.model.metadata()
        return self.model.infer(await request.json())


if __name__ == "__main__":
    folder, port = arguments()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Served.bind(os.path.abspath(folder)), route_prefix="/")
    while True:
        time.sleep(3600)
