"""In which types a network computes: read from TensorRT's network, and from a built engine."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from repr_export.errors import EngineBuildError
from repr_export.tensorrt.builder_library import listen_alone
from repr_runtime.backends.tensorrt.library import Library

if TYPE_CHECKING:
    import tensorrt as trt

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
_COUNTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_SEE_THROUGH = ("SHUFFLE", "IDENTITY")  # lie between DequantizeLinear and a matrix product

# how inspectors of different versions name types in "Format/Datatype" and "Weights"
_INSPECTED = (
    (r"\bint8\b", "int8"),
    (r"\bfp8\b", "fp8"),
    (r"\bbf16\b|bfloat16", "bf16"),
    (r"\bhalf\b|\bfp16\b", "fp16"),
    (r"\bfloat\b|\bfp32\b", "fp32"),
)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class EngineReceipt:
    """Convolutions and matrix products by the type they compute in.

    ``layers`` counts them, ``multiply_adds`` their products for one sample; where those
    cannot be told, it is empty. ``source`` is ``network`` (what the builder was given) or
    ``engine`` (what it made). An engine that shows a layer's type to nobody, as those of
    TensorRT-RTX do, has it as ``unknown``.
    """

    source: str
    layers: Mapping[str, int]
    multiply_adds: Mapping[str, int]

    @property
    def shares(self) -> dict[str, float]:
        """Each type's share of the multiply-adds, or of the layers where those are not known."""
        amounts = self.multiply_adds or self.layers
        total = sum(amounts.values())
        return {name: amount / total for name, amount in amounts.items()} if total else {}

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "shares": self.shares}


def network_receipt(
    library: Library, network: trt.INetworkDefinition, left_out: Collection[str] = ()
) -> EngineReceipt:
    """The types in a parsed network: strongly typed, so the engine keeps to them.

    ``left_out`` are the names of layers that multiply nothing that counts.

    A layer whose operands both come out of a Dequantize layer counts as what was quantized:
    the builder fuses the two. A product of two constants computes nothing at run time and
    does not count.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    counts: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name not in _COUNTED or layer.name in left_out:
            continue
        operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
        made_by = [makers.get(each.name) for each in operands]
        if all(maker is not None and maker.type.name == "CONSTANT" for maker in made_by):
            continue
        kinds = [_type(makers, each) for each in operands]
        kind = kinds[0] if len(set(kinds)) == 1 else _named(operands[0])
        counts[kind] += 1
        products[kind] += _multiply_adds(library.trt, layer)
    return EngineReceipt("network", dict(counts), dict(products))


def _type(makers: Mapping[str, trt.ILayer], tensor: trt.ITensor) -> str:
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name in _SEE_THROUGH:
        maker = makers.get(maker.get_input(0).name)
    if maker is not None and maker.type.name == "DEQUANTIZE":
        tensor = maker.get_input(0)
    return _named(tensor)


def _named(tensor: trt.ITensor) -> str:
    name = str(tensor.dtype.name)
    return _TYPES.get(name, name.lower())


def _multiply_adds(module: Any, layer: trt.ILayer) -> int:
    """For one sample: the batch is the first dimension of what comes out."""
    out, data = shape_of(layer.get_output(0)), shape_of(layer.get_input(0))
    if layer.type.name == "MATRIX_MULTIPLY":
        layer.__class__ = module.IMatrixMultiplyLayer  # how TensorRT casts a layer in Python
        transposed = getattr(layer, "op0").name == "TRANSPOSE"  # noqa: B009
        return math.prod(out[1:]) * (data[-2] if transposed else data[-1])
    if layer.num_inputs > 1:  # a kernel that is computed, from quantized weights for instance
        kernel = math.prod(shape_of(layer.get_input(1)))
    else:
        forward = layer.type.name == "CONVOLUTION"
        layer.__class__ = module.IConvolutionLayer if forward else module.IDeconvolutionLayer
        kernel = int(getattr(layer, "kernel").size)  # noqa: B009
    return math.prod((out if layer.type.name == "CONVOLUTION" else data)[2:]) * kernel


def shape_of(tensor: trt.ITensor) -> tuple[int, ...]:
    """The tensor's dimensions, -1 for a free one."""
    return tuple(cast("Iterable[int]", tensor.shape))


def inspect_engine(library: Library, content: bytes) -> EngineReceipt:
    """The types in an engine that was built here, from the library's own inspector.

    Needs a GPU that can run the engine. Give it engines of one's own making alone: an engine
    is executable code. Raises :class:`EngineBuildError` if the library cannot load it.
    """
    with listen_alone(library) as (logger, messages):
        engine: trt.ICudaEngine | None = library.trt.Runtime(logger).deserialize_cuda_engine(
            content
        )
        if engine is None:
            raise EngineBuildError(
                f"{library.title} cannot load the engine to inspect it: "
                f"{'; '.join(messages.errors) or 'no reason given'}; inspect it on the GPU that it "
                f"was built for"
            )
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(library.trt.LayerInformationFormat.JSON)
    return read_layer_information(text)


def read_layer_information(text: str) -> EngineReceipt:
    """The receipt in the inspector's JSON, whose layers are objects if it was built in detail.

    Raises :class:`EngineBuildError` for anything but such JSON.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineBuildError(
            f"the engine inspector's answer is not a list of layers: {text[:60]!r}; build the "
            f"engine again"
        ) from error
    counts: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):  # names alone
            counts[UNKNOWN] += 1
            continue
        weights = layer.get("Weights") or {}
        kind = layer.get("ParameterType") or layer.get("LayerType") or ""
        if not weights.get("Count") and not re.search(
            r"conv|gemm|matrixmultiply|myelin", kind, re.I
        ):
            continue
        data = [tensor.get("Format/Datatype", "") for tensor in layer.get("Inputs", ())[:1]]
        name = _inspected([str(weights.get("Type", "")), *map(str, data)])
        counts[name] += 1
        spatial = [
            size for tensor in layer.get("Outputs", ())[:1] for size in tensor["Dimensions"][2:]
        ]
        if weights.get("Count") and all(size > 0 for size in spatial):
            products[name] += int(weights["Count"]) * math.prod(spatial)
        else:
            products[UNKNOWN] += 1
    complete = UNKNOWN not in products and UNKNOWN not in counts
    return EngineReceipt("engine", dict(counts), dict(products) if complete else {})


def _inspected(texts: Iterable[str]) -> str:
    for text in texts:
        for pattern, name in _INSPECTED:
            if re.search(pattern, text, re.IGNORECASE):
                return name
    return UNKNOWN
