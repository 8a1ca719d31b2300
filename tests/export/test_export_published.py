"""repr-export with a published checkpoint: fetched from the loopback, said, and without a network."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_server import Behaviour, serving

from repr_export import cli
from repr_export.options import ExportOptions
from repr_export.sources.opening import open_source
from repr_models import Published, registry, resolve
from repr_models.weights.randomize import randomize
from repr_runtime import load

NAME, FILE = "lenet5.cifar10", "net-v1.pth"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    """``NAME`` with a published checkpoint and nothing bundled; served, and no proxy before it."""
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    spec = resolve(NAME)
    network = spec.build()
    randomize(network, "published", spec.input_shape)
    torch.save(network.state_dict(), tmp_path / FILE)
    content = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr("repr_models.weights.loading.is_bundled", lambda _: False)
    with serving(Behaviour(content)) as server:
        sha256 = hashlib.sha256(content).hexdigest()
        found = Published("a library's Net_Weights.V1", server.url, sha256, 0.7613)
        monkeypatch.setitem(registry.registered, NAME, replace(spec, published=found))
        yield found


def test_a_published_checkpoint_is_fetched_exported_and_said(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main([NAME, "-o", str(out)]) == 0
    printed = capsys.readouterr()
    size = (tmp_path / FILE).stat().st_size / 1e6
    name = f"{published.sha256[:8]}-{FILE}"
    assert printed.err == f"downloading {name} ({size:.1f} MB)\n"
    assert (
        f"weights   published ({published.url}): a library's Net_Weights.V1, "
        f"76.13% top-1 on ImageNet as published\n" in printed.out
    )
    with load(out / NAME, device="cpu") as session:
        weights = session.manifest.weights
        assert (weights.kind, weights.location) == ("published", published.url)
        assert weights.sha256 == published.sha256
        session.self_test()

    # the second time it is there already
    told: list[str] = []
    source = open_source(NAME, ExportOptions(), lambda name, *_: told.append(name))
    assert source.weights.kind == "published"
    assert told == []


def test_quiet_says_nothing_of_a_download(
    published: Published, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([NAME, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "cache" / "weights" / f"{published.sha256[:8]}-{FILE}").is_file()


@pytest.mark.usefixtures("published")
def test_a_terminal_sees_a_bar_and_then_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main([NAME, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().err
    assert FILE in shown
    assert "MB" in shown
    assert shown.index(FILE) < shown.rindex("capturing the graph")
    assert "downloading" not in shown


def test_without_a_network_there_is_one_sentence(
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = replace(published, url="http://127.0.0.1:9/net-v1.pth")  # nobody is there
    monkeypatch.setitem(registry.registered, NAME, replace(resolve(NAME), published=gone))
    assert cli.main([NAME, "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("repr-export: http://127.0.0.1:9/net-v1.pth cannot be fetched: ")
    cached = tmp_path / "cache" / "weights" / f"{gone.sha256[:8]}-{FILE}"
    assert f"put it at {cached} or give it with --weights FILE" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()

    # both ways out
    given = open_source(NAME, ExportOptions(weights=tmp_path / FILE)).weights
    cached.write_bytes((tmp_path / FILE).read_bytes())
    put_there = open_source(NAME, ExportOptions()).weights
    assert (given.kind, put_there.kind) == ("file", "published")
    assert given.sha256 == put_there.sha256 == gone.sha256
