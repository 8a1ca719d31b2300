"""What `load` refuses: missing, altered, newer, hostile. Each has its own error and a way out."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from refusals import refuses

from repr_runtime import errors, load, preflight, read_manifest
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.artifact.parsing import is_plain_path

MISSING = object()


def refused(kind: type[errors.ReproError], path: Path, *parts: str, **options: Any) -> None:
    """`load` raises exactly ``kind`` with ``parts`` in its message; `preflight` says the same."""
    options = {"device": "cpu"} | options
    with refuses(kind, *parts):
        load(path, **options)
    assert not preflight(path, **options)[-1].passed


def reseal(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as one would who also makes its SHA-256 right."""
    file = path / "manifest.json"
    data = json.loads(file.read_bytes())
    edit(data)
    data["sha256"] = "0" * 64
    content = json.dumps(data, indent=1).encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    file.write_bytes(content.replace(b"0" * 64, digest, 1))


def put(place: str, value: object) -> Callable[[dict[str, Any]], None]:
    """An edit that sets the field at ``place`` ("files.0.path"), or removes it."""

    def edit(data: Any) -> None:
        *above, last = [int(key) if key.isdigit() else key for key in place.split(".")]
        for key in above:
            data = data[key]
        if value is MISSING:
            del data[last]
        else:
            data[last] = value

    return edit


def test_what_is_no_artifact(artifact: Path, tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none", "there is no such folder"),
        (tmp_path, "it holds no manifest.json"),
        (artifact / "model.onnx", "it is not a folder"),
    ):
        refused(errors.ArtifactNotFoundError, path, what, "repr-export")


def test_an_unreadable_folder(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # a superuser may read everything
    refused(errors.ArtifactNotFoundError, artifact, "Permission denied", "right to read")


def test_a_file_that_is_missing_or_another(artifact: Path) -> None:
    file = artifact / "model.onnx"
    content = file.read_bytes()
    size = len(content)
    for damaged, kind, parts in (
        (content[:-1], errors.TruncatedFileError, (f"{size - 1:,} bytes", f"{size:,}", "again")),
        (b"", errors.TruncatedFileError, ("0 bytes",)),
        (content + b"\0", errors.AlteredFileError, (f"{size + 1:,} bytes", f"expected {size:,}")),
        (b"?" + content[1:], errors.AlteredFileError, ("altered", "SHA-256", "expected", "again")),
    ):
        file.write_bytes(damaged)
        refused(kind, artifact, *parts)
    file.unlink()
    refused(errors.MissingFileError, artifact, str(file), "not there", "export it again")
    file.mkdir()
    refused(errors.MissingFileError, artifact, "not a file")
    reseal(artifact, put("files.0.path", "x" * 500))  # no file can have
    refused(errors.MissingFileError, artifact, "too long")


def test_missing_golden_samples_are_told_by_preflight_and_self_test(artifact: Path) -> None:
    (artifact / "golden.npz").unlink()
    (check,) = (check for check in preflight(artifact) if not check.passed)
    assert "golden.npz" in check.detail
    with load(artifact, device="cpu") as session, pytest.raises(errors.MissingFileError):
        session.self_test()


def test_newer_schema(artifact: Path) -> None:
    reseal(artifact, put("schema", 1))
    load(artifact, device="cpu").close()  # resealing alone is accepted
    reseal(artifact, put("schema", 2))
    parts = ("schema version 2", "reads up to 1", "pip install -U", str(artifact))
    refused(errors.SchemaVersionError, artifact, *parts)
    (artifact / "manifest.json").write_text('{"schema": 3}')  # whatever else it changed
    refused(errors.SchemaVersionError, artifact, "schema version 3")


def test_manifest_without_or_with_a_wrong_seal(artifact: Path) -> None:
    file = artifact / "manifest.json"
    good = file.read_bytes()
    data = json.loads(good)
    file.write_bytes(good.replace(b'"tiny"', b'"tinz"', 1))
    refused(errors.ManifestError, artifact, "was altered", data["sha256"], "again", str(file))
    del data["sha256"]
    file.write_text(json.dumps(data, indent=1))
    refused(errors.ManifestError, artifact, "does not open with its SHA-256")
    file.write_bytes(good.rstrip())
    refused(errors.ManifestError, artifact, "was altered")
    with file.open("r+b") as stream:
        stream.truncate(2**27)
    refused(errors.ManifestError, artifact, "a manifest has 16,777,216 at most")
    file.unlink()
    os.mkfifo(file)  # reading it would wait without end
    refused(errors.ManifestError, artifact, "is not a file")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "1"}', b'{"schema": true}'),
        *(b'{"schema": 0}', b'{"schema": -1}', b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}"),
        b'{"schema": NaN}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused(errors.ManifestError, tmp_path, str(tmp_path / "manifest.json"), "export it again")


OTHER_GRAPH = {"path": "other.onnx", "role": "graph", "precision": "fp32", "bytes": 1}
WRONG: dict[str, tuple[object, ...]] = {
    "network": ([], MISSING),
    "network.name": (None, 3),
    "network.parameters": ("245", -1, True, 1.5),
    "network.multiply_adds": ("many",),
    "weights.record": (None,),
    "weights.sha256": (7,),
    "inputs": ([], {}),
    "inputs.0": ("input",),
    "inputs.0.dtype": ("float31",),
    "inputs.0.shape": ("batch",),
    "inputs.0.shape.0": (None,),
    "inputs.0.shape.1": (True, 1.5),
    "outputs": (MISSING,),
    "preprocessing": (3,),
    "preprocessing.crop": ([4], [0, 4]),
    "preprocessing.resize": (0, "4"),
    "preprocessing.mean": ([0, 0], [0, 0, 10**19]),
    "preprocessing.std": ([1, 1, 0], [1, 1, -1], [1, 1, "1"]),
    "labels": ("ant",),
    "labels.0": (3,),
    "files": ([], MISSING),
    "files.0.bytes": (-1, "9"),
    "files.0.sha256": ("0" * 63, "Z" * 64),
    "files.0.role": (None, "golden"),
    "files.0.precision": (None,),
    "files.1": (OTHER_GRAPH | {"sha256": "0" * 64},),
    "files.1.path": ("model.onnx",),
    "receipts": (None,),
    "versions": ([],),
}


@pytest.mark.parametrize(("place", "value"), [(p, value) for p in WRONG for value in WRONG[p]])
def test_a_field_of_the_wrong_kind(artifact: Path, place: str, value: object) -> None:
    reseal(artifact, put(place, value))
    names = {name for name in (place.split(".")[0], place.split(".")[-1]) if not name.isdigit()}
    with refuses(errors.ManifestError, "export it again") as caught:
        load(artifact)
    assert any(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/etc/passwd", "a/../../x", "a\\b", "C:x", "", ".", "..", "./model.onnx"),
        *("manifest.json", "a//b", "a/", "a\0b", "\\\\host\\share"),
    ],
)
def test_a_path_that_leads_elsewhere(artifact: Path, path: str) -> None:
    reseal(artifact, put("files.0.path", path))
    refused(
        errors.ManifestError, artifact, "files[0].path", repr(path), "leads out of the artifact"
    )
    assert is_plain_path("engines/a.engine")


def test_a_graph_that_the_library_refuses_under_a_right_hash(tiny: Any, tmp_path: Path) -> None:
    for garbage in (b"\xff" * 100, b"garbage", b"\x08\x0a", b"\x3a\x02\x0a\x00"):
        refused(errors.ModelLoadError, tiny.write(tmp_path / "a", graph=garbage), "again")
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"])]
    path = tiny.write_model(tmp_path / "b", nodes, {"x": ("n", 2)}, {"y": ("n", 2)})
    refused(errors.ModelLoadError, path, "refuses the graph", "NoSuchOperator", "--opset")


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("inputs", TensorSpec("image", "float32", ("batch", 3, 4, 4))),
        ("inputs", TensorSpec("input", "float16", ("batch", 3, 4, 4))),
        ("inputs", TensorSpec("input", "float32", ("batch", 3, 8, 8))),
        ("inputs", TensorSpec("input", "float32", ("batch", 48))),
        ("outputs", TensorSpec("scores", "float32", ("batch", 5))),
        ("outputs", TensorSpec("logits", "float32", ("batch", 6))),
    ],
)
def test_a_graph_that_is_not_the_manifests(
    tiny: Any, tmp_path: Path, field: str, spec: TensorSpec
) -> None:
    path = tiny.write(tmp_path / "a", **{field: (spec,)})
    refused(errors.ArtifactError, path, f"the graph's {field} are", str(spec), "export it again")


def test_unknown_precisions_and_devices(artifact: Path) -> None:
    parts = ("no int3 graph", "it has fp32", "export")
    refused(errors.PrecisionNotFoundError, artifact, *parts, precision="int3")
    parts = ("no device 'tpu'", "auto, tensorrt, cuda, ")
    refused(errors.DeviceUnavailableError, artifact, *parts, device="tpu")


def test_a_device_asked_for_by_name_is_never_replaced(artifact: Path) -> None:
    """On a machine with a GPU it is used; on any other it is an error that says why."""
    try:
        with load(artifact, device="cuda") as session:
            assert session.device == "cuda"
            assert session.backend.session.get_providers()[0] == "CUDAExecutionProvider"
    except errors.DeviceUnavailableError as error:
        reason = str(error)
        assert re.search("'cuda'.*(driver|CUDAExecutionProvider|CUDA libraries)", reason)


def test_a_driver_without_devices_is_told(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repr_runtime.backends import onnxruntime as backend
    from repr_runtime.cuda import driver as cuda

    library = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(backend, "_library", lambda: library)
    library.__version__ = "1"
    monkeypatch.setattr(backend, "cuda_status", lambda: cuda.CudaStatus(0, "the driver sleeps"))
    parts = ("'cuda'", "the driver sleeps", "device='auto'")
    refused(errors.DeviceUnavailableError, artifact, *parts, device="cuda")


@pytest.mark.parametrize(
    "golden",
    [
        *(b"", b"no archive", b"PK\x03\x04" + b"\0" * 60, b"PK\x05\x06" + b"\0" * 18),
        {},
        {"input.input": np.zeros((2, 3, 4, 4), np.float32)},
        {"input.input": np.zeros((2, 3, 4, 4)), "output.logits": np.zeros((2, 5), np.float32)},
        {"input.input": np.zeros((0, 3, 4, 4), np.float32), "output.logits": np.zeros((0, 5))},
        {"input.input": np.zeros((2, 3, 4, 4), np.float32), "output.logits": np.zeros((3, 5))},
        {"input.input": np.zeros((2, 3, 4, 4), np.float32), "output.logits": np.zeros(5)},
        {"input.input": np.float32(0), "output.logits": np.zeros(5)},
        {"input.input": np.array([None], object), "output.logits": np.zeros(5)},
    ],
    ids=range(12),
)
def test_golden_samples_of_nothing(
    tiny: Any, tmp_path: Path, golden: bytes | dict[str, Any]
) -> None:
    path = tiny.write(tmp_path / "a", golden=golden)
    with (
        load(path, device="cpu") as session,
        pytest.raises(errors.ArtifactError, match=r"golden.*export it again"),
    ):
        session.self_test()
    checks = preflight(path, device="cpu", verify=True)
    assert [check.name for check in checks if not check.passed] == ["self-test"]


def test_a_damaged_archive_under_a_right_hash(tiny: Any, tmp_path: Path) -> None:
    _, files = tiny.parts()
    random = np.random.default_rng(0)
    for i in range(40):
        content = bytearray(files["golden.npz"])
        for position in random.integers(0, len(content), 3):
            content[position] ^= 1 << int(random.integers(8))
        path = tiny.write(tmp_path / "a", golden=bytes(content))
        for check in preflight(path, device="cpu", verify=True):
            assert check.passed or check.name == "self-test", (i, check)


@pytest.mark.parametrize(("a", "b"), [(np.nan, 9), (9, np.nan), (1.25, 1), (1.125, 1.25)])
def test_the_worst_difference_of_golden_samples_is_told(
    tiny: Any, tmp_path: Path, a: float, b: float
) -> None:
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in ("a", "b")]
    x = np.ones((1, 2), np.float32)
    path = tiny.write_model(
        *(tmp_path / "a", nodes, {"x": ("n", 2)}, {"a": ("n", 2), "b": ("n", 2)}),
        golden={"input.x": x, "output.a": x * a, "output.b": x * b},
        receipts={"golden": {"samples": 1, "tolerance": {"a": 1e-4, "b": 1e-4}}},
    )
    far = "nan" if np.isnan(a + b) else "0.25"
    parts = (f"differ by up to {far}", "allowed is 0.0001", "export it again")
    with (
        load(path, device="cpu", nonfinite="allow") as session,
        refuses(errors.SelfTestError, *parts),
    ):
        session.self_test()


def test_a_manifest_comes_back_as_it_was_written(tiny: Any, tmp_path: Path) -> None:
    manifest, _ = tiny.parts(labels=("ä", "b\n", '"', "木", "e"))
    path = tiny.write(tmp_path / "a", labels=manifest.labels)
    assert read_manifest(path) == manifest
