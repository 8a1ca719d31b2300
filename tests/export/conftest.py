"""Small ONNX graphs for the tests: written as text, run by ONNX Runtime without its own fusions."""

import copy
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

Arrays = Mapping[str, np.ndarray]


class Graphs:
    """Parse, run and compare graphs."""

    @staticmethod
    def parse(text: str, *, opset: int = 20, ir_version: int = 10, **weights: Any) -> ir.Model:
        """The graph ``text`` (ONNX's own syntax) with ``weights`` as initializers by name.

        Functions of the model may follow the graph. ``BN(x)`` stands for a BatchNormalization
        of ``x`` with the parameters of :meth:`batchnorm`, ``BNs_(x)`` with those of prefix s_.
        """
        parameters = r"BatchNormalization\2(\3, \1scale, \1shift, \1mean, \1var)"
        text = re.sub(r"\bBN(\w*)((?:<[^>]*>)?)\((\w+)\)", parameters, text)
        text = re.sub(r"\bBN\b", "BatchNormalization", text)
        header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "local": 1]>'
        proto = onnx.parser.parse_model(f"{header} {text}")
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return ir.from_proto(proto)

    @classmethod
    def content(cls, text: str, **weights: Any) -> bytes:
        """What :meth:`parse` makes, as a file."""
        return ir.to_proto(cls.parse(text, **weights)).SerializeToString()

    @classmethod
    def using(cls, weights: Arrays, text: str, **options: Any) -> ir.Model:
        """The graph ``text`` with those of ``weights`` that it names, also by ``BN``."""
        prefixes = {match[1] for match in re.finditer(r"\bBN(\w*)(?:<[^>]*>)?\(\w+\)", text)}
        names = {p + name for p in prefixes for name in ("scale", "shift", "mean", "var")}
        names |= set(re.findall(r"\w+", text))
        return cls.parse(text, **options, **{k: weights[k] for k in weights if k in names})

    @staticmethod
    def batchnorm(
        channels: int, *, seed: int = 0, prefix: str = "", dtype: Any = np.float32
    ) -> dict[str, np.ndarray]:
        """Parameters ``scale``, ``shift``, ``mean`` and ``var`` of a BatchNorm far from identity."""
        rng = np.random.default_rng(seed + 1000)
        drawn = {
            "scale": rng.uniform(0.3, 2.0, channels) * rng.choice([-1, 1], channels),
            "shift": rng.normal(size=channels),
            "mean": rng.normal(size=channels),
            "var": rng.uniform(0.2, 3.0, channels),
        }
        return {prefix + name: array.astype(dtype) for name, array in drawn.items()}

    @staticmethod
    def draw(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
        """Standard normal values."""
        return np.random.default_rng(seed).normal(size=shape).astype(dtype)

    @staticmethod
    def feeds(model: ir.Model, batch: int = 3, seed: int = 7) -> dict[str, np.ndarray]:
        """Random values for each input without a default; every dynamic dimension is ``batch``."""
        rng = np.random.default_rng(seed)
        feeds = {}
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            assert value.shape is not None
            assert value.dtype is not None
            assert value.name
            shape = [dim if isinstance(dim, int) else batch for dim in value.shape]
            feeds[value.name] = rng.normal(size=shape).astype(value.dtype.numpy())
        return feeds

    @staticmethod
    def run(model: ir.Model | onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
        """All outputs, computed node by node, no graph optimization of ONNX Runtime's own."""
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, dict(feeds))

    @classmethod
    def assert_preserves(
        cls,
        rewrite: Callable[[ir.Model], Any],
        model: ir.Model,
        *,
        batches: tuple[int, ...] = (1, 7),
        tolerance: float = 1e-5,
    ) -> Any:
        """Apply ``rewrite`` to ``model``; it must stay valid and compute the same outputs.

        ``tolerance`` is relative to each output's range. Returns what ``rewrite`` returned.
        """
        before = copy.deepcopy(ir.to_proto(model))
        result = rewrite(model)
        after = ir.to_proto(model)
        onnx.checker.check_model(after, full_check=True)
        assert [i.name for i in after.graph.output] == [i.name for i in before.graph.output]
        for batch in batches:
            feeds = cls.feeds(model, batch)
            for expected, got in zip(cls.run(before, feeds), cls.run(after, feeds), strict=True):
                assert got.shape == expected.shape
                assert got.dtype == expected.dtype
                span = max(float(np.ptp(expected.astype(np.float64))), 1e-3)
                difference = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max()
                assert difference <= tolerance * span
        return result

    @staticmethod
    def ops(model: ir.Model) -> list[str]:
        """The operators of the main graph, in order."""
        return [node.op_type for node in model.graph]

    @staticmethod
    def capture(name: str, size: int | None = None) -> ir.Model:
        """A copy of :func:`captured`, for a test to rewrite."""
        return captured(name, size).clone()


@functools.cache
def captured(name: str, size: int | None) -> ir.Model:
    """The registered network ``name``, randomised, captured from torch without optimization."""
    from repr_export.sources.calling import call_on
    from repr_export.sources.capture import capture
    from repr_models.registry import resolve
    from repr_models.weights.randomize import randomize

    spec = resolve(name)
    channels, height, width = spec.input_shape
    shape = (channels, size or height, size or width)
    network = spec.build().eval()
    randomize(network, name, shape)
    return capture(call_on(network, shape), batch=None, opset=20)


@pytest.fixture(scope="session")
def graphs() -> type[Graphs]:
    """The helpers of :class:`Graphs`."""
    return Graphs


@pytest.fixture
def halve(graphs: type[Graphs]) -> Callable[..., Any]:
    """:func:`half_graphs.halved` of these graphs."""
    from half_graphs import halved

    return functools.partial(halved, graphs)
