"""What is to be exported: a registered network, a factory of the user's, or an ONNX file."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from repr_export.errors import CaptureError, GraphError, OptionError, TargetError, first_line
from repr_export.options import DEFAULT_OPSET, ExportOptions
from repr_export.parity import run_graph
from repr_export.sources.capture import INPUT_NAME, OUTPUT_NAME, capture
from repr_models.errors import UnknownNetworkError
from repr_models.registry import resolve
from repr_models.spec import FoldContract, NetworkSpec
from repr_models.weights.download import Progress
from repr_models.weights.loading import RANDOM, WeightsSource, load_checkpoint, load_weights
from repr_models.weights.randomize import randomize
from repr_runtime.artifact.manifest import PreprocessingInfo, WeightsInfo

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Identity:
    """What the manifest says of the network, but for what is counted in its graph.

    ``note`` is a sentence for the user about how the target was understood, or "".
    """

    name: str
    architecture: str
    dataset: str | None
    source: str
    folder: str
    note: str = ""


class Source(Protocol):
    """A network to export."""

    identity: Identity
    weights: WeightsInfo
    preprocessing: PreprocessingInfo | None
    labels: tuple[str, ...] | None
    fold: FoldContract | None
    parameters: int | None

    def model(self) -> ir.Model:
        """A new graph of the network, with nothing folded yet."""
        ...

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """What the original network computes for ``inputs``."""
        ...

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The same in float64, where it can be, else :meth:`reference` again."""
        ...


def open_source(target: str, options: ExportOptions, download: Progress | None = None) -> Source:
    """The network that ``target`` names: a registered name, ``module:factory`` or ``FILE.onnx``.

    ``download`` is told of a published checkpoint that is fetched.
    Raises :class:`TargetError`, :class:`OptionError`, or ``repr_models.errors.ModelsError``
    for weights that are missing or do not fit.
    """
    if target.endswith(".onnx"):
        return OnnxSource(Path(target), options)
    if ":" in target:
        return _from_factory(target, options)
    try:
        spec = resolve(target)
    except UnknownNetworkError as error:
        raise TargetError(
            f"{error} A network of your own is given as package.module:factory, a graph as FILE.onnx"
        ) from error
    return _from_registry(target, spec, options, download)


class TorchSource:
    """A torch module with its parameters loaded, in eval mode."""

    def __init__(
        self,
        network: nn.Module,
        identity: Identity,
        weights: WeightsInfo,
        input_shape: tuple[int, ...],
        options: ExportOptions,
        *,
        preprocessing: PreprocessingInfo | None,
        labels: tuple[str, ...] | None,
        fold: FoldContract | None,
        parameters: int | None = None,
    ) -> None:
        self.network = network.eval()
        self.identity = identity
        self.weights = weights
        self.preprocessing = preprocessing
        self.labels = labels
        self.fold = fold
        counted = sum(p.numel() for p in network.parameters())
        self.parameters: int | None = counted if parameters is None else parameters
        self._input_shape = input_shape
        self._options = options

    def model(self) -> ir.Model:
        return capture(
            self.network,
            self._input_shape,
            batch=self._options.batch,
            opset=self._options.opset or DEFAULT_OPSET,
        )

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            output = self.network(torch.from_numpy(inputs[INPUT_NAME]))
        return {OUTPUT_NAME: output.numpy()}

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            network = copy.deepcopy(self.network).double()
            output = network(torch.from_numpy(inputs[INPUT_NAME]).double())
        return {OUTPUT_NAME: output.numpy()}


def _from_registry(
    target: str, spec: NetworkSpec, options: ExportOptions, download: Progress | None
) -> TorchSource:
    options.refuse(spec.name, "input_shape", "labels", "mean", "std", "resize")
    network = spec.build()
    source = load_weights(network, options.weights, spec, progress=download)
    if source.kind == "bundled" and spec.bar is not None:
        source = replace(source, record={**source.record, "bar": spec.bar})
    pre = spec.preprocessing
    asked = target.strip().lower()
    note = "" if asked == spec.name else f"{asked} is {spec.name}"
    return TorchSource(
        network,
        Identity(
            spec.name,
            spec.architecture,
            spec.dataset.name,
            "registry",
            options.name or asked,
            note,
        ),
        _weights_info(source),
        spec.input_shape,
        options,
        preprocessing=PreprocessingInfo(pre.resize, (pre.crop, pre.crop), pre.mean, pre.std),
        labels=spec.dataset.labels,
        fold=spec.fold,
        parameters=spec.parameters,  # without heads that serve training alone
    )


def _weights_info(source: WeightsSource) -> WeightsInfo:
    return WeightsInfo(**asdict(source))


def _from_factory(target: str, options: ExportOptions) -> TorchSource:
    if options.input_shape is None:
        raise OptionError(f"{target} needs the shape of one sample, such as --input 3x224x224")
    network = _call_factory(target)
    name = options.name or target.rpartition(":")[2].rpartition(".")[2]
    if options.weights is None:
        weights = WeightsInfo("factory", target, None, {})
    elif str(options.weights) == RANDOM:
        weights = WeightsInfo(
            RANDOM, f"seed {_randomize(network, name, options.input_shape)}", None, {}
        )
    else:
        weights = _weights_info(load_checkpoint(network, Path(options.weights)))
    return TorchSource(
        network,
        Identity(name, name, None, "factory", name),
        weights,
        options.input_shape,
        options,
        preprocessing=_preprocessing(options, options.input_shape),
        labels=_read_labels(options.labels),
        fold=None,
    )


def _randomize(network: nn.Module, name: str, input_shape: tuple[int, ...]) -> int:
    try:
        return randomize(network, name, input_shape)
    except Exception as error:  # whatever the user's network raises
        raise CaptureError(
            f"the network fails on an input of shape {input_shape}: {first_line(error)}; check --input"
        ) from error


def _call_factory(target: str) -> nn.Module:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise TargetError(f"{target!r} is not of the form package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working folder, as for `python -m`
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise TargetError(
                f"there is no module {missing!r}; run the command from the folder that holds it, "
                f"or install it"
            ) from error
        raise TargetError(f"{module_name} needs the module {missing!r}; install it") from error
    except Exception as error:  # whatever the user's module raises
        raise TargetError(
            f"importing {module_name} fails: {type(error).__name__}: {first_line(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise TargetError(f"{module_name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    try:
        network = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # whatever the user's factory raises
        raise TargetError(
            f"{target}() fails: {type(error).__name__}: {first_line(error)}; it is called without arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise TargetError(
            f"{target}() returns {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


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
        self.labels = _read_labels(options.labels)
        self.preprocessing = _preprocessing(options, self._sample_shape(options))

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
        return run_graph(self._proto.SerializeToString(), inputs, optimize=False)

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


def _read_labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--labels {path} cannot be read: {first_line(error)}") from error
    labels = tuple(line.strip() for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels or not all(labels):
        raise OptionError(f"--labels {path} must hold one class a line, and no empty line")
    return labels


def _preprocessing(
    options: ExportOptions, input_shape: tuple[int, ...] | None
) -> PreprocessingInfo | None:
    if options.mean is None or options.std is None:
        return None
    if input_shape is None or len(input_shape) != 3 or input_shape[0] != 3:
        raise OptionError(
            f"--mean and --std are for RGB images, inputs of 3xHxW; this one is {input_shape}"
        )
    _, height, width = input_shape
    resize = options.resize or min(height, width)
    return PreprocessingInfo(resize, (height, width), options.mean, options.std)
