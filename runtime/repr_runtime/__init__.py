"""repr_runtime: from an artifact to predictions. Needs numpy and ONNX Runtime, nothing else."""

from repr_runtime.artifact import read_manifest
from repr_runtime.backends.tensorrt import TensorRTOptions
from repr_runtime.batcher_stats import BatcherStats
from repr_runtime.batching import Batcher
from repr_runtime.engine_checks import Check
from repr_runtime.errors import ReproError
from repr_runtime.manifest import Manifest
from repr_runtime.preflight import preflight
from repr_runtime.session import Prediction, SelfTestReport, Session, load

__all__ = [
    "Batcher",
    "BatcherStats",
    "Check",
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
