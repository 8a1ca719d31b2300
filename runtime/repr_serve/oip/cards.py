"""What a model is, in words for a program or a person: the protocol's metadata, and its card."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from repr_runtime.artifact.manifest import TensorSpec
from repr_serve.model import Model
from repr_serve.oip.tensors import NAMES, shape_of

_PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}


def metadata(model: Model) -> dict[str, Any]:
    """As the protocol has it; -1 is a size that is free."""
    name = model.session.backend.name
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": _PLATFORMS.get(name, name),
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": NAMES[np.dtype(spec.dtype)], "shape": shape_of(spec)}


def card(model: Model) -> dict[str, Any]:
    """Where it came from, what was proven of it, and what runs it here."""
    manifest, report = model.manifest, model.report
    summaries = {
        name: receipt["summary"]
        for name, receipt in manifest.receipts.items()
        if isinstance(receipt, Mapping) and isinstance(receipt.get("summary"), str)
    }
    return {
        "name": model.name,
        "version": model.version,
        "network": manifest.network.name,
        "parameters": manifest.network.parameters,
        "multiply_adds": manifest.network.multiply_adds,
        "weights": {"kind": manifest.weights.kind, "location": manifest.weights.location},
        "record": {k: v for k, v in manifest.weights.record.items() if k != "history"},
        "precision": model.session.precision,
        "runs_on": model.session.choice,
        "pictures": manifest.preprocessing is not None and len(model.outputs[0].shape) == 2,
        "labels": len(manifest.labels or ()),
        "receipts": summaries,
        "golden": {
            "samples": report.samples,
            "largest_difference": report.max_abs,
            "allowed": report.tolerance,
            "top1_agreement": report.top1_agreement,
        },
        "versions": dict(manifest.versions),
    }
