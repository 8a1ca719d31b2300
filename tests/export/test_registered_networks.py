"""Every registered network goes the whole way: graph, fold, run, engines; each is captured once."""

import copy
import gc
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from repr_export.graph.multiply_adds import count_multiply_adds
from repr_export.options import DEFAULT_OPSET
from repr_export.parity import PARITY_BOUND, output_range
from repr_export.passes import run_pipeline
from repr_export.precision.half.convert import to_half
from repr_export.precision.int8.quantize import quantize
from repr_export.precision.int8.ranges import Range, Ranges
from repr_export.sources.calling import INPUT_NAME, OUTPUT_NAME, call_on
from repr_export.sources.capture import capture
from repr_export.tensorrt.build import BuiltEngine, build_engine
from repr_export.tensorrt.options import EngineOptions
from repr_models.count import multiply_adds
from repr_models.data.cifar10 import bundled_subset
from repr_models.registry import networks
from repr_models.spec import NetworkSpec
from repr_models.weights.randomize import randomize
from repr_runtime.artifact.manifest import PreprocessingInfo
from repr_runtime.preprocess import preprocess

pytest.importorskip("tensorrt_rtx")

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BATCHES = (1, 5)


LARGER = (
    *("alexnet.imagenet", "vgg19.cifar10", *(f"vgg{k}.imagenet" for k in (16, 19))),
    *("vgg16_bn.imagenet", "vgg19_bn.imagenet", "googlenet.imagenet", "xception.imagenet"),
    *(f"{name}.imagenet" for name in ("mobilenet_v1", "mobilenet_v2")),
    *(f"{name}.imagenet" for name in ("shufflenet_v1", "shufflenet_v2")),
    *(f"{kind}{depth}.cifar10" for kind in ("plain", "resnet") for depth in (32, 44, 56)),
    *("resnet110.cifar10", "resnet50_gn.imagenet", "inception_v3.imagenet"),
    *(f"{name}.cifar10" for name in ("resnet50", "resnet56_gn", "inception_resnet")),
    *(f"{name}.cifar10" for name in ("mobilenet_v2", "shufflenet_v2")),
    *(f"{name}.cifar10" for name in ("densenet_bc100", "preact_resnet164", "preact_resnet1001")),
    *(f"resnet{depth}.imagenet" for depth in (34, 101, 152)),
    *(f"densenet{depth}.imagenet" for depth in (121, 169, 201)),
    *(f"{name}.imagenet" for name in ("resnet50", "resnext50_32x4d", "resnext101_32x8d")),
    *(f"{name}.imagenet" for name in ("inception_v4", "inception_resnet_v2")),
)
"""Smaller networks have their blocks, or torch traces them for minutes: `make test-large` has these."""


def seconds(spec: NetworkSpec) -> float:
    """About how long one core takes: tracing goes by the layers, the rest by the parameters."""
    return 3 + spec.fold.batchnorms / 12 + spec.parameters / 5e6


def cases() -> list[object]:
    """The dearest first, so that no worker is left alone with them at the end."""
    specs = sorted(networks(), key=seconds, reverse=True)
    assert set(LARGER) <= {spec.name for spec in specs}
    return [pytest.param(spec, id=spec.name, marks=marks(spec)) for spec in specs]


def marks(spec: NetworkSpec) -> list[pytest.MarkDecorator]:
    conditions = (
        (pytest.mark.slow, seconds(spec) > 10),
        (pytest.mark.timeout(1500), seconds(spec) > 60),
        (pytest.mark.large, spec.name in LARGER),
    )
    return [mark for mark, holds in conditions if holds]


def quantized() -> set[str]:
    """The smallest network of each family, which goes to int8 too."""
    smallest: dict[str, NetworkSpec] = {}
    for spec in networks():
        smallest[spec.family] = min(
            smallest.get(spec.family, spec), spec, key=lambda each: each.parameters
        )
    return {spec.name for spec in smallest.values()}


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """Graphs and modules refer to themselves, and the largest take gigabytes."""
    yield
    gc.collect()


@pytest.mark.parametrize("spec", cases())
def test_goes_the_whole_way(spec: NetworkSpec) -> None:
    side = min(spec.smallest_side, spec.input_shape[1])
    network = spec.build().eval()
    randomize(network, spec.name, (3, side, side))
    model = capture(call_on(network, (3, side, side)), batch=None, opset=DEFAULT_OPSET)

    fold = run_pipeline(model).fold
    assert (len(fold.folded), len(fold.refused)) == (spec.fold.folded, spec.fold.kept)
    left = [node for node in model.graph if node.op_type == "BatchNormalization"]
    assert len(left) == spec.fold.kept + fold.affines
    graph = ir.to_proto(model).SerializeToString()
    assert_same_outputs(graph, network, images(spec, side))
    counted = [share.count for share in count_multiply_adds(model)]
    with torch.device("meta"):  # the graph reads the parameters of ``network`` where they are
        assert sum(counted) == multiply_adds(spec.build().eval(), side)
    del network

    assert_builds(graph, "fp32", counted)
    if spec.name in quantized():
        assert_builds_int8(graph, counted)
    del graph
    to_half(model, "fp16")
    half = ir.to_proto(model).SerializeToString()
    del model
    assert_builds(half, "fp16", counted)


def images(spec: NetworkSpec, side: int) -> NDArray[np.float32]:
    """Real ones: to a network of drawn weights all white noise looks alike."""
    wanted = spec.preprocessing
    info = PreprocessingInfo(side, (side, side), wanted.mean, wanted.std)
    return preprocess(bundled_subset().images[: sum(BATCHES)], info)


def assert_same_outputs(graph: bytes, network: nn.Module, inputs: NDArray[np.float32]) -> None:
    """Batch by batch the graph computes what torch does in float64."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    parts = np.split(inputs, np.cumsum(BATCHES)[:-1])
    got = np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: part})[0] for part in parts])
    with torch.no_grad():
        single = network(torch.from_numpy(inputs)).numpy().astype(np.float64)
        # A copy: the captured graph reads the parameters of ``network`` where they are.
        exact = copy.deepcopy(network).double()(torch.from_numpy(inputs).double()).numpy()
    assert got.shape == exact.shape
    span = output_range(exact)
    # Deep plain networks of drawn weights amplify rounding beyond any bound, torch's too.
    torchs = np.abs(single - exact).max()
    assert torchs < 0.02 * span
    assert np.abs(got - exact).max() <= max(PARITY_BOUND * span, 4 * torchs)


def assert_builds(graph: bytes, precision: str, counted: list[int]) -> None:
    built = build(graph, counted)
    assert built.receipt.shares == {precision: 1.0}


def build(graph: bytes, counted: list[int]) -> BuiltEngine:
    """The engine, which computes as many products in as many layers as the graph states."""
    built = build_engine(graph, EngineOptions(edition="tensorrt-rtx"))
    assert len(built.content) > 0
    assert sum(built.receipt.layers.values()) == len(counted)
    assert sum(built.receipt.multiply_adds.values()) == sum(counted)
    return built


def assert_builds_int8(graph: bytes, counted: list[int]) -> None:
    """The builder takes each weighted layer as int8 that was quantized; its ranges are made up."""
    model = ir.from_proto(onnx.load_model_from_string(graph))
    names = {v.name or "" for node in model.graph for v in (*node.inputs, *node.outputs) if v}
    ranges = Ranges({name: Range(-4.0, 4.0) for name in names}, "min-max", 1, "made up")
    done = quantize(graph, ranges, target="tensorrt")
    weighted = {node.name for node in model.graph if node.op_type in WEIGHTED}
    layers = len(weighted.intersection(done.report.quantized))
    assert build(done.graph, counted).receipt.layers["int8"] == layers > 0
