"""An ONNX file of the user's."""

import hashlib
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import GraphError, OptionError, TargetError, first_line
from repr_export.options import ExportOptions
from repr_export.samples import Arrays, CpuGraph
from repr_export.source import Identity
from repr_export.sources.given import preprocessing_of, read_labels
from repr_models.spec import FoldContract
from repr_runtime.artifact.manifest import WeightsInfo


class OnnxSource:
    """A graph from any framework; the reference is the same graph, unoptimised."""

    fold: FoldContract | None = None
    parameters: int | None = None  # counted in the graph

    def __init__(self, path: Path, options: ExportOptions) -> None:
        options.refuse(f"the ONNX file {path}", "weights")
        if not path.is_file():
            raise TargetError(f"there is no file {path}")
        name = options.name or path.stem
        self.identity = Identity(name, name, None, "onnx", name)
        content = path.read_bytes()
        self.weights = WeightsInfo("onnx", path.name, hashlib.sha256(content).hexdigest(), {})
        self._proto = _load_proto(path)
        if options.opset is not None:
            self._proto = _convert_opset(self._proto, options.opset, path)
        if options.batch is not None:
            _fix_batch(self._proto, options.batch, path)
        self.labels = read_labels(options.labels)
        self.preprocessing = preprocessing_of(options, self._sample_shape(options))

    def _sample_shape(self, options: ExportOptions) -> tuple[int, ...] | None:
        if options.input_shape is not None:
            return options.input_shape
        initializers = {tensor.name for tensor in self._proto.graph.initializer}
        inputs = [i for i in self._proto.graph.input if i.name not in initializers]
        sizes = (
            [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim[1:]] if inputs else []
        )
        return tuple(sizes) if sizes and all(sizes) else None

    def model(self) -> ir.Model:
        return ir.from_proto(self._proto)

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return CpuGraph(self._proto.SerializeToString(), optimize=False)(inputs)

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return self.reference(inputs)  # there is no float64 kernel of every operator


def _load_proto(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf's, onnx's and the file system's share no base
        raise GraphError(f"{path} is not a valid ONNX file: {first_line(error)}") from error
    return proto


def _convert_opset(proto: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    current = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    if current == opset:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises RuntimeError and others
        raise GraphError(
            f"{path} cannot be converted from opset {current} to {opset}: {first_line(error)}; "
            f"leave --opset out"
        ) from error


def _fix_batch(proto: onnx.ModelProto, batch: int, path: Path) -> None:
    """Give the first dimension of every input the size ``batch``, in place."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in initializers or not value.type.tensor_type.shape.dim:
            continue
        dimension = value.type.tensor_type.shape.dim[0]
        if dimension.HasField("dim_value") and dimension.dim_value != batch:
            raise OptionError(
                f"{path}: the batch size of {value.name!r} is fixed to {dimension.dim_value}, not {batch}; "
                f"leave --batch out"
            )
        free = dimension.dim_param
        dimension.dim_value = batch
        for output in proto.graph.output:
            dims = output.type.tensor_type.shape.dim
            if dims and free and dims[0].dim_param == free:
                dims[0].dim_value = batch
    del proto.graph.value_info[:]  # the shapes within are inferred anew
