"""Every registered network is taken by the real TensorRT-RTX builder, in each precision."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir
import pytest
import torch

from repr_export.capture import capture
from repr_export.engine import BuiltEngine, build_engine
from repr_export.engine_options import EngineOptions
from repr_export.multiply_adds import count_multiply_adds
from repr_export.options import DEFAULT_OPSET
from repr_export.passes import run_pipeline
from repr_export.precision.half import to_half
from repr_export.precision.quantize import quantize
from repr_export.precision.ranges import Range, Ranges
from repr_models.registry import IMAGENET, NetworkSpec, networks

pytest.importorskip("tensorrt_rtx")

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUICK = 300_000  # parameters up to which a CIFAR-10 network takes a few seconds


def cases() -> list[object]:
    """Each network with each precision; neighbours share a capture."""
    found = []
    for spec in networks():
        slow = spec.dataset is IMAGENET or spec.parameters > QUICK
        marks = [pytest.mark.slow] if slow else []
        found += [
            pytest.param(spec, precision, id=f"{spec.name}-{precision}", marks=marks)
            for precision in ("fp32", "fp16", "int8")
        ]
    return found


@pytest.mark.parametrize(("spec", "precision"), cases())
def test_builder_takes_it(spec: NetworkSpec, precision: str) -> None:
    model = folded(spec)
    expected = count_multiply_adds(model)
    if precision == "int8":
        built, quantized = build_int8(ir.to_proto(model).SerializeToString())
        assert built.receipt.layers["int8"] == quantized > 0
    else:
        if precision == "fp16":
            to_half(model, "fp16")
        built = build(ir.to_proto(model).SerializeToString())
        assert built.receipt.shares == {precision: 1.0}
    assert len(built.content) > 0
    assert sum(built.receipt.layers.values()) == len(expected.nodes)
    assert sum(built.receipt.multiply_adds.values()) == expected.total


def build(graph: bytes) -> BuiltEngine:
    return build_engine(graph, EngineOptions(flavour="tensorrt-rtx"))


def build_int8(graph: bytes) -> tuple[BuiltEngine, int]:
    """The engine, and how many of its weighted layers are int8; the ranges are no matter here."""
    model = ir.from_proto(onnx.load_model_from_string(graph))
    names = {v.name or "" for node in model.graph for v in (*node.inputs, *node.outputs) if v}
    ranges = Ranges({name: Range(-4.0, 4.0) for name in names}, "min-max", 1, "made up")
    quantized = quantize(graph, ranges, flavour="tensorrt")
    weighted = {node.name for node in model.graph if node.op_type in WEIGHTED}
    return build(quantized.graph), len(weighted.intersection(quantized.report.quantized))


def folded(spec: NetworkSpec) -> ir.Model:
    """A copy of the network's folded graph, for inputs as small as it takes them."""
    return _folded(spec.name).clone()


@functools.lru_cache(maxsize=1)
def _folded(name: str) -> ir.Model:
    spec = next(each for each in networks() if each.name == name)
    torch.manual_seed(0)
    side = min(spec.smallest_side, spec.input_shape[1])
    model = capture(spec.build().eval(), (3, side, side), batch=None, opset=DEFAULT_OPSET)
    run_pipeline(model)
    return model
