"""The library, what it can compute on this CPU, and a graph compiled: kept, and in the precision asked for."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.compiled_cache import prune, read_cache, write_cache
from repr_runtime.backends.openvino.checks import (
    ShapeCheck,
    free_beyond_batch,
    require_computable,
    words_of,
)
from repr_runtime.backends.openvino.group_norm import AVERAGE, keep_layout
from repr_runtime.backends.openvino.unsigned import make_unsigned
from repr_runtime.files import cache_folder
from repr_runtime.machine import cpu_flags, cpu_has_vnni, cpu_name

_LAYERS = frozenset(
    {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell"}
)
"""Its names for what has weights: the precision of a graph is theirs."""

_COMPUTED = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"i8", "u8"}}
_RULES = 3
"""Of what is refused and rewritten: what was compiled under others is none."""
_HOW = "pip install 'repr-deploy[openvino]'"


def library() -> Any:
    """The module ``openvino``, imported without what tells its maker of each graph that it reads.

    That one forks the process to do so. A program that imports OpenVINO by itself, and first, has
    it as it comes. Raises :class:`BackendError`.
    """
    silenced = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if silenced:
        modules: dict[str, Any] = sys.modules
        modules["openvino_telemetry"] = None  # as if it were not installed
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise errors.BackendError(f"OpenVINO cannot be imported ({error}); {_HOW}") from error
    finally:
        if silenced:
            del sys.modules["openvino_telemetry"]


def version() -> str:
    """OpenVINO's version, without that of its sources."""
    return str(library().__version__).split("-")[0]


def why_not(precision: str) -> str | None:
    """Why OpenVINO cannot compute in ``precision`` here; None if it can, it seems."""
    if importlib.util.find_spec("openvino") is None:
        return f"openvino is not installed: {_HOW}"
    if precision not in _COMPUTED:
        return f"OpenVINO would only emulate {precision} on a CPU"
    try:
        abilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # whatever its shared objects raise
        return f"OpenVINO has no device CPU here: {errors.words_of(error)}"
    if precision == "bf16" and "BF16" not in abilities:
        return f"{cpu_name()} has neither AVX512-BF16 nor AMX, and bf16 would only be emulated"
    if precision == "int8" and not cpu_has_vnni():
        return f"{cpu_name()} has no VNNI, without which sums of 8-bit products overflow"
    return None


@cache
def core() -> Any:
    return library().Core()


@dataclass
class Compiler:
    """Compiles a graph, as it is or for one batch size, each once; what was compiled is kept on disk."""

    graph: bytes
    sha256: str
    options: Mapping[str, Any]
    batch: int | None
    listed: Sequence[TensorSpec]
    _made: dict[int | None, Any] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def compiled(self, size: int | None) -> Any:
        """The ``CompiledModel`` for batches of ``size`` alone, or (None) for all.

        Raises :class:`ModelLoadError`.
        """
        with self._making:
            if size not in self._made:
                self._made[size] = self._open(size)
            return self._made[size]

    @cached_property
    def shapes(self) -> ShapeCheck | None:
        """What each new shape of the inputs is held against; None where the batch alone is free."""
        free = free_beyond_batch(self.listed, self.compiled(self.batch).inputs)
        return ShapeCheck(core().read_model(self.graph)) if free else None

    def _open(self, size: int | None) -> Any:
        config = dict(self.options)
        path = self._cached(size)
        kept = read_cache(path, self.sha256) if path is not None else None
        if kept is not None:
            with contextlib.suppress(Exception):  # it will not have it: compiled anew
                return core().import_model(kept, "CPU", config)
        try:
            model = core().read_model(self.graph)
            any_batch = not free_beyond_batch(self.listed, model.inputs)
            require_computable(model, any_batch=any_batch)
            make_unsigned(model)
            keep_layout(model)
            if size is not None:
                model.reshape({port: [size, *port.partial_shape[1:]] for port in model.inputs})
            made = core().compile_model(model, "CPU", config)
        except errors.ReproError:
            raise
        except Exception as error:  # its exceptions share no base but this
            raise errors.ModelLoadError(
                f"OpenVINO {version()} refuses the graph: {words_of(error)}; use device='cpu'"
            ) from error
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                content = io.BytesIO()
                made.export_model(content)
                if write_cache(path, self.sha256, content.getbuffer()):
                    prune(path.parent)
        return made

    def _cached(self, size: int | None) -> Path | None:
        """Where it is kept: for this graph, version, CPU, and these options."""
        words = [
            _RULES,
            self.sha256,
            version(),
            cpu_name(),
            *sorted(cpu_flags()),
            self.options,
            size,
        ]
        name = hashlib.sha256(repr(words).encode()).hexdigest()[:32]
        with contextlib.suppress(OSError):
            return cache_folder() / "openvino" / f"{name}.blob"
        return None


def require_precision(precision: str, compiled: Any) -> str:
    """How many layers are computed in ``precision``, as the compiled graph itself says.

    A graph of lower precision may keep some in float32; of a network without layers nothing can
    be said. Raises :class:`ModelLoadError` if it is another precision's.
    """
    layers = _layers(compiled)
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    wanted = _COMPUTED[precision]
    count = sum(layers[name] for name in wanted)
    if hint != "f32" or (layers and not count) or (precision == "fp32" and count < layers.total()):
        kinds = ", ".join(f"{number} in {name}" for name, number in layers.items())
        raise errors.ModelLoadError(
            f"OpenVINO {version()} computes the {precision} graph in other precisions (layers: {kinds}; "
            f"all else in {hint}); use device='cpu'"
        )
    return f"{count} of {layers.total()} layers in {precision}"


def _layers(compiled: Any) -> Counter[str]:
    """How many layers with weights of the network are computed in which of its types."""
    found: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        info, own = op.get_rt_info(), op.get_friendly_name().startswith(AVERAGE)
        if info["layerType"].astype(str) in _LAYERS and not own:
            found[info["runtimePrecision"].astype(str)] += 1
    return found
