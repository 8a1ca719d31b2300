"""What the tests of half precision share: a graph halved and checked in every way, small questions."""

import copy
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from repr_export.passes import run_pipeline
from repr_export.precision.half.convert import HalfReport, to_half
from repr_export.precision.half.emulate import emulate_half

FP16, BF16, FLOAT = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


def engine_of(content: bytes) -> bytes | None:
    """What the builder of TensorRT-RTX makes of a graph; it needs no GPU. Fails if it refuses."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(content)
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = [tuple(n if d == -1 else d for d in tensor.shape) for n in (1, 2, 4)]
        profile.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def halved(
    graphs: Any,
    model: ir.Model,
    precision: Any = "fp16",
    *,
    tolerance: float = 2e-2,
    build: bool = True,
    feeds: Any = None,
    **options: Any,
) -> HalfReport:
    """``to_half``, after which the graph must be valid, keep its signature, run and build.

    It may be off from the fp32 graph by ``tolerance`` of each output's range.
    """
    before = copy.deepcopy(ir.to_proto(model))
    report = to_half(model, precision, **options)
    after = ir.to_proto(model)
    content = after.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    for ends in ("input", "output"):
        old, new = (getattr(proto.graph, ends) for proto in (before, after))
        assert [value.name for value in old] == [value.name for value in new]
        if options.get("io", "fp32") == "fp32":
            assert [v.type for v in old] == [v.type for v in new]
    emulated = emulate_half(model)
    onnx.checker.check_model(ir.to_proto(emulated), full_check=True)
    for batch in (1, 4):
        fed = feeds or graphs.feeds(ir.from_proto(before), batch)
        expected = graphs.run(before, fed)
        if options.get("io") == "half":
            fed = {name: array.astype(np.float16) for name, array in fed.items()}
        for runnable in [emulated] if precision == "bf16" else [emulated, model]:
            for want, got in zip(expected, graphs.run(runnable, fed), strict=True):
                assert got.shape == want.shape
                difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
                assert difference <= tolerance * max(float(np.ptp(want)), 1e-3)
    if build:
        assert engine_of(content)
    return report


def types_of(model: ir.Model, op: str) -> list[ir.DataType | None]:
    """The type of each ``op``'s first output."""
    return [node.outputs[0].dtype for node in model.graph if node.op_type == op]


def reasons(report: HalfReport) -> dict[str, str]:
    """Why each operator was kept."""
    return {kept.op: kept.reason for kept in report.kept}


def folded(graphs: Any, name: str) -> ir.Model:
    model = graphs.capture(name)
    run_pipeline(model)
    return model
