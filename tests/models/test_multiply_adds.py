"""The stored multiply-adds are those of the networks as they are."""

import json
from pathlib import Path

import pytest
from layer_costs import on_meta

from repr_models import count, networks
from repr_models import spec as spec_module
from repr_models.registry import resolve
from repr_models.spec import NetworkSpec, stored_multiply_adds

ALL = list(networks())


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_stored_is_what_is_counted(spec: NetworkSpec) -> None:
    counted = count.multiply_adds(on_meta(spec.name), spec.input_shape[1])
    assert spec.multiply_adds == counted, f"write the file again: {count.COMMAND}"


def test_nothing_is_stored_of_networks_that_are_not_there() -> None:
    assert set(stored_multiply_adds()) <= {spec.name for spec in ALL}


def test_a_network_without_an_entry_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_module, "stored_multiply_adds", dict)
    assert resolve("lenet5").multiply_adds is None


def test_the_command_writes_and_checks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [resolve("lenet5.cifar10"), resolve("resnet20.cifar10")]
    monkeypatch.setattr(count, "networks", lambda: iter(small))
    monkeypatch.setattr(count.resources, "files", lambda _package: tmp_path)
    assert count.main([]) == 0
    written = json.loads((tmp_path / "multiply_adds.json").read_text())
    assert written == {"lenet5.cifar10": 651_720, "resnet20.cifar10": 40_551_040}
    monkeypatch.setattr(count, "stored_multiply_adds", lambda: written)
    assert count.main(["--check"]) == 0
    capsys.readouterr()
    written["resnet20.cifar10"] += 1
    assert count.main(["--check"]) == 1
    assert "out of date for resnet20.cifar10: python -m" in capsys.readouterr().out
