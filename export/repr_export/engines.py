"""The engines of an artifact: one for each precision, each with what it was built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from repr_export.engine import build_engine
from repr_export.engine_options import EngineOptions
from repr_export.errors import PrecisionError
from repr_export.precision.receipt import MINIMUM_SHARE
from repr_runtime.manifest import EngineInfo


@dataclass(frozen=True)
class ArtifactEngine:
    """A serialized engine, its entry in the manifest and its receipt."""

    info: EngineInfo
    content: bytes
    receipt: dict[str, Any]


def build_engines(
    graphs: Mapping[str, bytes], options: EngineOptions, progress: Callable[[str], None]
) -> list[ArtifactEngine]:
    """Build an engine of each graph, by precision.

    Raises what :func:`repr_export.engine.build_engine` raises, and :class:`PrecisionError` for
    an engine that did not come out in its precision.
    """
    engines = []
    for precision, graph in graphs.items():

        def tell(phase: str, done: int, total: int, precision: str = precision) -> None:
            progress(f"building the {precision} engine: {phase}, {done} of {total}")

        progress(f"building the {precision} engine")
        built = build_engine(graph, options, progress=tell)
        share = built.receipt.shares.get(precision, 0.0)
        least = 0.0 if precision == "int8" else MINIMUM_SHARE
        if built.receipt.shares and share <= least:
            got = ", ".join(f"{part:.1%} {name}" for name, part in built.receipt.shares.items())
            raise PrecisionError(
                f"the {precision} engine did not come out in {precision}: its layers are {got}"
            )
        path = f"engines/{precision}.{built.flavour}.engine"
        summary = ", ".join(f"{part:.1%} {name}" for name, part in built.receipt.shares.items())
        engines.append(
            ArtifactEngine(
                built.to_engine_info(path, precision),
                built.content,
                {
                    "summary": f"{summary or 'no layers that multiply'}, built in {built.seconds:.1f} s",
                    "notes": list(built.notes),
                    **built.receipt.as_dict(),
                },
            )
        )
    return engines
