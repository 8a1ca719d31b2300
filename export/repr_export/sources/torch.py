"""A registered network, or a factory of the user's."""

import copy
import difflib
import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from repr_export.errors import CaptureError, OptionError, TargetError, first_line
from repr_export.layout import Arrays
from repr_export.options import DEFAULT_OPSET, ExportOptions
from repr_export.source import Identity
from repr_export.sources.capture import INPUT_NAME, OUTPUT_NAME, capture, output_shape, quiet
from repr_export.sources.given import preprocessing_of, read_labels, require_labels
from repr_models.spec import FoldContract, NetworkSpec
from repr_models.weights.download import Progress
from repr_models.weights.loading import RANDOM, WeightsSource, load_checkpoint, load_weights
from repr_models.weights.randomize import randomize
from repr_runtime.artifact.manifest import PreprocessingInfo, WeightsInfo


@dataclass
class TorchSource:
    """A torch module with its parameters loaded, in eval mode."""

    network: nn.Module
    identity: Identity
    weights: WeightsInfo
    input_shape: tuple[int, ...]
    options: ExportOptions
    preprocessing: PreprocessingInfo | None
    labels: tuple[str, ...] | None
    fold: FoldContract | None
    parameters: int | None

    def model(self) -> ir.Model:
        return capture(
            self.network,
            self.input_shape,
            batch=self.options.batch,
            opset=self.options.opset or DEFAULT_OPSET,
        )

    def try_out(self, inputs: Arrays) -> None:
        """The network ran when it was captured."""

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad(), quiet():
            output = self.network(torch.from_numpy(inputs[INPUT_NAME]))
        return {OUTPUT_NAME: output.detach().numpy()}

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]] | None:
        network = copy.deepcopy(self.network).double()
        try:
            with torch.no_grad(), quiet():
                output = network(torch.from_numpy(inputs[INPUT_NAME]).double())
        except RuntimeError:  # its own forward casts to float32, or to half
            return None
        return {OUTPUT_NAME: output.detach().numpy()}


def from_registry(
    target: str, spec: NetworkSpec, options: ExportOptions, download: Progress | None
) -> TorchSource:
    """The registered network ``spec``, asked for as ``target``."""
    options.refuse(
        spec.name, "input_shape", "input_shapes", "samples", "labels", "mean", "std", "resize"
    )
    network = spec.build()
    source = load_weights(network, options.weights, spec, progress=download)
    if source.kind == "bundled" and spec.bar is not None:
        source = replace(source, record={**source.record, "bar": spec.bar})
    pre = spec.preprocessing
    asked = target.strip().lower()
    notes = [] if asked == spec.name else [f"{asked} is {spec.name}"]
    note = "; ".join([*notes, *source.rewritten])
    dataset, folder = spec.dataset.name, options.name or asked
    return TorchSource(
        network.eval(),
        Identity(spec.name, spec.architecture, dataset, "registry", folder, note),
        _info(source),
        spec.input_shape,
        options,
        preprocessing=PreprocessingInfo(pre.resize, (pre.crop, pre.crop), pre.mean, pre.std),
        labels=spec.dataset.labels,
        fold=spec.fold,
        parameters=spec.parameters,  # without heads that serve training alone
    )


def _info(source: WeightsSource) -> WeightsInfo:
    return WeightsInfo(source.kind, source.location, source.sha256, source.record)


def from_factory(target: str, options: ExportOptions) -> TorchSource:
    """The network that ``package.module:factory`` makes."""
    options.refuse(target, "input_shapes")
    if options.input_shape is None:
        raise OptionError(f"{target} needs the shape of one sample, such as --input 3x224x224")
    labels, preprocessing = (
        read_labels(options.labels),
        preprocessing_of(options, options.input_shape),
    )
    network = _call_factory(target)
    note = ""
    rewritten: tuple[str, ...] = ()
    dtypes = {t.dtype for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()}
    if others := sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {torch.float32}):
        network, note = network.float(), f"its weights are {', '.join(others)}; exported in float32"
    name = options.name or target.rpartition(":")[2].rpartition(".")[2]
    if options.weights is None:
        weights = WeightsInfo("factory", target, None, {})
    elif str(options.weights) == RANDOM:
        try:
            seed = randomize(network, name, options.input_shape)
        except Exception as error:  # whatever the user's network raises
            raise CaptureError(
                f"the network fails on an input of shape {options.input_shape}: "
                f"{first_line(error)}; check --input"
            ) from error
        weights = WeightsInfo(RANDOM, f"seed {seed}", None, {})
    else:
        source = load_checkpoint(network, Path(options.weights))
        weights, rewritten = _info(source), source.rewritten
    try:
        output = output_shape(network.eval(), options.input_shape, options.batch)
    except CaptureError as error:
        if not note:
            raise
        raise CaptureError(
            f"{error}, and that its forward casts to float32 alone ({note})"
        ) from error
    require_labels(labels, output)
    return TorchSource(
        network.eval(),
        Identity(name, name, None, "factory", name, "; ".join(filter(None, (note, *rewritten)))),
        weights,
        options.input_shape,
        options,
        preprocessing=preprocessing,
        labels=labels,
        fold=None,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


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
    except (Exception, SystemExit) as error:  # whatever the user's module raises
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
    except (Exception, SystemExit) as error:  # whatever the user's factory raises
        raise TargetError(
            f"{target}() fails: {type(error).__name__}: {first_line(error)}; it is called without arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise TargetError(
            f"{target}() returns {type(network).__name__}, expected a torch.nn.Module"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise TargetError(
            f"{target} is TorchScript, or holds some, which torch does not trace; give the module that "
            f"it was made of"
        )
    if any(".quantized" in type(module).__module__ for module in network.modules()):
        raise TargetError(
            f"{target} is quantized by torch, for its own kernels; give the network in floating point: "
            f"--int8 quantizes it"
        )
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise TargetError(f"{target} has weights on the device 'meta', which holds none; use 'cpu'")
    return network.cpu()
