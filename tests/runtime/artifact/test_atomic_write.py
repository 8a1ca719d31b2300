"""An artifact is written all at once or not at all: kills, races, full disks, foreign files."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import Session, load, read_manifest
from repr_runtime.artifact import writing as artifact_module
from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.reading import describe_file, read_file
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.errors import ArtifactNotFoundError

KILLS = int(
    os.environ.get("REPR_KILLS", "50")
)  # of each kind, over an artifact and onto a free place
LOADS = int(
    os.environ.get("REPR_LOADS", "0")
)  # under replacement, where more than come by themselves

# Forks a writer, kills it at a random moment of its work, says so, and waits to be told to go on.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.artifact.parsing import parse_manifest
target, source = Path(sys.argv[1]), Path(sys.argv[2])
versions = []
for folder in sorted(source.iterdir()):
    content = (folder / "manifest.json").read_bytes()
    manifest = parse_manifest(content)
    versions.append((manifest, {f.path: (folder / f.path).read_bytes() for f in manifest.files}))
random.seed(int(sys.argv[3]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            random.seed(os.getpid())
            while True:
                write_artifact(target, *random.choice(versions))
                if line.startswith("once"):
                    time.sleep(60)
        except BaseException as error:
            print("failed", repr(error), flush=True)
        os._exit(1)
    time.sleep(random.uniform(0, float(line.split()[1])))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", child, flush=True)
"""


@pytest.fixture
def versions(tiny: Any, tmp_path: Path) -> Path:
    """Four artifacts that differ in every file, one of them with files of other names."""
    folder = tmp_path / "versions"
    for seed in range(3):
        tiny.write(folder / str(seed), seed=seed, versions={"seed": str(seed)})
    noise = [np.random.default_rng(i).bytes(50_000) for i in range(4)]
    more = {f"engines/{i}.engine": (content, "engine") for i, content in enumerate(noise)}
    tiny.write(folder / "3", seed=3, versions={"seed": "3"}, more=more)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "net"


def contents(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    manifest = read_manifest(folder)
    return manifest, {entry.path: read_file(folder, entry) for entry in manifest.files}


def alone(folder: Path) -> bool:
    """Whether nothing lies beside ``folder``."""
    return os.listdir(folder.parent) == [folder.name]


def bias_of(session: Session) -> float:
    """What the network makes of nothing: in each version another number."""
    return float(session.run(np.zeros((1, 3, 4, 4), np.float32))["logits"][0, 0])


def is_whole(folder: Path, versions: Path) -> bool:
    """Whether ``folder`` is one of ``versions``, byte for byte; False where there is none."""
    if not folder.exists():
        return False
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    known = [
        {p.relative_to(v): p.read_bytes() for p in v.rglob("*") if p.is_file()}
        for v in versions.iterdir()
    ]
    assert found in known
    load(folder, device="cpu", threads=1).close()
    return True


@pytest.fixture
def killer(target: Path, versions: Path) -> Iterator[Callable[[str], None]]:
    """Runs one writer on ``target`` and kills it."""
    command = [sys.executable, "-c", KILLER, str(target), str(versions), "7"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        stdin, stdout = process.stdin, process.stdout

        def kill(line: str) -> None:
            stdin.write(line + "\n")
            stdin.flush()
            assert stdout.readline().startswith("killed")

        yield kill
        stdin.close()


def test_a_writer_killed_over_an_artifact(
    target: Path, versions: Path, killer: Callable[[str], None]
) -> None:
    write_artifact(target, *contents(versions / "0"))
    seen, litter = set(), 0
    for i in range(KILLS):
        killer(f"loop {0.01 * (1 + i / 5)}")  # later and later: how fast the machine is is unknown
        assert is_whole(target, versions), "an artifact that was there is gone"
        seen.add(read_manifest(target).versions["seed"])
        litter += len(os.listdir(target.parent)) > 1
    assert len(seen) > 1, "no writer got to its end"
    assert litter, "no writer was killed in the middle"
    write_artifact(target, *contents(versions / "1"))
    assert alone(target)


def test_a_writer_killed_at_a_free_place(
    target: Path, versions: Path, killer: Callable[[str], None]
) -> None:
    outcomes, delay = set(), 0.01
    for _ in range(KILLS):
        killer(f"once {delay}")
        written = is_whole(target, versions)
        outcomes.add(written)
        delay *= 0.7 if written else 1.5  # so that about half of them get to the end
        if written:
            shutil.rmtree(target)
        else:
            with pytest.raises(ArtifactNotFoundError):
                load(target)
    assert outcomes == {True, False}, "every kill came too early, or every one too late"
    write_artifact(target, *contents(versions / "1"))
    assert alone(target)


def test_what_a_dead_process_of_our_own_number_left_is_removed(tiny: Any, tmp_path: Path) -> None:
    """In a container every run has the same process number."""
    prefix = f"{artifact_module._partial_prefix(tmp_path / 'net')}{os.getpid()}."
    dead, alive = tmp_path / f"{prefix}0000.ab", tmp_path / f"{prefix}{artifact_module._RUN}.ab"
    others = tmp_path / ".net.partial.otherhost.1.0000.ab"
    mine = tmp_path / ".net.partial.notes"
    absurd = tmp_path / f"{artifact_module._partial_prefix(tmp_path / 'net')}{'9' * 30}.0.ab"
    for folder in (dead, alive, others, mine, absurd):
        (folder / "below").mkdir(parents=True)
    tiny.write(tmp_path / "net")
    assert sorted(os.listdir(tmp_path)) == sorted(["net", alive.name, others.name, mine.name])


@pytest.mark.parametrize("swaps", [True, False])
def test_writers_and_a_reader_at_once(
    tiny: Any, target: Path, versions: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    writers, done = 3 if swaps else 2, threading.Event()
    known = [contents(version) for version in sorted(versions.iterdir())]
    if not swaps:
        monkeypatch.setattr(artifact_module, "_exchange", lambda *_: False)
    write_artifact(target, *known[0])

    loads = 0

    def write(first: int) -> None:
        i = first
        while i < first + 15 or (loads < LOADS and not reading.done()):
            write_artifact(target, *known[i % len(known)])
            i += 1

    def read() -> None:
        nonlocal loads
        while not done.is_set():
            loads += 1
            with load(target, device="cpu", threads=1) as session:
                seed = int(session.manifest.versions["seed"])
                graph = known[seed][1]["model.onnx"]
                entry = session.manifest.graph("fp32")
                assert entry is not None
                assert entry == describe_file("model.onnx", graph, "graph", "fp32")
                assert bias_of(session) == tiny.parameters(seed)[1][0]

    with ThreadPoolExecutor(writers + 1) as pool:
        reading = pool.submit(read)
        writing = [pool.submit(write, i) for i in range(writers)]
        wait(writing)
        done.set()
    raised = [error for future in (reading, *writing) if (error := future.exception())]
    # Without a swap there is none for a moment, so a reader may not find it; never a mixed one.
    assert [e for e in raised if swaps or not isinstance(e, ArtifactNotFoundError)] == []
    assert is_whole(target, versions)
    assert alone(target)


def test_writers_in_several_processes(target: Path, versions: Path) -> None:
    code = KILLER.split("random.seed")[0] + (
        "\nfor i in range(12):\n    write_artifact(target, *versions[(i + int(sys.argv[3])) % 4])"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(target), str(versions)]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(2)]
    while any(process.poll() is None for process in processes):
        if target.exists():
            load(target, device="cpu", threads=1).close()
        time.sleep(0.001)
    assert [process.returncode for process in processes] == [0, 0]
    assert is_whole(target, versions)
    assert alone(target)


def test_reading_starts_again_when_the_artifact_was_replaced_in_between(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new export arrives after the manifest was read, twice, the second the first again."""
    from repr_runtime import loading

    path = tiny.write(tmp_path / "net", seed=0)
    arriving = iter([1, 0])

    def read_then_replace(folder: Path, entry: Any) -> bytes:
        for seed in arriving:
            tiny.write(path, seed=seed)
            break
        return read_file(folder, entry)

    monkeypatch.setattr(loading, "read_file", read_then_replace)
    with load(path, device="cpu") as session:
        assert session.manifest.weights.location == "seed 0"
        assert bias_of(session) == tiny.parameters(0)[1][0]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no atomic swap there")
def test_where_folders_can_be_swapped_there_is_never_none(
    tiny: Any, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, moved = os.rename, []

    def watched(source: Path, to: Path) -> None:
        moved.append(source)
        rename(source, to)

    monkeypatch.setattr(os, "rename", watched)
    tiny.write(artifact, seed=1)
    assert contents(artifact) == tiny.parts(seed=1)
    assert moved
    assert artifact not in moved


def test_without_an_atomic_swap_a_failing_rename_puts_the_old_one_back(
    tiny: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(target, seed=0)
    monkeypatch.setattr(artifact_module, "_exchange", lambda *_: False)
    rename, calls = os.rename, []

    def failing(source: Path, to: Path) -> None:
        calls.append(source)
        if len(calls) == 3:  # the new one into the place that was just made free
            raise OSError(errno.EIO, "Input/output error")
        rename(source, to)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        tiny.write(target, seed=1)
    assert len(calls) == 4
    assert contents(target) == tiny.parts(seed=0)
    assert alone(target)


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk(
    tiny: Any, target: Path, monkeypatch: pytest.MonkeyPatch, moment: int, there: bool
) -> None:
    if there:
        tiny.write(target, seed=0)
    fsync, open_file, calls = os.fsync, os.open, []

    def full() -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def filling(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == moment:
            full()
        fsync(descriptor)

    def opening(path: Path, flags: int, *rest: Any, **named: Any) -> int:
        full_now = moment == 0 and flags & os.O_WRONLY
        return full() if full_now else open_file(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling)
        patch.setattr(os, "open", opening)
        with pytest.raises(OSError, match="No space left"):
            tiny.write(target, seed=1)
    # Two files, the manifest, the folder, and then the place it now stands in.
    left = 1 if moment == 5 else 0 if there else None
    assert os.listdir(target.parent) == ([] if left is None else ["net"])
    if left is not None:
        assert contents(target) == tiny.parts(seed=left)
