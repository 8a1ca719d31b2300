"""The engines of an artifact: one for each precision, each with what it was built from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repr_export.errors import EngineBuildError, OptionError, PrecisionError
from repr_export.layout import Layout
from repr_export.precision.receipt import MINIMUM_SHARE
from repr_export.tensorrt.build import BuiltEngine, build_engine
from repr_export.tensorrt.builder_library import open_library
from repr_export.tensorrt.options import EngineOptions
from repr_export.tensorrt.receipt import inspect_engine
from repr_runtime.artifact.manifest import EngineInfo, TensorSpec
from repr_runtime.cuda.driver import cuda_status


@dataclass(frozen=True)
class ArtifactEngine:
    """A serialized engine, its entry in the manifest and its receipt."""

    info: EngineInfo
    content: bytes
    receipt: dict[str, Any]


def build_engines(
    graphs: Mapping[str, bytes],
    options: EngineOptions,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Callable[[str], None],
) -> list[ArtifactEngine]:
    """Build an engine of each graph, by precision, for inputs of ``shapes`` as :func:`engine_shapes` has them.

    Raises what :func:`repr_export.tensorrt.build.build_engine` raises, and :class:`PrecisionError` for
    an engine that did not come out in its precision.
    """
    engines = []
    for precision, graph in graphs.items():

        def tell(phase: str, done: int, total: int, precision: str = precision) -> None:
            progress(f"building the {precision} engine: {phase}, {done} of {total}")

        progress(f"building the {precision} engine")
        built = build_engine(graph, options, shapes=shapes, precision=precision, progress=tell)
        share = built.receipt.shares.get(precision, 0.0)
        summary = ", ".join(f"{part:.1%} {name}" for name, part in built.receipt.shares.items())
        least = 0.0 if precision == "int8" else MINIMUM_SHARE
        if built.receipt.shares and share <= least:
            raise PrecisionError(
                f"the {precision} engine did not come out in {precision}: its layers are {summary}"
            )
        engines.append(
            ArtifactEngine(
                built.info,
                built.content,
                {
                    "summary": f"{summary or 'no layers that multiply'}, built in {built.seconds:.1f} s",
                    "notes": list(built.notes),
                    **built.receipt.as_dict(),
                    "inspected": _inspected(built),
                },
            )
        )
    return engines


def engine_shapes(
    specs: Sequence[TensorSpec], layout: Layout, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shape of each input of an engine by name, -1 for a batch that the graph leaves free.

    ``shapes`` are those of one sample. Raises :class:`OptionError` for a free batch that is
    not the first axis, where an engine has none.
    """
    whole = layout.run_shapes(shapes)
    for spec in specs:
        axis = layout.axes.get(spec.name, 0)
        if axis is None or not isinstance(spec.shape[axis], str):
            continue
        if axis > 0:
            raise OptionError(
                f"the input {spec} has its batch at axis {axis}, an engine first; fix it by --batch N, "
                f"or leave --engine out"
            )
        whole[spec.name] = (-1, *whole[spec.name][1:])
    return whole


def _inspected(built: BuiltEngine) -> dict[str, Any] | str:
    """The receipt read back from the engine itself, or why it cannot be read here."""
    status = cuda_status()
    if not status.devices:
        return f"not here: {status.reason}"
    if built.info.options["strip_weights"]:
        return "not here: the engine has no weights until it is refitted"
    try:
        return inspect_engine(open_library(built.info.flavour), built.content).as_dict()
    except EngineBuildError as error:  # built for another GPU than this machine's
        return f"not here: {error}"
