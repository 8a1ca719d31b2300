"""The manifest out of its JSON; every mistake is named by its place."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from repr_runtime.artifact import bounds
from repr_runtime.artifact.manifest import (
    DTYPES,
    MANIFEST_NAME,
    SCHEMA,
    SEAL,
    UNSEALED,
    FileEntry,
    Manifest,
    PreprocessingInfo,
)
from repr_runtime.decoding import DecodingError, decode, read_json
from repr_runtime.errors import ManifestError, SchemaVersionError

_SCHEMA = re.compile(rb'\{\s*(?:"sha256":\s*"[^"]{0,200}",\s*)?"schema":\s*(\d{1,9})\b')


def parse_manifest(content: bytes, place: str = MANIFEST_NAME) -> Manifest:
    """The manifest in ``content``, checked in every field; ``place`` names it in errors.

    Raises :class:`SchemaVersionError` if a newer version wrote it and
    :class:`ManifestError` if it is damaged, altered or incomplete.
    """
    again = "copy the artifact again, or export it again"
    head = _SCHEMA.match(content)
    if head is not None and int(head.group(1)) > SCHEMA:  # which may be sealed otherwise
        raise SchemaVersionError(
            f"{place} has schema version {int(head.group(1))}, and this repr-deploy reads up to "
            f"{SCHEMA}; update it: pip install -U repr-deploy"
        )
    try:
        _check_seal(content)
        data = read_json(content)
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA or isinstance(schema, bool):
            raise DecodingError(f"its schema version is {schema!r:.60}")
        manifest: Manifest = decode(Manifest, data, "the manifest", lenient=True)
        _check(manifest)
    except DecodingError as error:
        raise ManifestError(f"{place}: {error}; {again}") from error
    return manifest


def _check_seal(content: bytes) -> None:
    """Before a byte of it is parsed, which takes many times its size; raises :class:`DecodingError`."""
    values = sum(map(content.count, (b",", b"[", b"{")))  # or a few more, in its text
    if len(content) > bounds.MANIFEST_BYTES or values > bounds.MANIFEST_VALUES:
        raise DecodingError(
            f"{len(content):,} bytes with {values:,} values are more than a manifest has, "
            f"{bounds.MANIFEST_BYTES:,} and {bounds.MANIFEST_VALUES:,}"
        )
    seal = SEAL.match(content)
    if seal is None:
        raise DecodingError("it does not open with its SHA-256")
    digest = hashlib.sha256(content[: seal.start(1)] + UNSEALED)
    digest.update(memoryview(content)[seal.end(1) :])
    said = seal.group(1).decode()
    if digest.hexdigest() != said:
        raise DecodingError(
            f"it was altered: its SHA-256 is {digest.hexdigest()}, and it says {said}"
        )


def _check(manifest: Manifest) -> None:
    """What the types do not say; raises :class:`DecodingError`."""
    place = "the manifest.network"
    _check_names(place, vars(manifest.network))
    _check_counts(place, manifest.network, "parameters", "multiply_adds")
    for name, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if not specs:
            raise DecodingError(f"the manifest.{name} is empty")
        for index, spec in enumerate(specs):
            place = f"the manifest.{name}[{index}]"
            _check_names(place, {"name": spec.name, **dict(enumerate(spec.shape))})
            if spec.dtype not in DTYPES:
                known = ", ".join(sorted(DTYPES))
                raise DecodingError(f"{place}.dtype {spec.dtype!r:.60} is not one of {known}")
            if not all(isinstance(d, str) or 0 <= d <= bounds.COUNT for d in spec.shape):
                raise DecodingError(f"{place}.shape has sizes from 0 on, got {spec.shape}")
    if manifest.preprocessing is not None:
        _check_images(manifest.preprocessing)
    _check_files(manifest.files)
    golden = manifest.receipts.get("golden", {})
    if not isinstance(golden, Mapping) or not isinstance(golden.get("inseparable", ""), str):
        raise DecodingError(
            f"the manifest.receipts.golden must say in words what is inseparable, got {golden!r:.60}"
        )
    for index, info in enumerate(manifest.engines):
        place = f"the manifest.engines[{index}]"
        _check_names(place, {**vars(info), **dict(enumerate(info.compute_capabilities))})
        entry = manifest.file(info.path)
        if entry is None or entry.role != "engine":
            raise DecodingError(f"{place}.path {info.path!r} is not an engine among the files")
        if not all(1 <= p.min <= p.opt <= p.max <= bounds.BATCH for p in info.profiles):
            raise DecodingError(
                f"{place}.profiles must have 1 <= min <= opt <= max <= {bounds.BATCH:,}"
            )


def _check_images(images: PreprocessingInfo) -> None:
    place, (height, width) = "the manifest.preprocessing", images.crop
    if len(images.mean) != 3 or len(images.std) != 3:
        raise DecodingError(f"{place} needs three means and three deviations")
    least, most = bounds.IMAGE_DEVIATION
    if not all(least <= value <= most for value in images.std):
        raise DecodingError(f"{place}.std must be {least:g} to {most:g}, got {images.std}")
    if not all(abs(value) <= most for value in images.mean):
        raise DecodingError(f"{place}.mean must be within {most:g}, got {images.mean}")
    sides = (height, width, height if images.resize is None else images.resize)
    if not all(1 <= side <= bounds.IMAGE_SIDE for side in sides):
        raise DecodingError(
            f"{place} sizes must be 1 to {bounds.IMAGE_SIDE:,} pixels, got crop {images.crop}, "
            f"resize {images.resize}"
        )
    if height * width > bounds.IMAGE_PIXELS:
        raise DecodingError(
            f"{place}.crop of {height:,}x{width:,} has more pixels than {bounds.IMAGE_PIXELS:,}"
        )


def _check_names(place: str, named: Mapping[Any, object]) -> None:
    for name, value in named.items():
        if isinstance(value, str) and len(value) > bounds.NAME_LENGTH:
            raise DecodingError(
                f"{place}.{name} has {len(value):,} characters, at most are {bounds.NAME_LENGTH:,}: "
                f"{value:.60}…"
            )


def _check_counts(place: str, holder: object, *names: str, most: int = bounds.COUNT) -> None:
    for name in names:
        value = getattr(holder, name)
        if value is not None and not 0 <= value <= most:
            raise DecodingError(f"{place}.{name} must be 0 to {most:,}, got {value}")


def _check_files(files: tuple[FileEntry, ...]) -> None:
    for index, entry in enumerate(files):
        place = f"the manifest.files[{index}]"
        _check_names(place, vars(entry))
        if not is_plain_path(entry.path):
            raise DecodingError(f"{place}.path {entry.path!r} leads out of the artifact")
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise DecodingError(f"{place}.sha256 is not one: {entry.sha256!r:.80}")
        most = bounds.GRAPH_BYTES if entry.role == "graph" else bounds.FILE_BYTES
        _check_counts(place, entry, "bytes", most=most)
    paths = [entry.path for entry in files]
    if len(set(paths)) != len(paths):
        raise DecodingError(f"files lists a path twice: {paths}")
    graphs = [(entry.precision, entry.target) for entry in files if entry.role == "graph"]
    if not graphs or any(p is None for p, _ in graphs) or len(set(graphs)) != len(graphs):
        raise DecodingError(
            f"files must list graphs of different precisions or targets, got "
            f"{', '.join(f'{precision} for {target}' for precision, target in graphs) or 'none'}"
        )


def is_plain_path(path: str) -> bool:
    """Whether ``path`` is relative, without ``..``, back slashes, drive letters, control characters."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and ".." not in parts
        and not any(char in path for char in "\\:")
        and path.isprintable()
        and path == "/".join(parts)
        and path != MANIFEST_NAME
    )
