"""From names to artifact folders: what is taken, exported, exported again, or left alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import repr_export.pipeline
from repr_bench.artifacts import default_selection, find_artifact, how_to_add
from repr_bench.errors import UsageError
from repr_export.errors import PrecisionError
from repr_export.options import ExportOptions
from repr_models import registry
from repr_models.registry import resolve
from repr_models.weights import bundled as weights
from repr_runtime import read_manifest

Maker = Callable[..., Path]


class TestNames:
    """A network's name stands for its artifact in the artifacts folder."""

    @pytest.fixture(autouse=True)
    def exporter(
        self, monkeypatch: pytest.MonkeyPatch, make_artifact: Maker, tmp_path: Path
    ) -> None:
        self.exported: list[tuple[str, tuple[str, ...]]] = []
        """Names, with the lower precisions."""
        self.fails = False
        self.place = tmp_path
        record = {"weights_sha256": "ab" * 32}
        monkeypatch.setattr(weights, "is_bundled", lambda spec: spec.name == "lenet5.cifar10")
        monkeypatch.setattr(weights, "bundled_record", lambda _spec: record)

        def export(name: str, out: Path, options: ExportOptions | None = None) -> Any:
            lower = options.precision.names if options else ()
            if self.fails and lower:
                raise PrecisionError("int8 loses 3 points of top-1, 0.5 may be lost")
            self.exported.append((name, lower))
            what = {"network": "lenet5.cifar10", "record": {"bar": resolve(name).bar}}
            return SimpleNamespace(
                path=make_artifact(name, parent=out, more_precisions=lower, **what)
            )

        monkeypatch.setattr(repr_export.pipeline, "export", export)

    def find(self, name: str, *precisions: str) -> tuple[Path, list[str]]:
        told: list[str] = []
        return find_artifact(name, self.place, told.append, precisions), told

    def test_is_exported_when_missing_and_reused_after(self) -> None:
        path = self.place / "lenet5"
        assert self.find("lenet5") == (path, [f"exporting lenet5.cifar10 to {path}"])
        assert self.find("lenet5") == (path, [])
        assert self.exported == [("lenet5", ())]

    def test_is_exported_with_the_precisions_that_are_measured(self) -> None:
        path, told = self.find("lenet5", "fp32", "fp16", "int8")
        assert told == [f"exporting lenet5.cifar10 to {path}, in fp16, int8 too"]
        assert self.exported == [("lenet5", ("fp16", "int8"))]
        # what is there is not altered: the way to add to it is said
        before = (path / "manifest.json").read_bytes()
        assert self.find("lenet5", "bf16") == (path, [])
        assert (path / "manifest.json").read_bytes() == before
        manifest = read_manifest(path)
        how = how_to_add(manifest, path, "bf16")
        assert how == f"add it: repr-export lenet5 --fp16 --int8 --bf16 -o {self.place}"
        assert how_to_add(manifest, path, "int8") == ""

    def test_is_exported_in_fp32_where_a_lower_precision_costs_too_much(self) -> None:
        self.fails = True
        path, told = self.find("lenet5", "fp32", "int8")
        assert told[-1].endswith("exporting lenet5 in fp32 alone")
        assert read_manifest(path).precisions == ("fp32",)

    @pytest.mark.parametrize(
        ("there", "words"),
        [
            ({"sha256": "00" * 32}, "other weights"),
            ({"record": {"bar": 0.99}}, "another bar"),
            ({}, "damaged"),
        ],
    )
    def test_is_exported_again_in_all_its_precisions(
        self, make_artifact: Maker, there: dict[str, Any], words: str
    ) -> None:
        half = ("fp16",)
        folder = make_artifact("lenet5", network="lenet5.cifar10", more_precisions=half, **there)
        if words == "damaged":
            (folder / "model.onnx").write_bytes(b"")
        _, told = self.find("lenet5", "fp32", "int8")
        assert self.exported == [("lenet5", ("fp16", "int8"))]
        assert words in told[0]

    @pytest.mark.parametrize(("kind", "words"), [("random", "random"), ("file", "linear.safe")])
    def test_with_weights_of_the_users_own_is_left_alone(
        self, make_artifact: Maker, kind: str, words: str
    ) -> None:
        folder = make_artifact("lenet5", network="lenet5.cifar10", weights=kind, sha256=None)
        before = (folder / "manifest.json").read_bytes()
        _, told = self.find("lenet5")
        assert (self.exported, words in told[0]) == ([], True)
        assert (folder / "manifest.json").read_bytes() == before

    def test_of_another_network_in_its_place_is_an_error(self, make_artifact: Maker) -> None:
        make_artifact("lenet5", network="somebody.else")
        with pytest.raises(UsageError, match=r"somebody\.else"):
            self.find("lenet5")
        assert self.exported == []

    def test_without_trained_weights_says_how_to_get_an_artifact(self) -> None:
        with pytest.raises(
            UsageError, match=r"repr-export shufflenet_v1.imagenet --weights FILE .*-o \S+$"
        ):
            self.find("shufflenet_v1.imagenet")


class TestSelection:
    """What a run takes that names no network."""

    BUNDLED: ClassVar = {
        "lenet5.cifar10": (0.74, 0.70),
        "resnet20.cifar10": (0.92, 0.92),
        "resnet32.cifar10": (0.919, 0.92),
        "resnet18.imagenet": (0.5, None),
        "plain56.cifar10": (0.86, None),
    }
    """The accuracy of bundled weights, and the bar."""

    @pytest.fixture(autouse=True)
    def networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bundled = self.bundled = dict(self.BUNDLED)
        known = [
            replace(spec, bar=bundled.get(spec.name, (0.0, spec.bar))[1])
            for spec in registry.networks()
        ]
        self.known = len(known)
        monkeypatch.setattr(registry, "registered", {spec.name: spec for spec in known})
        for module in (weights, registry):
            monkeypatch.setattr(module, "is_bundled", lambda spec: spec.name in bundled)
        record = {name: {"accuracy": {"test_top1": top1}} for name, (top1, _) in bundled.items()}
        monkeypatch.setattr(weights, "bundled_record", lambda spec: record[spec.name])

    def test_takes_those_that_reach_their_bar(self) -> None:
        names, note = default_selection()
        assert set(names) == {"lenet5", "resnet20", "resnet18"}
        without = self.known - len(self.bundled)
        assert note == (
            "left out: resnet32 (91.90 %, below its bar of 92 %), "
            "plain56 (shows degradation, and has no bar): --all-bundled takes these too; "
            f"{without} networks have no bundled weights (--list)"
        )

    def test_takes_all_bundled_if_asked(self) -> None:
        names, note = default_selection(all_bundled=True)
        assert set(names) == {name.split(".")[0] for name in self.BUNDLED}
        without = self.known - len(self.bundled)
        assert note == f"left out: {without} networks have no bundled weights (--list)"

    def test_takes_the_smallest_at_its_bar_of_each_family(self) -> None:
        names, note = default_selection(each_family=True)
        families = {resolve(name).family for name in self.BUNDLED}
        assert sorted(resolve(name).family for name in names) == sorted(families)
        assert set(names) == {"lenet5", "resnet20", "plain56"}
        without = self.known - len(self.bundled)
        other = "another of its family is taken"
        assert note == (
            f"left out: resnet32 ({other}), resnet18 ({other}): --all-bundled takes these too; "
            f"{without} networks have no bundled weights (--list)"
        )
        spec = registry.registered["resnet20.cifar10"]  # ... and where the smallest misses it
        registry.registered[spec.name] = replace(spec, bar=0.95)
        assert "resnet18" in default_selection(each_family=True)[0]

    def test_is_empty_only_without_any_bundled_weights(self) -> None:
        below = self.bundled["resnet32.cifar10"]
        self.bundled.clear()
        assert default_selection()[0] == ()
        self.bundled["resnet32.cifar10"] = below
        assert default_selection()[0] == ("resnet32",)


def test_a_precision_that_this_machine_cannot_run_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    first = find_artifact("lenet5", tmp_path, told.append, ("fp32", "bf16"))
    made = (first / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr("repr_runtime.backends.openvino.backend.why_not", lambda _: "an old CPU")
    assert find_artifact("lenet5", tmp_path, told.append, ("fp32", "bf16")) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made
    assert not any("damaged" in words for words in told)
