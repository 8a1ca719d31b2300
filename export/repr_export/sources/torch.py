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

from repr_export.errors import CaptureError, OptionError, RunError, TargetError, first_line
from repr_export.layout import Arrays
from repr_export.options import DEFAULT_OPSET, ExportOptions
from repr_export.source import Identity
from repr_export.sources.calling import Call, call_of, call_on, threads_for
from repr_export.sources.capture import capture, failure, quiet, run_once
from repr_export.sources.given import preprocessing_of, read_labels, require_labels
from repr_models.spec import FoldContract, NetworkSpec
from repr_models.weights.download import Progress
from repr_models.weights.loading import RANDOM, WeightsSource, load_checkpoint, load_weights
from repr_models.weights.randomize import randomize
from repr_runtime.artifact.manifest import PreprocessingInfo, WeightsInfo


@dataclass
class TorchSource:
    """A torch module with its parameters loaded, in eval mode."""

    call: Call
    identity: Identity
    weights: WeightsInfo
    options: ExportOptions
    preprocessing: PreprocessingInfo | None
    labels: tuple[str, ...] | None
    fold: FoldContract | None
    parameters: int | None

    def model(self) -> ir.Model:
        opset = self.options.opset or DEFAULT_OPSET
        return capture(self.call, batch=self.options.batch, opset=opset)

    def try_out(self, inputs: Arrays) -> None:
        """The network ran when it was captured."""

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        tensors = self._tensors(inputs)
        try:
            with torch.no_grad(), quiet(), threads_for(self.call, tensors):
                outputs = self.call.outputs(*tensors)
        except Exception as error:  # whatever the user's network raises
            raise RunError(str(failure(self.call, tensors, error))) from error
        return {name: output.detach().numpy() for name, output in outputs.items()}

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]] | None:
        call = Call(copy.deepcopy(self.call.network), self.call.inputs)
        wide = (t.double() if t.is_floating_point() else t for t in self._tensors(inputs))
        try:
            with torch.no_grad(), quiet():
                outputs = call.double().outputs(*wide)
        except RuntimeError:  # its own forward casts to float32, or to half
            return None
        return {name: output.detach().numpy() for name, output in outputs.items()}

    def _tensors(self, inputs: Arrays) -> list[torch.Tensor]:
        return [torch.tensor(inputs[entry.name]) for entry in self.call.inputs]


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
        call_on(network.eval(), spec.input_shape),
        Identity(spec.name, spec.architecture, dataset, "registry", folder, note),
        _info(source),
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
    if options.input_shape is None and options.input_shapes is None and options.samples is None:
        raise OptionError(f"{target} needs the shape of one sample, such as --input 3x224x224")
    labels = read_labels(options.labels)
    network = _call_factory(target)
    call = call_of(network, target, options)
    preprocessing = preprocessing_of(options, call.inputs[0].shape)
    note = ""
    rewritten: tuple[str, ...] = ()
    dtypes = {t.dtype for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()}
    if others := sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {torch.float32}):
        network, note = network.float(), f"its weights are {', '.join(others)}; exported in float32"
    name = options.name or target.rpartition(":")[2].rpartition(".")[2]
    if options.weights is None:
        weights = WeightsInfo("factory", target, None, {})
    elif str(options.weights) == RANDOM:
        noise = _noise(call)
        lone = None if call.by_position else noise
        try:
            seed = randomize(call, name, call.inputs[0].shape, lone)
        except Exception as error:  # whatever the user's network raises
            raise failure(call, noise, error) from error
        weights = WeightsInfo(RANDOM, f"seed {seed}", None, {})
    else:
        source = load_checkpoint(network, Path(options.weights))
        weights, rewritten = _info(source), source.rewritten
    try:
        outputs = run_once(call.eval(), options.batch)
    except CaptureError as error:
        if not note:
            raise
        raise CaptureError(
            f"{error}, and that its forward casts to float32 alone ({note})"
        ) from error
    require_labels(labels, next(iter(outputs.values())).shape)
    return TorchSource(
        call,
        Identity(name, name, None, "factory", name, "; ".join(filter(None, (note, *rewritten)))),
        weights,
        options,
        preprocessing=preprocessing,
        labels=labels,
        fold=None,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def _noise(call: Call) -> list[torch.Tensor]:
    """Four samples of each input: noise, but for integers."""
    generator = torch.Generator().manual_seed(0)
    tensors = [entry.tensor(4) for entry in call.inputs]
    return [
        torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for t in tensors
    ]


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
