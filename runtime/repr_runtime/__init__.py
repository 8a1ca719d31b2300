"""repr_runtime: from an artifact to predictions. Needs numpy and ONNX Runtime, nothing else."""

import os

# From 1.29 on ONNX Runtime reports to its maker, from the import on, by threads that hang a forked
# child at its exit. Whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from repr_runtime.artifact.limits import Limits
from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.reading import read_manifest
from repr_runtime.backends.tensorrt.backend import TensorRTOptions
from repr_runtime.backends.tensorrt.checks import Check
from repr_runtime.batching.batcher import Batcher
from repr_runtime.batching.stats import BatcherStats
from repr_runtime.errors import ReproError
from repr_runtime.predictions import Prediction
from repr_runtime.preflight import preflight
from repr_runtime.self_test import SelfTestReport
from repr_runtime.session import Session, load

__all__ = [
    "Batcher",
    "BatcherStats",
    "Check",
    "Limits",
    "Manifest",
    "Prediction",
    "ReproError",
    "SelfTestReport",
    "Session",
    "TensorRTOptions",
    "load",
    "preflight",
    "read_manifest",
]
