"""From what was asked for to its source."""

from pathlib import Path

from repr_export.options import ExportOptions
from repr_export.source import Source
from repr_export.sources.onnx import OnnxSource
from repr_export.sources.target import is_graph, require_target
from repr_export.sources.torch import from_factory, from_registry
from repr_models.registry import resolve
from repr_models.weights.download import Progress


def open_source(target: str, options: ExportOptions, download: Progress | None = None) -> Source:
    """The network that ``target`` names: a registered name, ``module:factory`` or ``FILE.onnx``.

    ``download`` is told of a published checkpoint that is fetched.
    Raises :class:`TargetError`, :class:`OptionError`, or ``repr_models.errors.ModelsError``
    for weights that are missing or do not fit.
    """
    require_target(target)
    if is_graph(target):
        return OnnxSource(Path(target), options)
    if ":" in target:
        return from_factory(target, options)
    return from_registry(target, resolve(target), options, download)
