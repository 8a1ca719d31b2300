"""ONNX bytes become a serialized engine, by TensorRT or by TensorRT-RTX."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from repr_export.errors import EngineBuildError, OptionError, first_line
from repr_export.graph.values import graph_nodes, picks_channels
from repr_export.tensorrt.builder_library import BuilderLibrary, listen_alone, open_library
from repr_export.tensorrt.diagnostics import build_failure, plain
from repr_export.tensorrt.graph_checks import read_graph, require_accepted, require_types
from repr_export.tensorrt.monitor import BuildMonitor, Progress
from repr_export.tensorrt.options import DEFAULT_PROFILE, EngineOptions, shown
from repr_export.tensorrt.receipt import EngineReceipt, network_receipt, shape_of
from repr_runtime.artifact.manifest import EngineInfo, ProfileInfo
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import UnsupportedGpuError
from repr_runtime.files import replace_file

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and where it comes from.

    ``info`` is its entry in the manifest, for a file called after its precision and edition;
    with the option ``later_compute_capabilities`` it runs on later GPUs than those it was built
    for as well. ``receipt`` says in which types it computes, ``notes`` what a person should
    know, ``seconds`` how long building took.
    """

    content: bytes
    info: EngineInfo
    receipt: EngineReceipt
    notes: tuple[str, ...]
    seconds: float


def require_buildable(options: EngineOptions) -> None:
    """Raise what :func:`build_engine` raises for options that no library here builds with."""
    library = open_library(options.edition)
    _usable_cache(library, options)
    _targets(library, options)


def build_engine(
    graph: bytes,
    options: EngineOptions | None = None,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine from the ONNX bytes ``graph``, weights inside, types as it has them.

    ``shapes`` are the whole shapes of inputs by name, -1 for a free batch: the engine takes no
    others, where the graph leaves more than its batch free.
    ``precision`` is what the manifest is to say of those types.
    ``progress`` gets a phase's name, its steps done and all its steps, from TensorRT's own
    progress monitor. Ctrl-C, and whatever ``progress`` raises, ends the build and is raised
    when the builder has stopped. Builds of one process run one after the other.

    Raises :class:`ParserError` for a graph that TensorRT refuses, with each node and the way
    out, :class:`GraphError` for bytes that are no ONNX graph of its own,
    :class:`OptionError` for options that do not fit the graph or the library,
    :class:`EngineBuildError` for a failed build, and ``repr_runtime.errors.MissingExtraError``
    if the library is not installed.
    """
    options = options or EngineOptions()
    model = read_graph(graph)
    library = open_library(options.edition)
    notes = _first_notes(library, options)
    cache = _usable_cache(library, options)
    targets = _targets(library, options)
    monitor = BuildMonitor(progress)
    reporter = monitor.implement(library)  # must outlive the builder
    started = time.perf_counter()
    with listen_alone(library) as (logger, messages), monitor.stopping():
        try:
            builder: trt.Builder = library.trt.Builder(logger)
            network = builder.create_network(library.strongly_typed())
            parser: trt.OnnxParser = library.trt.OnnxParser(network, logger)
            accepted = parser.parse(graph)
            require_accepted(library, accepted, parser, model, messages)
            require_types(library, network, model)
            _fix_shapes(library, network, shapes or {})
            config = builder.create_builder_config()
            config.progress_monitor = reporter
            profiles = _add_profiles(library, builder, config, network, options.profiles)
            _set_options(library, config, options)
            for index, target in enumerate(targets):
                _set_target(config, target, index, len(targets))
            if cache is not None:
                _load_cache(config, cache, notes)
            receipt = network_receipt(library, network, _picking(model))
            serialized = builder.build_serialized_network(network, config)
        except (RuntimeError, TypeError, MemoryError) as error:  # what the bindings raise
            raise EngineBuildError(
                f"{library.title} failed: {build_failure([*messages.errors, first_line(error)])}"
            ) from error
        if serialized is None:
            raise EngineBuildError(
                f"{library.title} could not build the engine: {build_failure(messages.errors)}"
            )
        content = bytes(serialized)
        if cache is not None:
            replace_file(cache, bytes(config.get_timing_cache().serialize()))
    info = EngineInfo(
        path=f"engines/{precision}.{library.edition.name}.engine",
        precision=precision,
        flavour=library.edition.name,
        version=library.version,
        platform=f"{sys.platform}-{platform.machine().lower()}",
        compute_capabilities=_built_for(library, options),
        profiles=profiles,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        options=_recorded(library, options),
    )
    notes += map(plain, messages.warnings)
    return BuiltEngine(content, info, receipt, tuple(notes), time.perf_counter() - started)


def _fix_shapes(
    library: BuilderLibrary,
    network: trt.INetworkDefinition,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Give the network's inputs ``shapes``: an engine may leave its batch free, and nothing else."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        wanted = shapes.get(tensor.name)
        if wanted is not None and wanted != shape_of(tensor):
            tensor.shape = library.trt.Dims(wanted)


def _add_profiles(
    library: BuilderLibrary,
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    asked: tuple[ProfileInfo, ...],
) -> tuple[ProfileInfo, ...]:
    """Tell the builder the batch sizes; returns those that the engine will take."""
    free: dict[str, tuple[int, ...]] = {}
    batch = 1
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = shape_of(tensor)
        for axis, size in enumerate(shape):
            if size < 0 and axis > 0:
                raise OptionError(
                    f"dimension {axis} of the graph's input {tensor.name!r} is free, and an engine "
                    f"is built for free batch sizes alone; export the graph with --input"
                )
        if shape and shape[0] < 0:
            free[tensor.name] = shape[1:]
        elif shape and index == 0:
            batch = shape[0]
    if not free:
        only = ProfileInfo(batch, batch, batch)
        if asked not in ((), (only,)):
            raise OptionError(
                f"--shapes {shown(*asked)} does not go with a graph whose batch size is fixed at "
                f"{batch}; leave it out, or export the graph with a free batch size"
            )
        return (only,)
    profiles = asked or (DEFAULT_PROFILE,)
    for sizes in profiles:
        profile: trt.IOptimizationProfile = builder.create_optimization_profile()
        for name, rest in free.items():
            shapes = [(size, *rest) for size in (sizes.min, sizes.opt, sizes.max)]
            profile.set_shape(name, *map(library.trt.Dims, shapes))
        if config.add_optimization_profile(profile) < 0:
            raise OptionError(f"TensorRT refuses --shapes {shown(sizes)}; give smaller sizes")
    return profiles


def _set_options(
    library: BuilderLibrary, config: trt.IBuilderConfig, options: EngineOptions
) -> None:
    flag = library.builder_flag
    if options.tf32:
        config.set_flag(flag("TF32", "--tf32"))
    elif hasattr(library.trt.BuilderFlag, "TF32"):
        config.clear_flag(library.trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(flag("VERSION_COMPATIBLE", "--version-compatible"))
    if options.strip_weights:
        config.set_flag(flag("STRIP_PLAN", "--strip-weights"))
        # The weights that come back are the same: REFIT would plan for any, and may lose a bias.
        config.set_flag(flag("REFIT_IDENTICAL", "--strip-weights"))
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if hasattr(library.trt, "ProfilingVerbosity"):  # else no inspector could say the types
        config.profiling_verbosity = library.trt.ProfilingVerbosity.DETAILED


def _targets(library: BuilderLibrary, options: EngineOptions) -> tuple[Any, ...]:
    """The library's own values for the compute capabilities asked for."""
    asked = options.compute_capabilities
    if not asked:
        return ()
    known = library.targets
    if not known:
        raise OptionError(
            f"{library.title} builds for the GPU of this machine alone; leave out "
            f"--compute-capability, or use --engine tensorrt-rtx"
        )
    if asked == ("current",):
        status, otherwise = cuda_status(), "name the values, such as 8.6,8.9, or leave it out"
        if not status.devices:
            raise OptionError(
                f"--compute-capability current needs a GPU: {status.reason}; {otherwise}"
            )
        try:
            library.require_gpu(status.gpus[0])
        except UnsupportedGpuError as error:
            raise OptionError(
                f"--compute-capability current: {error}; for other GPUs, {otherwise}"
            ) from error
        return (library.trt.ComputeCapability.CURRENT,)
    if unknown := [target for target in asked if target not in known]:
        raise OptionError(
            f"{library.title} does not build for compute capability {', '.join(unknown)}, but for "
            f"{', '.join(known)}"
        )
    return tuple(known[target] for target in asked)


def _set_target(config: Any, target: Any, index: int, count: int) -> None:
    if index == 0:
        config.num_compute_capabilities = count
    if not config.set_compute_capability(target, index):
        raise OptionError(f"TensorRT refuses --compute-capability {target.name} here; leave it out")


def _built_for(library: BuilderLibrary, options: EngineOptions) -> tuple[str, ...]:
    chosen = options.compute_capabilities or library.edition.default_targets
    if not chosen or chosen == ("current",):
        return (cuda_status().gpus[0].compute_capability,)
    return chosen


def _recorded(library: BuilderLibrary, options: EngineOptions) -> dict[str, Any]:
    """What of the options shapes the engine, for the manifest."""
    return {
        "opt_level": None if library.edition.just_in_time else options.opt_level,
        "tf32": options.tf32,
        "version_compatible": options.version_compatible,
        "strip_weights": options.strip_weights,
        "refit_before_use": options.strip_weights,
        "later_compute_capabilities": bool(library.edition.default_targets)
        and not options.compute_capabilities,
    }


def _picking(model: onnx.ModelProto) -> frozenset[str]:
    """The names of the convolutions that only pick channels, which TensorRT's layers have, too."""
    found = filter(picks_channels, graph_nodes(ir.from_proto(model)))
    return frozenset(node.name for node in found if node.name)


def _first_notes(library: BuilderLibrary, options: EngineOptions) -> list[str]:
    """Which library it is if ``auto`` chose, and which options it takes for nothing."""
    title, notes = library.edition.title, [library.choice] if library.choice else []
    if options.opt_level is not None and library.edition.just_in_time:
        notes.append(f"{title} takes --opt-level and builds the same at each")
    if options.timing_cache is not None and library.edition.just_in_time:
        notes.append(
            f"{title} times nothing while building: {options.timing_cache} was neither read nor "
            f"written"
        )
    return notes


def _usable_cache(library: BuilderLibrary, options: EngineOptions) -> Path | None:
    """The timing cache's file, if this library keeps one and it can be written."""
    path = options.timing_cache
    if path is None or library.edition.just_in_time:
        return None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise OptionError(
            f"--timing-cache {path} cannot be written; name a file in a folder of yours"
        )
    return path


def _load_cache(config: trt.IBuilderConfig, path: Path, notes: list[str]) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise OptionError(
            f"--timing-cache {path} cannot be read ({error}); name another"
        ) from error
    cache = None
    with contextlib.suppress(RuntimeError, TypeError):  # some versions raise, some return None
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return
    notes.append(
        f"the timing cache {path} is damaged, or of another GPU or version; it was begun anew"
    )
    config.set_timing_cache(config.create_timing_cache(b""), False)
