"""A model repository: each graph and engine of an artifact a model of its own, written as a whole."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from repr_export.errors import TritonError
from repr_export.graph.signature import Signature
from repr_export.triton.config import (
    CONFIG_FILE,
    HEADER,
    LABELS_FILE,
    VERSION,
    WARMUP_FOLDER,
    Backend,
    Model,
)
from repr_runtime.artifact.manifest import EngineInfo, FileEntry, Manifest, TensorSpec
from repr_runtime.artifact.reading import read_file, read_manifest
from repr_runtime.artifact.writing import write_folder
from repr_runtime.self_test import read_golden

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WAY_OUT = "give another --name, or move it away"


@dataclass(frozen=True)
class TritonModels:
    """The folders of the models that were written, and why some of an artifact were not."""

    models: tuple[Path, ...]
    left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold."""
        return {"models": [str(path) for path in self.models], "left_out": list(self.left_out)}


def write_triton(
    artifact: str | Path, directory: str | Path, backend: Backend = "onnxruntime"
) -> TritonModels:
    """Write each graph and TensorRT engine of ``artifact`` as a model of the repository ``directory``.

    A model is named as the artifact's folder, then a point and what it is: ``resnet20``,
    ``resnet20.fp16``, ``resnet20.int8-cpu``, ``resnet20.fp16-tensorrt``. Each appears whole or not
    at all; one of the same name is replaced in one step if an export wrote it, all others stay.
    ``backend`` runs the graphs. Raises :class:`TritonError` for a name, an input or output that
    Triton does not take, a place that is taken or cannot be written, and
    ``repr_runtime.errors.ArtifactError`` for an artifact that is damaged.
    """
    folder, root = Path(artifact).resolve(), Path(directory).absolute()
    manifest = read_manifest(folder)
    graphs = [file for file in manifest.files if file.role == "graph"]
    models = [_model(folder, manifest, graph, backend) for graph in graphs]
    left_out = []
    for engine in manifest.engines:
        graph = manifest.graph(engine.precision, "tensorrt")
        reason = _why_not(engine)
        if graph is None or reason:
            left_out.append(f"{engine.path} is left out: {reason or 'its graph is not there'}")
        else:
            models.append(_model(folder, manifest, graph, "tensorrt", engine))
    check_repository(root, [model.name for model in models], folder)
    for model in models:
        place = root / model.name
        try:
            root.mkdir(parents=True, exist_ok=True)
            free = partial(_check_place, place)
            write_folder(place, model.files(), free=free, beside=_beside(root))
        except OSError as error:
            raise TritonError(
                f"the Triton model {place} cannot be written: {error}; the artifact {artifact} is whole"
            ) from error
    return TritonModels(tuple(Path(directory) / model.name for model in models), tuple(left_out))


def model_names(name: str, precisions: Sequence[str], *, engines: bool) -> list[str]:
    """What :func:`write_triton` may call the models of an artifact ``name`` with these precisions."""
    kinds = ["fp32", *precisions]
    names = [_name(name, kind) for kind in kinds]
    names += [_name(name, "int8-cpu")] * ("int8" in precisions)
    return names + [_name(name, f"{kind}-tensorrt") for kind in kinds if engines]


def check_repository(directory: Path, names: Sequence[str], artifact: Path) -> None:
    """Raise :class:`TritonError` unless models of these ``names`` may be written to ``directory``.

    It must be apart from the folder of the ``artifact``.
    """
    root, own = directory.resolve(), artifact.resolve()
    if own.parent == root or own in (root, *root.parents):
        raise TritonError(
            f"{directory} has the artifact {artifact} itself; give another folder to --triton"
        )
    for name in names:
        if not _NAME.fullmatch(name):
            raise TritonError(
                f"{name!r} cannot be the name of a Triton model, which stands in the address of every "
                f"request; give a --name of letters, digits, '_', '.' and '-'"
            )
        _check_place(directory / name)


def require_servable(tensors: Sequence[TensorSpec]) -> None:
    """Raise :class:`TritonError` for an input or output that Triton does not take."""
    for spec in tensors:
        if not spec.shape or 0 in spec.shape:
            what = "is a single number" if not spec.shape else "has no elements"
            raise TritonError(f"{spec} {what}, which Triton does not take; leave --triton out")


def _check_place(place: Path) -> None:
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir() or place.is_symlink():
        raise TritonError(f"{place} is there and is not a folder of files; {_WAY_OUT}")
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}
    own = (CONFIG_FILE, LABELS_FILE, f"{VERSION}/model.onnx", f"{VERSION}/model.plan")
    foreign = [p for p in sorted(found) if p not in own and not p.startswith(f"{WARMUP_FOLDER}/")]
    config = place / CONFIG_FILE
    if foreign or (found and not (config.is_file() and _is_ours(config))):
        what = f"holds {foreign[0]}" if foreign else f"has a {CONFIG_FILE}"
        raise TritonError(f"{place} {what}, which no export wrote; {_WAY_OUT}")


def _is_ours(config: Path) -> bool:
    return config.read_text("utf-8", errors="replace").startswith(HEADER)


def _beside(root: Path) -> Path:
    """Where a model is made: beside the repository, in which Triton would take it for a model.

    In it where that is no place of the same file system, as for a folder that is mounted.
    """
    above = root.parent
    same = above.stat().st_dev == root.stat().st_dev
    return above if same and os.access(above, os.W_OK) else root


def _name(artifact: str, kind: str) -> str:
    return artifact if kind == "fp32" else f"{artifact}.{kind}"


def _why_not(engine: EngineInfo) -> str:
    if engine.flavour != "tensorrt":
        return "Triton runs engines of TensorRT, not of TensorRT-RTX"
    if engine.options.get("strip_weights"):
        return "Triton does not put weights into an engine; build it without --strip-weights"
    return ""


def _model(
    folder: Path,
    manifest: Manifest,
    graph: FileEntry,
    backend: str,
    engine: EngineInfo | None = None,
) -> Model:
    content = read_file(folder, graph)
    signature = Signature.of(ir.from_proto(onnx.load_model_from_string(content)))
    require_servable((*signature.inputs, *signature.outputs))
    golden = read_golden(folder, manifest, graph.path, signature.inputs, signature.outputs)
    kind = "fp32" if graph.path == "model.onnx" else graph.path.split(".")[1]
    processor = "KIND_CPU" if backend == "openvino" or graph.target == "cpu" else ""
    if engine is not None:
        entry = manifest.file(engine.path)
        assert entry is not None, "a manifest lists the files of its engines"
        kind, content, processor = (
            f"{engine.precision}-tensorrt",
            read_file(folder, entry),
            "KIND_GPU",
        )
    elif graph.precision == "bf16" and backend == "onnxruntime":
        processor = "KIND_GPU"  # ONNX Runtime computes in it on no CPU
    return Model(
        name=_name(folder.name, kind),
        content=content,
        backend=backend,
        inputs=signature.inputs,
        outputs=signature.outputs,
        labels=manifest.labels or (),
        samples=golden.inputs,
        inseparable=golden.whole,
        processor=processor,
        engine=engine,
    )
