"""The manifest out of its JSON; every mistake is named by its place."""

import hashlib
import json
import re
from pathlib import PurePosixPath

from repr_runtime.artifact.manifest import (
    DTYPES,
    MANIFEST_NAME,
    SCHEMA,
    SEAL,
    UNSEALED,
    FileEntry,
    Manifest,
)
from repr_runtime.decoding import DecodingError, decode
from repr_runtime.errors import ManifestError, SchemaVersionError


def parse_manifest(content: bytes, place: str = MANIFEST_NAME) -> Manifest:
    """The manifest in ``content``, checked in every field; ``place`` names it in errors.

    Raises :class:`SchemaVersionError` if a newer version wrote it and
    :class:`ManifestError` if it is damaged, altered or incomplete.
    """
    again = "copy the artifact again, or export it again"
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place} is not readable JSON ({error}); {again}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ManifestError(f"{place} has no schema version (got {schema!r:.60}); {again}")
    if schema > SCHEMA:
        raise SchemaVersionError(
            f"{place} has schema version {schema}, and this repr-deploy reads up to {SCHEMA}; "
            f"update it: pip install -U repr-deploy"
        )
    seal = SEAL.match(content)
    if seal is None:
        raise ManifestError(f"{place} does not open with its SHA-256; {again}")
    unsealed = content[: seal.start(1)] + UNSEALED + content[seal.end(1) :]
    digest = hashlib.sha256(unsealed).hexdigest()
    if digest.encode() != seal.group(1):
        raise ManifestError(
            f"{place} was altered: its SHA-256 is {digest}, and it says "
            f"{seal.group(1).decode()}; {again}"
        )
    try:
        manifest: Manifest = decode(Manifest, data, "the manifest", lenient=True)
        _check(manifest)
    except DecodingError as error:
        raise ManifestError(f"{place}: {error}; {again}") from error
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check(manifest: Manifest) -> None:
    """What the types do not say; raises :class:`DecodingError`."""
    _not_negative("the manifest.network", manifest.network, "parameters", "multiply_adds")
    for name, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if not specs:
            raise DecodingError(f"the manifest.{name} is empty")
        for index, spec in enumerate(specs):
            if spec.dtype not in DTYPES:
                known = ", ".join(sorted(DTYPES))
                raise DecodingError(
                    f"the manifest.{name}[{index}].dtype {spec.dtype!r} is not one of {known}"
                )
    if (images := manifest.preprocessing) is not None:
        place = "the manifest.preprocessing"
        if len(images.mean) != 3 or len(images.std) != 3:
            raise DecodingError(f"{place} needs three means and three deviations")
        if not all(value > 0 for value in images.std):
            raise DecodingError(f"{place}.std must be above 0, got {images.std}")
        if not all(
            size > 0 for size in (*images.crop, 1 if images.resize is None else images.resize)
        ):
            raise DecodingError(
                f"{place} sizes must be above 0, got crop {images.crop}, resize {images.resize}"
            )
    _check_files(manifest.files)
    for index, info in enumerate(manifest.engines):
        place = f"the manifest.engines[{index}]"
        entry = manifest.file(info.path)
        if entry is None or entry.role != "engine":
            raise DecodingError(f"{place}.path {info.path!r} is not an engine among the files")
        if not all(1 <= p.min <= p.opt <= p.max for p in info.profiles):
            raise DecodingError(f"{place}.profiles must have 1 <= min <= opt <= max")


def _not_negative(place: str, holder: object, *names: str) -> None:
    for name in names:
        value = getattr(holder, name)
        if value is not None and value < 0:
            raise DecodingError(f"{place}.{name} must not be negative, got {value}")


def _check_files(files: tuple[FileEntry, ...]) -> None:
    for index, entry in enumerate(files):
        place = f"the manifest.files[{index}]"
        if not is_plain_path(entry.path):
            raise DecodingError(f"{place}.path {entry.path!r} leads out of the artifact")
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise DecodingError(f"{place}.sha256 is not one: {entry.sha256!r:.80}")
        _not_negative(place, entry, "bytes")
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
    """Whether ``path`` is relative, without ``..``, back slashes, drive letters or NUL."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and ".." not in parts
        and not any(char in path for char in "\\:\0")
        and path == "/".join(parts)
        and path != MANIFEST_NAME
    )
