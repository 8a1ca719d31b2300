"""One engine on this GPU: built, loaded, proven, asked for its types, its graphs captured, timed.

    python -m repr_bench.gpu.engine ARTIFACT PRECISION EDITION TARGET,… RESULT.json

TARGET is ``portable`` (what the library builds for by default) or ``current`` (this GPU). Those
after the first one whose engine runs are not tried. Exit status 1 if a stage failed.
"""

import contextlib
import hashlib
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from repr_bench.accuracy.evaluate import evaluate
from repr_bench.gpu.record import Record, StageError
from repr_bench.inputs import EvaluationImages
from repr_export.tensorrt.build import BuiltEngine, build_engine
from repr_export.tensorrt.builder_library import open_library as open_builder
from repr_export.tensorrt.options import EngineOptions
from repr_export.tensorrt.receipt import inspect_engine
from repr_runtime import Session, TensorRTOptions, load
from repr_runtime.artifact.manifest import ProfileInfo
from repr_runtime.artifact.reading import describe_file, read_file, read_manifest
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.backends.tensorrt.backend import EngineFile, TensorRTBackend
from repr_runtime.backends.tensorrt.library import EDITIONS, Library, open_library
from repr_runtime.backends.tensorrt.messages import listen
from repr_runtime.cuda.opening import open_cuda
from repr_runtime.errors import BackendError

TARGETS = {"portable": (), "current": ("current",)}
_SIZES = ProfileInfo(1, 32, 256)
_BATCHES = (1, 2, 8, 32)
_TIMED = 200
_OPTIONS = TensorRTOptions(specialization="eager", contexts=2)


def main() -> int:
    """Entry point; see the module."""
    artifact, precision, edition, targets, result = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    failed: list[str] = []
    for target in targets.split(","):
        path = Path(result.replace("TARGET", target))
        about = {"network": Path(artifact).name, "precision": precision}
        record = Record(path, **about, edition=edition, target=target)
        try_engine(Path(artifact), precision, edition, target, record)
        failed = record.failed
        if any(each["stage"] == "load" and each["ok"] for each in record.stages):
            break
    print("; ".join(failed) or "ok")
    return 1 if failed else 0


def try_engine(root: Path, precision: str, edition: str, target: str, record: Record) -> None:
    """All stages that can be tried of the ``precision`` graph of the artifact in ``root``."""
    with contextlib.suppress(StageError):
        with record.stage("build") as found:
            built = _build(root, precision, edition, target, found)
        library = open_library(EDITIONS[edition])
        for name, stage in (("header", _header), ("deserialize", _deserialize)):
            with contextlib.suppress(StageError), record.stage(name) as found:
                stage(library, built.content, found)
        folder = root.parent.with_name("engines") / record.path.stem / root.name
        _write(root, folder, built, alone=True)
        session = _load(folder, precision, built, record)
        with session:
            stages: dict[str, Callable[[dict[str, Any]], None]] = {
                "self-test": lambda found: found.update(vars(session.self_test())),
                "answers": lambda found: _answers(root, precision, session, found),
                "time": lambda found: _time(session, found),
                "receipt": lambda found: found.update(
                    inspect_engine(open_builder(edition), built.content).as_dict()
                ),
                "graphs": lambda found: _graphs(folder, library, built, found),
            }
            for name, action in stages.items():
                with contextlib.suppress(StageError), record.stage(name) as found:
                    action(found)
        if all(each["ok"] for each in record.stages if each["stage"] in ("load", "self-test")):
            _write(root, root, built, alone=False)  # for the benchmark


def _build(
    root: Path, precision: str, edition: str, target: str, found: dict[str, Any]
) -> BuiltEngine:
    entry = read_manifest(root).graph(precision, "tensorrt")
    if entry is None:
        raise BackendError(f"{root} has no {precision} graph for engines")
    chosen = TARGETS[target]
    options = EngineOptions(edition=edition, compute_capabilities=chosen, profiles=(_SIZES,))
    built = build_engine(read_file(root, entry), options, precision=precision)
    found |= {"bytes": len(built.content), "seconds": built.seconds, "notes": built.notes}
    found |= {"version": built.info.version, "for": built.info.compute_capabilities}
    found["receipt"] = built.receipt.as_dict()
    return built


def _header(library: Library, content: bytes, found: dict[str, Any]) -> None:
    """What the library says of the engine's header, were it asked beforehand."""
    with open_cuda(0).current():
        found["invalid"] = library.invalid(content)


def _deserialize(library: Library, content: bytes, found: dict[str, Any]) -> None:
    """The library alone, none of our checks before it: all that it says."""
    with open_cuda(0).current(), listen(library.trt) as messages:
        engine = library.runtime().deserialize_cuda_engine(content)
        context = None if engine is None else engine.create_execution_context()
    found |= {"errors": messages.errors, "warnings": messages.warnings}
    if engine is None or context is None:
        what = "no engine" if engine is None else "no execution context"
        raise BackendError(
            f"the library makes {what}: {' | '.join(messages.errors) or 'no reason given'}"
        )


def _write(root: Path, folder: Path, built: BuiltEngine, *, alone: bool) -> None:
    """The artifact in ``root`` with this engine, ``alone`` or in place of its like, in ``folder``."""
    manifest, info = read_manifest(root), built.info
    others = [each for each in manifest.engines if not alone and each.path != info.path]
    paths = {each.path for each in others}
    kept = [entry for entry in manifest.files if entry.role != "engine" or entry.path in paths]
    contents = {entry.path: read_file(root, entry) for entry in kept}
    kept.append(describe_file(info.path, built.content, "engine", info.precision))
    manifest = replace(manifest, files=tuple(kept), engines=(*others, info))
    write_artifact(folder, manifest, {**contents, info.path: built.content})


def _load(folder: Path, precision: str, built: BuiltEngine, record: Record) -> Session:
    """As a service loads it; where a check of ours speaks against it, without those."""
    chosen: dict[str, Any] = {"device": "tensorrt", "precision": precision, "options": _OPTIONS}
    with contextlib.suppress(StageError), record.stage("load") as found:
        session = load(folder, **chosen)
        found["choice"] = session.choice
        return session
    with record.stage("load without checks") as found:
        session = load(folder, engine=folder / built.info.path, **chosen)
        found["choice"] = session.choice
    return session


def _answers(root: Path, precision: str, session: Session, found: dict[str, Any]) -> None:
    """Top-1 on the bundled images, and agreement with the fp32 graph on a CPU."""
    images, note = EvaluationImages().for_artifact(session.manifest)
    if images is None:
        found["note"] = note
        return
    with load(root, device="cpu") as original:
        name = original.inputs[0].name
        network = lambda x: next(iter(original.run_all({name: x}).values()))  # noqa: E731
        (got,) = evaluate({precision: session}, images, network, called="fp32 on the CPU").values()
    if got.error is not None:
        raise got.error
    if got.accuracy is not None:
        found |= {"top1": got.accuracy.top1, "images": got.accuracy.images}
    if got.agreement is not None:
        found |= {"same": got.agreement.same, "of": got.agreement.images}
    found["weights"] = session.manifest.weights.kind


class _Capturing(Library):
    """A library that is not left to capture graphs itself: our own capture is tried on it."""

    @property
    def captures_itself(self) -> bool:
        return False


def _graphs(folder: Path, library: Library, built: BuiltEngine, found: dict[str, Any]) -> None:
    """Runs with CUDA graphs, the library's and ours, give what runs without any give."""
    ways: dict[str, tuple[Library, bool]] = {"none": (library, False)}
    if library.captures_itself:
        ways["the library's"] = (library, True)
    ways["own"] = (_Capturing(library.edition, library.trt), True)
    expected: list[Any] = []
    problems = []
    digest = hashlib.sha256(built.content).hexdigest()  # what was compiled for it is taken again
    file = EngineFile(built.content, folder / built.info.path, digest, "build it again")
    for way, (chosen, graphs) in ways.items():
        options = replace(_OPTIONS, cuda_graphs=graphs, contexts=1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # that there is no graph is a warning
                got, milliseconds = _run_all(TensorRTBackend(file, chosen, open_cuda(0), options))
        except Exception as error:
            found[way] = f"{type(error).__name__}: {error}"
            problems.append(f"{way}: {found[way]}")
            continue
        expected = expected or got
        worst = max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
        scale = max(float(np.abs(each).max()) for each in expected)
        found[way] = {"largest difference": worst, "of": scale, "batch 1 ms": milliseconds}
        if not worst <= 1e-3 * scale:
            problems.append(f"{way}: outputs differ by {worst:.3g} of {scale:.3g}")
    if problems:
        raise BackendError("; ".join(problems))


def _run_all(backend: TensorRTBackend) -> tuple[list[Any], float]:
    """Outputs of several batches, the first ones again at the end, and the ms of batch 1."""
    try:
        outputs = []
        for seed in range(3):
            for count in (*_BATCHES, 1):
                random = np.random.default_rng([seed, count])
                feed = {
                    spec.name: random.standard_normal((count, *spec.shape[1:])).astype(spec.dtype)  # type: ignore[arg-type]
                    for spec in backend.inputs
                }
                outputs.append(backend.run(feed)[0].astype(np.float64))
        return outputs, _median_ms(lambda: backend.run(feed))
    finally:
        backend.close()


def _median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMED):
        began = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - began)
    return round(float(np.median(times)) / 1e6, 4)


def _time(session: Session, found: dict[str, Any]) -> None:
    """Medians of runs from host arrays to host arrays, in ms by batch size: a first look alone."""
    (spec,) = session.inputs
    for count in _BATCHES:
        random = np.random.default_rng(count)
        x = random.standard_normal((count, *spec.shape[1:])).astype(spec.dtype)  # type: ignore[arg-type]
        found[str(count)] = _median_ms(lambda x=x: session.run(x))  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main())
