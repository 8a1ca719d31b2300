"""A Triton model's `config.pbtxt`: the fields of `ModelConfig`, in protobuf's text format."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repr_runtime.artifact.manifest import EngineInfo, TensorSpec

Backend = Literal["onnxruntime", "openvino"]
HEADER = "# Written by repr-export; the next export of this name writes it anew."
CONFIG_FILE, LABELS_FILE, WARMUP_FOLDER, VERSION = "config.pbtxt", "labels.txt", "warmup", "1"
MOST = 32
"""The largest batch that Triton may join where the graph takes any: what `Batcher` takes too."""
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_TYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}


class _Word(str):
    """A value that stands without quotation marks: of an enumeration."""


@dataclass(frozen=True)
class Model:
    """A graph or engine to serve: what is in the file, what goes in and out, what the golden samples say.

    ``backend`` is Triton's name, ``processor`` ``KIND_CPU``, ``KIND_GPU``, or "" for whichever is there.
    ``inputs`` of ``samples`` are by name, each with a row for a sample, or of one whole run where
    ``inseparable``.
    """

    name: str
    content: bytes
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    samples: Mapping[str, NDArray[Any]]
    inseparable: bool
    processor: str = ""
    engine: EngineInfo | None = None

    @property
    def most(self) -> int:
        """Triton's `max_batch_size`: 0 where it must not touch the batch, and dims have all axes.

        So it is for a fixed batch, since the backends ask for a free first axis, and for
        OpenVINO's, which would run every batch at the largest size.
        """
        free = all(spec.shape and isinstance(spec.shape[0], str) for spec in self.tensors)
        if self.inseparable or not free or self.backend == "openvino":
            return 0
        return MOST if self.engine is None else max(p.max for p in self.engine.profiles)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All inputs and outputs."""
        return (*self.inputs, *self.outputs)

    def files(self) -> dict[str, bytes]:
        """Every file of the model's folder, by its path there."""
        file = "model.plan" if self.engine else "model.onnx"
        warmup, entries = self._warmup()
        labels = "".join(f"{label}\n" for label in self.labels).encode()
        return {
            f"{VERSION}/{file}": self.content,
            **({LABELS_FILE: labels} if self._labelled(self.outputs[0]) else {}),
            **{f"{WARMUP_FOLDER}/{name}": content for name, content in warmup.items()},
            CONFIG_FILE: f"{HEADER}\n{_text(self._config(file, entries))}".encode(),
        }

    def _config(self, file: str, warmup: list[dict[str, Any]]) -> dict[str, Any]:
        platform = _PLATFORMS.get(self.backend)
        outputs = [self._tensor(spec) for spec in self.outputs]
        if self._labelled(self.outputs[0]):
            outputs[0]["label_filename"] = LABELS_FILE
        profiles = self.engine.profiles if self.engine else ()
        group: dict[str, Any] = {"kind": _Word(self.processor)} if self.processor else {}
        if len(profiles) > 1:
            group["profile"] = [str(index) for index in range(len(profiles))]
        return {
            "name": self.name,
            **({"platform": platform} if platform else {}),
            "backend": self.backend,
            "default_model_filename": file,
            "max_batch_size": self.most,
            "input": [self._tensor(spec) for spec in self.inputs],
            "output": outputs,
            **({"dynamic_batching": {}} if self.most else {}),
            **({"instance_group": [group]} if group else {}),
            "model_warmup": warmup,
        }

    def _tensor(self, spec: TensorSpec) -> dict[str, Any]:
        dims = [-1 if isinstance(size, str) else size for size in spec.shape[bool(self.most) :]]
        fields = {"name": spec.name, "data_type": triton_type(spec.dtype), "dims": dims or [1]}
        return fields if dims else {**fields, "reshape": {"shape": []}}

    def _labelled(self, spec: TensorSpec) -> bool:
        """Whether an answer of this output has as many values as there are labels."""
        sizes = spec.shape[bool(self.most) :]
        known = [size for size in sizes if isinstance(size, int)]
        return len(known) == len(sizes) and bool(sizes) and math.prod(known) == len(self.labels)

    def _warmup(self) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
        """The golden samples as Triton's warm-up: raw files by name, and the entries that name them.

        Each alone where Triton makes batches (as many times as an engine takes at least), else one run.
        """
        count = len(next(iter(self.samples.values()))) if self.most else 1
        size = min((p.min for p in self.engine.profiles), default=1) if self.engine else 1
        files, entries = {}, []
        for index in range(count):
            inputs = []
            for place, spec in enumerate(self.inputs):
                values = self._of_run(spec)[index] if self.most else self._of_run(spec)
                name = f"golden{index}.input{place}"
                files[name] = np.ascontiguousarray(values).tobytes()
                value = {
                    "data_type": triton_type(spec.dtype),
                    "dims": list(values.shape) or [1],
                    "input_data_file": name,
                }
                inputs.append({"key": spec.name, "value": value})
            batch = size if self.most else 1
            entries.append({"name": f"golden{index}", "batch_size": batch, "inputs": inputs})
        return files, entries

    def _of_run(self, spec: TensorSpec) -> NDArray[Any]:
        """The golden samples of an input; over again where a fixed batch is larger than they are many."""
        values = self.samples[spec.name]
        rows = spec.shape[0] if spec.shape else None
        if self.inseparable or not isinstance(rows, int):
            return values
        return values[np.arange(rows) % len(values)]


def triton_type(dtype: str) -> str:
    """Triton's name of numpy's ``dtype``, such as TYPE_FP32."""
    return _Word(f"TYPE_{_TYPES.get(dtype, dtype.upper())}")


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    """``fields`` of a message in text format; a list of mappings is a field that repeats."""
    lines = []
    for name, value in fields.items():
        messages = value if isinstance(value, list) and value and _is_message(value[0]) else [value]
        for one in messages:
            if _is_message(one):
                lines.append(f"{indent}{name} {{\n{_text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping)


def _scalar(value: str | int | Sequence[Any]) -> str:
    if isinstance(value, _Word):
        return value
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(map(_scalar, value))}]"
