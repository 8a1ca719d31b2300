"""One changed bit, anywhere in an artifact, is noticed: by `load`, or by verifying."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import load, preflight
from repr_runtime.artifact.parsing import parse_manifest
from repr_runtime.errors import ArtifactError, ManifestError

FLIPS = 250  # in each file
NAMES = ("model.onnx", "golden.npz", "manifest.json")


def is_refused(folder: Path) -> bool:
    """Whether `load` raises, or verifying says no: what it raises must be about the artifact."""
    try:
        load(folder, device="cpu", threads=1).close()
    except ArtifactError:
        return True
    return not all(check.passed for check in preflight(folder, device="cpu", verify=True))


def each_refused(folder: Path, name: str, damages: list[Callable[[bytes], bytes]]) -> None:
    file = folder / name
    good = file.read_bytes()
    for i, damage in enumerate(damages):
        file.write_bytes(damage(good))
        assert is_refused(folder), (name, i)
    file.write_bytes(good)
    assert not is_refused(folder)


def flip(position: int, bit: int) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        assert position < len(content)
        return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]

    return damage


def flips(file: Path, count: int) -> list[Callable[[bytes], bytes]]:
    random, size = np.random.default_rng(1), file.stat().st_size
    return [flip(int(random.integers(size)), int(random.integers(8))) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_flips_in_a_small_artifact(artifact: Path, name: str) -> None:
    each_refused(artifact, name, flips(artifact / name, FLIPS))


def test_every_bit_of_a_manifest(tiny: Any) -> None:
    """Each bit of each byte, the digits of the SHA-256 and the white space included."""
    good: bytes = tiny.parts()[0].to_bytes()
    parse_manifest(good)
    for position in range(len(good)):
        for bit in range(8):
            with pytest.raises(ManifestError):
                parse_manifest(flip(position, bit)(good))


@pytest.mark.parametrize("name", NAMES)
def test_truncated_and_grown(artifact: Path, name: str) -> None:
    size = (artifact / name).stat().st_size
    lengths = sorted({0, 1, size - 1, size - 2, *np.linspace(2, size - 3, 40).astype(int).tolist()})
    cuts = [lambda content, n=length: content[:n] for length in lengths]
    grown = [lambda content, tail=tail: content + tail for tail in (b"\0", b"\n", b" ", b"}")]
    longer = [lambda content: b"\n" + content, lambda content: content + content]
    each_refused(artifact, name, [*cuts, *grown, *longer])


def test_swapped_files(tiny: Any, artifact: Path, tmp_path: Path) -> None:
    """Files of another export, or of each other's names, each of them whole."""
    other = tiny.write(tmp_path / "other", seed=1)
    for name in NAMES:
        swaps = [other / name, *(artifact / n for n in NAMES if n != name)]
        each_refused(artifact, name, [lambda _, file=file: file.read_bytes() for file in swaps])
