"""A thin handler on FastAPI and uvicorn: raw tensors or JSON, the model in the thread pool."""

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from onnx_model import OnnxModel, arguments

folder, port = arguments()
model = OnnxModel(folder)
app = FastAPI()


@app.get(f"/v2/models/{model.name}")
def metadata() -> dict:
    return model.metadata()


@app.post(f"/v2/models/{model.name}/infer")
async def infer(request: Request) -> Response:
    body = await request.body()
    length = request.headers.get("inference-header-content-length")
    if length is None:
        return await run_in_threadpool(model.infer, await request.json())
    head, tensors = await run_in_threadpool(model.infer_raw, body, int(length))
    fields = {"Inference-Header-Content-Length": str(len(head))}
    return Response(head + tensors, headers=fields, media_type="application/octet-stream")


uvicorn.run(app, port=port, log_level="warning")
