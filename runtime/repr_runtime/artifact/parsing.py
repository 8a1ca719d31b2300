"""The manifest out of its JSON; every mistake is named by its place."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import PurePosixPath
from typing import Any

from repr_runtime.artifact.manifest import (
    DTYPES,
    MANIFEST_NAME,
    SCHEMA,
    SEAL,
    UNSEALED,
    EngineInfo,
    FileEntry,
    Manifest,
    NetworkInfo,
    PreprocessingInfo,
    ProfileInfo,
    TensorSpec,
    WeightsInfo,
)
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
        return _manifest(_Fields(data, "the manifest"))
    except _FieldError as error:
        raise ManifestError(f"{place}: {error}; {again}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _FieldError(Exception):
    """A field that is missing or of the wrong kind."""


class _Fields:
    """Typed access to a JSON object; every miss names the field's place."""

    def __init__(self, data: object, place: str) -> None:
        if not isinstance(data, dict):
            raise _FieldError(f"{place} must be an object, got {type(data).__name__}")
        self.data: dict[str, Any] = data
        self.place = place

    def _get(self, key: str, kind: type, optional: bool) -> Any:
        value = self.data.get(key)
        if value is None and optional:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _FieldError(f"{self.place}.{key} must be {kind.__name__}, got {value!r:.60}")
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, str, False)
        return value

    def optional_text(self, key: str) -> str | None:
        value: str | None = self._get(key, str, True)
        return value

    def count(self, key: str) -> int:
        value: int = self._get(key, int, False)
        if value < 0:
            raise _FieldError(f"{self.place}.{key} must not be negative, got {value}")
        return value

    def optional_count(self, key: str) -> int | None:
        return None if self.data.get(key) is None else self.count(key)

    def mapping(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self._get(key, dict, False)
        return value

    def items(self, key: str, kind: type | tuple[type, ...]) -> list[Any]:
        values: list[Any] = self._get(key, list, False)
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise _FieldError(f"{self.place}.{key} holds {value!r:.60}")
        return values

    def child(self, key: str) -> _Fields:
        return _Fields(self.data.get(key), f"{self.place}.{key}")

    def children(self, key: str) -> list[_Fields]:
        return [
            _Fields(item, f"{self.place}.{key}[{i}]")
            for i, item in enumerate(self.items(key, dict))
        ]


def _manifest(fields: _Fields) -> Manifest:
    labels = None if fields.data.get("labels") is None else tuple(fields.items("labels", str))
    files = tuple(_file(child) for child in fields.children("files"))
    paths = [entry.path for entry in files]
    if len(set(paths)) != len(paths):
        raise _FieldError(f"files lists a path twice: {paths}")
    graphs = [(entry.precision, entry.target) for entry in files if entry.role == "graph"]
    if not graphs or any(p is None for p, _ in graphs) or len(set(graphs)) != len(graphs):
        raise _FieldError(
            f"files must list graphs of different precisions or targets, got "
            f"{', '.join(f'{precision} for {target}' for precision, target in graphs) or 'none'}"
        )
    network, weights = fields.child("network"), fields.child("weights")
    versions = fields.mapping("versions")
    return Manifest(
        network=NetworkInfo(
            name=network.text("name"),
            architecture=network.text("architecture"),
            dataset=network.optional_text("dataset"),
            parameters=network.count("parameters"),
            multiply_adds=network.optional_count("multiply_adds"),
            source=network.text("source"),
        ),
        weights=WeightsInfo(
            kind=weights.text("kind"),
            location=weights.text("location"),
            sha256=weights.optional_text("sha256"),
            record=weights.mapping("record"),
        ),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        preprocessing=(
            None
            if fields.data.get("preprocessing") is None
            else _preprocessing(fields.child("preprocessing"))
        ),
        labels=labels,
        files=files,
        engines=(
            tuple(_engine(child, files) for child in fields.children("engines"))
            if "engines" in fields.data
            else ()
        ),
        receipts=fields.mapping("receipts"),
        versions={str(key): str(value) for key, value in versions.items()},
        schema=fields.count("schema"),
    )


def _tensors(fields: _Fields, key: str) -> tuple[TensorSpec, ...]:
    specs = []
    for child in fields.children(key):
        dtype = child.text("dtype")
        if dtype not in DTYPES:
            raise _FieldError(
                f"{child.place}.dtype {dtype!r} is not one of {', '.join(sorted(DTYPES))}"
            )
        specs.append(TensorSpec(child.text("name"), dtype, tuple(child.items("shape", (int, str)))))
    if not specs:
        raise _FieldError(f"{fields.place}.{key} is empty")
    return tuple(specs)


def _preprocessing(fields: _Fields) -> PreprocessingInfo:
    crop = fields.items("crop", int)
    mean, std = fields.items("mean", (int, float)), fields.items("std", (int, float))
    numbers = [*mean, *std]
    if len(crop) != 2 or len(mean) != 3 or len(std) != 3 or not all(map(_is_finite, numbers)):
        raise _FieldError(f"{fields.place} needs two crop sizes, three means, three deviations")
    if not all(value > 0 for value in std):
        raise _FieldError(f"{fields.place}.std must be above 0, got {std}")
    resize = fields.optional_count("resize")
    if not all(size > 0 for size in crop) or resize == 0:
        raise _FieldError(f"{fields.place} sizes must be above 0, got crop {crop}, resize {resize}")
    return PreprocessingInfo(
        resize=resize,
        crop=(crop[0], crop[1]),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _is_finite(value: float) -> bool:
    return abs(value) <= sys.float_info.max  # JSON's whole numbers may be too large for float


def _file(fields: _Fields) -> FileEntry:
    path, digest = fields.text("path"), fields.text("sha256")
    if not is_plain_path(path):
        raise _FieldError(f"{fields.place}.path {path!r} leads out of the artifact")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise _FieldError(f"{fields.place}.sha256 is not one: {digest!r:.80}")
    role, precision = fields.text("role"), fields.optional_text("precision")
    target = "any" if "target" not in fields.data else fields.text("target")
    return FileEntry(path, role, precision, fields.count("bytes"), digest, target)


def _engine(fields: _Fields, files: tuple[FileEntry, ...]) -> EngineInfo:
    path = fields.text("path")
    if not any(entry.path == path and entry.role == "engine" for entry in files):
        raise _FieldError(f"{fields.place}.path {path!r} is not an engine among the files")
    profiles = tuple(
        ProfileInfo(child.count("min"), child.count("opt"), child.count("max"))
        for child in fields.children("profiles")
    )
    if not all(1 <= p.min <= p.opt <= p.max for p in profiles):
        raise _FieldError(f"{fields.place}.profiles must have 1 <= min <= opt <= max")
    return EngineInfo(
        path=path,
        precision=fields.text("precision"),
        flavour=fields.text("flavour"),
        version=fields.text("version"),
        platform=fields.text("platform"),
        compute_capabilities=tuple(fields.items("compute_capabilities", str)),
        profiles=profiles,
        graph_sha256=fields.text("graph_sha256"),
        options=fields.mapping("options"),
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
