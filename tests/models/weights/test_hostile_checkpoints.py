"""Servers and files that mean ill: a download ends, and a checkpoint costs no more than it has."""

import hashlib
import json
import os
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_server import Behaviour, serving

from repr_models import Published, WeightsError
from repr_models.weights import download
from repr_models.weights.download import cached_path, fetch
from repr_models.weights.loading import load_checkpoint

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Behaviour(CONTENT)) as behaviour:
        yield behaviour


def wanted(server: Behaviour, digits: int = 64) -> Published:
    return Published("test", server.url, hashlib.sha256(CONTENT).hexdigest()[:digits], 0.5)


def refused(server: Behaviour, words: str, timeout: float = 10.0) -> None:
    with pytest.raises(WeightsError, match=words):
        fetch(wanted(server), timeout=timeout, pause=0.01)
    weights = cached_path(wanted(server)).parent
    assert [path for path in weights.iterdir() if path.suffix == ".pth"] == []


@pytest.mark.parametrize("says_length", [True, False])
def test_a_download_without_end(
    says_length: bool, server: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 100_000)
    server.says_length = says_length
    refused(server, "it has more than 100,000 bytes, which no checkpoint has")
    assert len(server.requests) == 1
    assert not list(cached_path(wanted(server)).parent.glob("*.partial"))


def test_a_server_that_drips(server: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block now and then is progress, and never enough."""
    monkeypatch.setattr(download, "SLOWEST", 2**20)
    server.block_seconds = 0.1
    begin = time.monotonic()
    refused(server, "hardly anything came, [0-9,]+ bytes in", timeout=0.3)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_what_is_not_http(server: Behaviour, place: str) -> None:
    server.redirects["/files/net-v1.pth"] = place
    refused(server, f"it leads to '{place}', which is not followed|to url '{place}' is not allowed")
    assert len(server.requests) == 1


def test_a_redirect_away_from_encryption() -> None:
    asked = download.urllib.request.Request("https://example.invalid/x")
    with pytest.raises(download._NetworkError, match="is not followed"):
        download._Redirects().redirect_request(asked, None, 302, "", {}, "http://example.invalid/x")


def test_digits_that_are_not_all_trust_the_first_file_and_no_other(
    server: Behaviour,
) -> None:
    published = wanted(server, 8)
    path = fetch(published)
    note = path.with_name(f"{path.name}.sha256")
    assert note.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {path.name}\n"
    assert fetch(published) == path
    note.write_text(f"{published.sha256}{'0' * 56}  {path.name}\n")  # as of one that came before
    with pytest.raises(WeightsError, match="another file than the one that came first"):
        fetch(published)
    note.unlink()
    assert fetch(published) == path  # of a cache from before there were notes
    assert note.exists()


def refuses(path: Path, words: str) -> None:
    network = torch.nn.Linear(4, 3)
    with pytest.raises(WeightsError, match=words):
        load_checkpoint(network, path)


def test_archives_that_say_more_than_they_have(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "good.pt")
    load_checkpoint(torch.nn.Linear(4, 3), tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in good.infolist():
            large = entry.filename.endswith("data/0")
            bomb.writestr(entry.filename, bytes(2**24) if large else good.read(entry))
    refuses(tmp_path / "bomb.pt", r"says that 16,77\d,\d+ are in it; save the tensors alone")


def test_a_file_of_a_terabyte(tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 2**40)
        refuses(tmp_path / name, "1,099,511,627,776 bytes, a checkpoint at most 17,179,869,184")


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_none(tmp_path: Path) -> None:
    linear = torch.nn.Linear(4, 3).state_dict()
    weights: dict[str, Any] = {
        "sparse": linear["weight"].to_sparse(),
        "nested": torch.nested.nested_tensor([torch.zeros(4)] * 3),
        "meta": torch.empty(3, 4, device="meta"),
        "expanded": torch.zeros(1).expand(2**20, 2**20),
        "complex": torch.zeros(3, 4, dtype=torch.complex64),
    }
    for name, weight in weights.items():
        torch.save({**linear, "weight": weight}, tmp_path / f"{name}.pt")
        refuses(tmp_path / f"{name}.pt", "does not fit the network|not dense tensors")
    torch.save({"k" * 100_000: linear["weight"]}, tmp_path / "long.pt")
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(torch.nn.Linear(4, 3), tmp_path / "long.pt")
    assert len(str(caught.value)) < 1000


def test_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensor = {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}
    deep = {"__metadata__": {"repr-deploy": "[" * 100_000}}
    for header, words in (
        (json.dumps({"weight": tensor}).encode(), "not a whole safetensors file"),
        (b"[" * 100_000, "not a whole safetensors file"),
        (json.dumps(deep).encode(), "how it is stored is damaged"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        refuses(path, words)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refuses(path, "not a whole safetensors file")
