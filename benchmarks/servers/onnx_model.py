"""An artifact's ONNX file in ONNX Runtime, asked in the words of the Open Inference Protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(int64)": "INT64"}
DTYPES = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64}


class OnnxModel:
    """The fp32 graph of the artifact in ``folder``; ``threads`` 0 is one for each core."""

    def __init__(self, folder: str, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        path, providers = Path(folder) / "model.onnx", ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(str(path), options, providers=providers)
        self.name = Path(folder).resolve().name

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Arrays by name, in and out."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))

    def metadata(self) -> dict[str, Any]:
        """What the protocol says of a model."""
        return {"name": self.name, "versions": ["1"], "platform": "onnxruntime_onnx"} | {
            key: [
                {"name": t.name, "datatype": DATATYPES[t.type], "shape": shape_of(t)}
                for t in tensors
            ]
            for key, tensors in (
                ("inputs", self.session.get_inputs()),
                ("outputs", self.session.get_outputs()),
            )
        }

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request in JSON, and its answer."""
        inputs = {
            t["name"]: np.array(t["data"], DTYPES[t["datatype"]]).reshape(t["shape"])
            for t in request["inputs"]
        }
        outputs = [described(name, array) for name, array in self.run(inputs).items()]
        return {"model_name": self.name, "outputs": outputs}

    def infer_raw(self, body: bytes, length: int) -> tuple[bytes, bytes]:
        """A request of the binary tensor extension, whose header has ``length``: header and tensors."""
        inputs, at = {}, length
        for t in json.loads(body[:length])["inputs"]:
            end = at + t["parameters"]["binary_data_size"]
            inputs[t["name"]] = np.frombuffer(body[at:end], DTYPES[t["datatype"]]).reshape(
                t["shape"]
            )
            at = end
        outputs = self.run(inputs)
        tensors = [described(name, array, data=False) for name, array in outputs.items()]
        head = json.dumps({"model_name": self.name, "outputs": tensors}).encode()
        return head, b"".join(array.tobytes() for array in outputs.values())


def described(name: str, array: Any, *, data: bool = True) -> dict[str, Any]:
    """A tensor in the protocol's JSON, with its numbers or with how many bytes it has."""
    found = {"name": name, "datatype": f"FP{8 * array.itemsize}", "shape": list(array.shape)}
    if data:
        return {**found, "data": array.ravel().tolist()}
    return {**found, "parameters": {"binary_data_size": array.nbytes}}


def shape_of(tensor: Any) -> list[int]:
    """-1 for each size that is free."""
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def arguments() -> tuple[str, int]:
    """``ARTIFACT PORT`` of the command line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit(f"usage: {sys.argv[0]} ARTIFACT PORT")
    return sys.argv[1], int(sys.argv[2])
