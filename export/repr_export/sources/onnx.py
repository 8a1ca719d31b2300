"""An ONNX file of the user's."""

import hashlib
import time
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from repr_export.errors import GraphError, OptionError, RunError, first_line, innermost
from repr_export.graph.multiply_adds import (
    UncountableError,
    activation_bytes,
    count_multiply_adds,
    with_shapes,
)
from repr_export.graph.signature import Signature
from repr_export.graph.widen import widen
from repr_export.layout import Arrays, Layout, lay_out
from repr_export.options import (
    DEFAULT_OPSET,
    NEWEST_IR,
    NEWEST_OPSET,
    OLDEST_OPSET,
    ExportOptions,
)
from repr_export.samples import CpuGraph, given_shapes
from repr_export.source import Identity
from repr_export.sources.given import preprocessing_of, read_labels, require_labels
from repr_export.sources.reading import not_valid, read_graph
from repr_export.sources.trial import crash_of
from repr_models.spec import FoldContract
from repr_runtime.artifact.manifest import WeightsInfo

_EXACT_SECONDS = 30.0  # to spend on float64 answers, which are computed in plain numpy
_EXACT_BYTES = 2 * 2**30  # of its largest matrix
_EXACT_VALUES = 8 * 2**30  # bytes of all values, which it keeps


class OnnxSource:
    """A graph from any framework; the reference is the same graph, unoptimised."""

    fold: FoldContract | None = None
    parameters: int | None = None  # counted in the graph

    def __init__(self, path: Path, options: ExportOptions) -> None:
        options.refuse(f"the ONNX file {path}", "weights")
        name = options.name or path.stem
        self.identity = Identity(name, name, None, "onnx", name)
        content, self._proto = read_graph(path)
        self.weights = WeightsInfo("onnx", path.name, hashlib.sha256(content).hexdigest(), {})
        self.labels = read_labels(options.labels)
        _make_usual(self._proto, path)
        if options.opset is not None:
            self._proto = _convert_opset(self._proto, options.opset, path)
        _require_opset(self._proto, path)
        signature = Signature.of(_model_of(self._proto))
        require_labels(self.labels, signature.outputs[0].shape)
        specs = signature.inputs
        given, _ = given_shapes(specs, options.shapes_of(specs), options.samples)
        layout, shapes = lay_out(specs, given)
        if options.batch is not None:
            _fix_batch(self._proto, options.batch, layout, path)
        self._graph = self._proto.SerializeToString()
        self.preprocessing = preprocessing_of(options, shapes[specs[0].name])
        self._run_shapes, self._size = layout.run_shapes(shapes), layout.size
        self._seconds = _EXACT_SECONDS
        self._mend_samples = (
            "if made-up inputs are why, give real ones with --samples FILE.npz"
            if options.samples is None
            else f"mend the arrays in {options.samples}"
        )

    def model(self) -> ir.Model:
        return _model_of(self._proto)

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        try:
            return self._unoptimized(inputs)
        except RunError as error:
            raise RunError(f"{error}; {self._mend_samples}") from error

    @cached_property
    def _unoptimized(self) -> CpuGraph:
        try:
            return CpuGraph(self._graph, optimize=False)
        except GraphError as error:
            raise GraphError(f"{error}; {_opening_hint(error, _opset_of(self._proto))}") from error

    def try_out(self, inputs: Arrays) -> None:
        """Run the graph in another process; raises :class:`GraphError` if that one crashes."""
        crash = crash_of(self._graph, dict(inputs))
        if crash:
            raise GraphError(
                f"ONNX Runtime {crash} on this graph, so that nothing can run or prove it; "
                f"simplify the graph, or try another version of onnxruntime"
            )

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]] | None:
        batch = max((len(values) for values in inputs.values() if values.ndim), default=1)
        if self._seconds <= 0 or batch * self._columns > _EXACT_BYTES:
            return None
        if batch * self._values > _EXACT_VALUES:
            return None
        begin = time.monotonic()
        wide = {
            name: values.astype(np.float64) if values.dtype.kind == "f" else values
            for name, values in inputs.items()
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of infinities and NaN
                found = self._evaluator.run(None, wide)
        except Exception:  # an operator or a type that it does not know
            self._seconds = 0.0
            return None
        self._seconds -= time.monotonic() - begin
        return dict(zip(self._evaluator.output_names, found, strict=True))

    @cached_property
    def _columns(self) -> int:
        """Bytes of the matrix that the evaluator makes of a convolution's input, of one sample."""
        model = with_shapes(self.model(), self._run_shapes)
        try:
            rows = count_multiply_adds(model)
        except UncountableError:
            return 0
        weights = [(row, row.node.inputs[1]) for row in rows if row.node.op_type == "Conv"]
        sizes = [
            8 * row.count // shape[0]
            for row, weight in weights
            if weight is not None
            and (shape := weight.shape) is not None
            and isinstance(shape[0], int)
        ]
        return max(sizes, default=0)

    @cached_property
    def _values(self) -> int:
        """Bytes of all values of one sample in float64."""
        sizes = activation_bytes(with_shapes(self.model(), self._run_shapes))
        return 2 * sizes // (self._size or 1)

    @cached_property
    def _evaluator(self) -> ReferenceEvaluator:
        return ReferenceEvaluator(widen(self._proto))


def _make_usual(proto: onnx.ModelProto, path: Path) -> None:
    """Check ``proto`` and write it, in place, as all that follows can read it."""
    try:
        proto.ir_version = min(proto.ir_version, NEWEST_IR)
        _mend_shapes(proto)
        onnx.checker.check_model(proto)
        _densify(proto.graph)
        _free_negative(proto.graph)
    except GraphError:
        raise
    except Exception as error:  # protobuf's, onnx's and the file system's share no base
        raise not_valid(path, error) from error
    if not proto.graph.output:
        raise GraphError(f"{path} has no outputs, so that it computes nothing; write it with some")
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            raise GraphError(
                f"{value.name!r} is no tensor, which is all that engines and services pass on; drop it "
                f"from the graph (skl2onnx: zipmap=False), or turn it into tensors"
            )


def _model_of(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        raise GraphError(f"the graph cannot be read: {first_line(innermost(error))}") from error


def _opening_hint(error: GraphError, opset: int | None) -> str:
    if not any(lack in str(error) for lack in ("find an implementation", "not a registered")):
        return "mend it where it was made"
    others = "write it with other operators or types"
    newer = opset is not None and opset > DEFAULT_OPSET
    return f"try --opset {DEFAULT_OPSET}, or {others}" if newer else others


def _opset_of(proto: onnx.ModelProto) -> int | None:
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)


def _require_opset(proto: onnx.ModelProto, path: Path) -> None:
    opset = _opset_of(proto)
    if opset is not None and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise GraphError(
            f"{path} is of opset {opset}, and {OLDEST_OPSET} to {NEWEST_OPSET} can be run; "
            f"convert it with --opset {NEWEST_OPSET if opset > NEWEST_OPSET else DEFAULT_OPSET}"
        )


def _mend_shapes(proto: onnx.ModelProto) -> None:
    """Where outputs say no shape, or shapes contradict what follows from the inputs', the latter hold."""
    tensors = [output for output in proto.graph.output if output.type.HasField("tensor_type")]
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except onnx.shape_inference.InferenceError:
        del proto.graph.value_info[:]
        wrong = tensors
    else:
        wrong = [output for output in tensors if not output.type.tensor_type.HasField("shape")]
    if not wrong:
        return
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = {
        output.name: output for output in onnx.shape_inference.infer_shapes(bare).graph.output
    }
    for output in wrong:
        if inferred[output.name].type.tensor_type.HasField("shape"):
            output.CopyFrom(inferred[output.name])
        elif not output.type.tensor_type.HasField("shape"):
            raise GraphError(
                f"output {output.name!r} has no shape, and none follows from those of the inputs; give "
                f"each input and output one, free sizes by a name"
            )


def _densify(graph: onnx.GraphProto) -> None:
    """Sparse initializers and Constants become dense ones, which all that follows can read."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                dense = _dense(attribute.sparse_tensor, node.output[0])
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    dense = np.zeros(tuple(sparse.dims), numpy_helper.to_array(sparse.values).dtype)
    indices = numpy_helper.to_array(sparse.indices)
    if indices.ndim == 1:
        dense.flat[indices] = numpy_helper.to_array(sparse.values)
    else:
        dense[tuple(indices.T)] = numpy_helper.to_array(sparse.values)
    return numpy_helper.from_array(dense, name)


def _free_negative(graph: onnx.GraphProto) -> None:
    """A size of -1, or "?", is how Paddle and others write a free one, each of its own size."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0 or dim.dim_param == "?":
                dim.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"


def _convert_opset(proto: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    current = _opset_of(proto)
    if current == opset:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises RuntimeError and others
        runs = current is None or OLDEST_OPSET <= current <= NEWEST_OPSET
        way_out = "leave --opset out" if runs else f"write it in {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise GraphError(
            f"{path} cannot be converted from opset {current} to {opset}: "
            f"{first_line(error).rpartition(' failed: ')[2]}; {way_out}"
        ) from error


def _fix_batch(proto: onnx.ModelProto, batch: int, layout: Layout, path: Path) -> None:
    """Give the batch axis of every input the size ``batch``, in place, and what has its symbol."""
    symbols = set()
    for value in proto.graph.input:
        axis = layout.axes.get(value.name)
        if axis is None:
            continue
        dimension = value.type.tensor_type.shape.dim[axis]
        if dimension.HasField("dim_value") and dimension.dim_value != batch:
            raise OptionError(
                f"{path}: the batch size of {value.name!r} is fixed to {dimension.dim_value}, not {batch}; "
                f"leave --batch out"
            )
        symbols.add(dimension.dim_param)
        dimension.dim_value = batch
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in symbols - {""}:
                dimension.dim_value = batch
    del proto.graph.value_info[:]  # the shapes within are inferred anew
