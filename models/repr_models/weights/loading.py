"""Where a network's parameters come from: the package, a publisher, a file, or a draw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_models.errors import WeightsError
from repr_models.weights.bundled import REINSTALL, bundled_path, bundled_record, is_bundled
from repr_models.weights.checkpoint import load_content, read_file
from repr_models.weights.randomize import randomize

_RECORD_BYTES = 2**22
"""Of a record beside a checkpoint, at most; those of long trainings have some hundred thousand."""

if TYPE_CHECKING:
    from torch import nn

    from repr_models.spec import NetworkSpec, Published
    from repr_models.weights.download import Progress

RANDOM = "random"


@dataclass(frozen=True)
class WeightsSource:
    """Which parameters a network got: ``kind`` is ``bundled``, ``published``, ``file`` or ``random``.

    ``location`` is the file's name, its address (published ones) or the seed, ``sha256`` that
    of the file (None for random ones), ``record`` what training wrote of it (empty where there
    is none; ``accuracy`` and ``data`` alone, where others' training left its top-1 in the file);
    of published ones, ``source`` and ``published_top1`` (0 to 1), as stated by others.
    ``rewritten`` are sentences on what was changed in it for the network.
    """

    kind: str
    location: str
    sha256: str | None
    record: Mapping[str, Any]
    rewritten: tuple[str, ...] = ()


def load_weights(
    network: nn.Module,
    weights: str | Path | None,
    spec: NetworkSpec,
    *,
    progress: Progress | None = None,
) -> WeightsSource:
    """Load parameters into ``network`` in place and say where they came from.

    ``weights`` is None (the bundled ones, else the published ones, from the cache or
    downloaded into it, of which ``progress`` is told), ``"random"`` (drawn from a seed made of
    the network's name: for latency, not for accuracy) or a file's path.
    Raises :class:`WeightsError` if there are none, or they do not fit.
    """
    if weights == RANDOM:
        seed = randomize(network, spec.name, spec.input_shape)
        return WeightsSource("random", f"seed {seed}", None, {})
    if weights is not None:
        return load_checkpoint(network, Path(weights), spec)
    if is_bundled(spec):
        return _load_bundled(network, spec)
    if spec.published is not None:
        return _load_published(network, spec, spec.published, progress)
    raise WeightsError(
        f"no trained weights of {spec.name} ship with the package; give a checkpoint with "
        f"--weights FILE, or --weights random for latency alone"
    )


def _load_bundled(network: nn.Module, spec: NetworkSpec) -> WeightsSource:
    path, record = bundled_path(spec), bundled_record(spec)
    content = read_file(path)
    digest = hashlib.sha256(content).hexdigest()
    if record.get("weights_sha256") != digest:
        raise WeightsError(
            f"{path} is not the file that its record describes (SHA-256 {digest}, "
            f"expected {record.get('weights_sha256')}); {REINSTALL}"
        )
    load_content(network, content, path, spec)
    return WeightsSource("bundled", path.name, digest, record)


def _load_published(
    network: nn.Module, spec: NetworkSpec, published: Published, progress: Progress | None
) -> WeightsSource:
    from repr_models.weights.download import fetch

    path = fetch(published, progress)
    content = read_file(path)
    loaded = load_content(network, content, path, spec, published.renames)
    record = {"source": published.source, "published_top1": published.top1}
    digest = hashlib.sha256(content).hexdigest()
    notes = loaded.rewritten
    if len(published.sha256) < 64:
        said = f"its publisher states {len(published.sha256)} of 64 digits of its SHA-256"
        notes = (*notes, f"{said}, and it was trusted when it came first: {digest}")
    return WeightsSource("published", published.url, digest, record, notes)


def load_checkpoint(
    network: nn.Module, path: str | Path, spec: NetworkSpec | None = None
) -> WeightsSource:
    """Load a ``.safetensors`` file or a ``torch.save`` file into ``network``, strictly, in place.

    Understands a state dict nested under ``state_dict``, ``model`` and the like, the
    prefixes ``module.`` of DataParallel and ``_orig_mod.`` of torch.compile, a last layer called
    ``fc``, ``linear``, ``head`` or ``classifier``, and the files of
    :mod:`repr_models.weights.codec`. The record that ``repr-train`` wrote beside the file is
    its record. With ``spec``, the names of its published checkpoint are
    understood, and what serves training alone may be missing. Code in a pickle is refused, not
    run. Raises :class:`WeightsError`, which lists missing and unexpected keys and differing
    shapes, and then leaves ``network`` as it was.
    """
    path = Path(path)
    content = read_file(path)
    renames = spec.published.renames if spec is not None and spec.published is not None else ()
    loaded = load_content(network, content, path, spec, renames)
    digest = hashlib.sha256(content).hexdigest()
    record = _record_beside(path, digest)
    if not record and loaded.top1 is not None:
        where = {"description": "the test set of whoever trained it, as the file states"}
        record = {"accuracy": {"test_top1": loaded.top1}, "data": {"test": where}}
    return WeightsSource("file", path.name, digest, record, loaded.rewritten)


def _record_beside(path: Path, digest: str) -> dict[str, Any]:
    """The record that ``repr-train`` wrote of the file ``path``; empty if there is none of it."""
    try:
        beside = path.with_suffix(".json")
        if not beside.is_file() or beside.stat().st_size > _RECORD_BYTES:
            return {}
        record: dict[str, Any] = json.loads(beside.read_text("utf-8"))
        json.dumps(record, allow_nan=False, ensure_ascii=False).encode()  # as a manifest has it
        of_this = record["weights_sha256"] == digest
        (record["accuracy"]["test_top1"] + 0, record["data"]["test"]["description"] + "")
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return record if of_this else {}
