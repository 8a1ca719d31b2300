"""A whole run over real artifacts: rows, accuracies, failures as rows, and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from repr_bench import artifacts as artifacts_module
from repr_bench import inputs as feeds
from repr_bench import run as run_module
from repr_bench.inputs import EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.request import Request
from repr_bench.results.agreement import Flips
from repr_bench.results.file import from_json, to_json
from repr_bench.run import run
from repr_export.errors import PrecisionError
from repr_export.options import ExportOptions
from repr_models.data.images import ImageSet
from repr_models.errors import DataError
from repr_runtime import read_manifest

ArtifactMaker = Callable[..., Path]
WAY_OUT = "give some with --data DIR, or --label-free DIR"
QUICK = Plan(seconds=0.012, samples=12, rounds=12, warmup_seconds=0.01)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """Ten images, of which the linear network's ninth class is right for three."""
    labels = np.array([9, 9, 9, 0, 1, 2, 3, 4, 5, 6])
    images = ImageSet(np.full((10, 32, 32, 3), 200, np.uint8), labels, "ten grey images")
    monkeypatch.setattr(feeds, "_load", lambda _folder: images)
    return images


def request(*targets: object, **changes: Any) -> Request:
    return replace(Request(tuple(map(str, targets)), plan=QUICK, threads=1), **changes)


def test_rows_of_a_real_artifact(make_artifact: ArtifactMaker, no_progress: Any) -> None:
    folder = make_artifact()
    found = run(request(folder, batches=(1, 3)), no_progress)
    assert [(r.label, r.precision, r.batch, r.status) for r in found.rows] == [
        ("linear", "fp32", 1, "measured"),
        ("linear", "fp32", 3, "measured"),
    ]
    for row in found.rows:
        assert row.samples >= 12
        assert len(row.rounds_ns) == 12
        assert row.warmup_ns
        assert row.inputs == "evaluation images"
        assert row.graph is not None
        assert row.graph.bytes == (folder / "model.onnx").stat().st_size
        assert row.graph.parameters == 30_720
        assert row.graph.device == "cpu"
        accuracy = row.graph.accuracy
        assert accuracy is not None
        assert (accuracy.top1, accuracy.images, accuracy.description) == (3, 10, "ten grey images")
    assert not found.interrupted
    assert from_json(to_json(found)) == found
    assert no_progress.advanced[-1][0] == "measuring"


def test_default_batches_are_1_and_8_or_the_fixed_one(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    free, fixed = make_artifact("free"), make_artifact("fixed", batch=4)
    found = run(request(free, fixed), no_progress)
    assert [(r.label, r.batch) for r in found.rows] == [("free", 1), ("free", 8), ("fixed", 4)]
    assert {r.status for r in found.rows} == {"measured"}
    accuracy = found.rows[2].graph and found.rows[2].graph.accuracy
    assert accuracy is not None
    assert (accuracy.top1, accuracy.images) == (3, 10)


def test_a_batch_that_the_graph_does_not_take_is_said(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    found = run(request(make_artifact(batch=4), batches=(1, 4)), no_progress)
    assert [(r.batch, r.status) for r in found.rows] == [(1, "absent"), (4, "measured")]
    assert found.rows[0].reason == "the graph's batch is fixed at 4"


def test_a_missing_precision_is_a_row(make_artifact: ArtifactMaker, no_progress: Any) -> None:
    found = run(request(make_artifact(), batches=(1,), precisions=("fp32", "fp16")), no_progress)
    assert [(r.precision, r.batch, r.status) for r in found.rows] == [
        ("fp32", 1, "measured"),
        ("fp16", None, "absent"),
    ]
    assert found.rows[1].reason == ("no fp16 graph in this artifact; export it again with --fp16")


def test_what_fails_is_a_row_and_the_rest_goes_on(
    make_artifact: ArtifactMaker, no_progress: Any, tmp_path: Path
) -> None:
    good, altered = make_artifact("good"), make_artifact("altered")
    content = bytearray((altered / "model.onnx").read_bytes())
    content[100] ^= 1
    (altered / "model.onnx").write_bytes(content)
    missing = tmp_path / "missing"
    found = run(request(altered, missing, "resnet2000", good, batches=(1,)), no_progress)
    assert [(r.label, r.status) for r in found.rows] == [
        ("altered", "failed"),
        (str(missing), "failed"),
        ("resnet2000", "failed"),
        ("good", "measured"),
    ]
    assert "was altered" in found.rows[0].reason
    assert "no such folder" in found.rows[1].reason
    assert "resnet20" in found.rows[2].reason


def test_a_network_that_breaks_while_timed_is_a_row(
    make_artifact: ArtifactMaker, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = run_module.load

    def breaking(path: Path, **options: Any) -> Any:
        session = load(path, **options)
        if path.name == "bad":
            session.run = lambda *_: 1 / 0  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(run_module, "load", breaking)
    bad = make_artifact("bad", dataset=None)
    found = run(request(bad, make_artifact("good"), batches=(1,)), no_progress)
    assert [r.status for r in found.rows] == ["failed", "measured"]
    assert found.rows[0].reason == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"weights": "random"}, "random weights"),
        (
            {"dataset": "imagenet"},
            f"no evaluation images for dataset imagenet; {WAY_OUT}",
        ),
        (
            {"dataset": None},
            f"no evaluation images for dataset unknown; {WAY_OUT}",
        ),
        ({"preprocessing": False}, "the artifact does not say how images become inputs"),
    ],
)
def test_no_accuracy_says_why(
    make_artifact: ArtifactMaker, no_progress: Any, options: dict[str, Any], note: str
) -> None:
    row = run(request(make_artifact(**options), batches=(2,)), no_progress).rows[0]
    assert row.status == "measured"
    assert row.graph is not None
    assert row.graph.accuracy is None
    assert row.graph.accuracy_note == note


def test_without_images_noise_is_fed(make_artifact: ArtifactMaker, no_progress: Any) -> None:
    row = run(request(make_artifact(dataset=None), batches=(1,)), no_progress).rows[0]
    assert row.inputs == feeds.NOISE


def test_free_dimensions_that_are_no_batch_are_refused(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    folder = make_artifact(dataset=None, size="height")
    row = run(request(folder, batches=(1,)), no_progress).rows[0]
    assert row.status == "absent"
    assert "'height'" in row.reason


def test_the_same_artifact_twice_is_measured_once(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    folder = make_artifact()
    found = run(request(folder, folder, f"{folder}/../linear", batches=(1,)), no_progress)
    assert len(found.rows) == 1


def test_artifacts_of_one_name_keep_apart(
    make_artifact: ArtifactMaker, no_progress: Any, tmp_path: Path
) -> None:
    first, second = make_artifact(parent=tmp_path / "a"), make_artifact(parent=tmp_path / "b")
    found = run(request(first, second, batches=(1,)), no_progress)
    assert [r.label for r in found.rows] == ["linear", str(second)]


def test_ctrl_c_while_timing_keeps_what_was_measured(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    def advance(what: str, done: float, total: float) -> None:
        if what == "measuring" and done > total / 2:
            raise KeyboardInterrupt

    no_progress.advance = advance
    found = run(request(make_artifact(), batches=(1, 2)), no_progress)
    assert found.interrupted
    assert [r.status for r in found.rows] == ["interrupted", "interrupted"]
    assert all(r.samples > 0 for r in found.rows)
    assert "of 12 rounds" in found.rows[0].reason


def test_ctrl_c_before_timing_lists_what_was_prepared(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    seen: list[str] = []

    def advance(what: str, _done: float, _total: float) -> None:
        seen.append(what)
        if "second" in what:
            raise KeyboardInterrupt

    no_progress.advance = advance
    targets = make_artifact("first"), make_artifact("second")
    found = run(request(*targets, batches=(1,)), no_progress)
    assert found.interrupted
    assert [(r.label, r.status) for r in found.rows] == [("first", "interrupted")]
    assert found.rows[0].reason == "interrupted before it was measured"


def test_the_rows_are_timed_on_what_was_asked_for(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    found = run(request(make_artifact(), batches=(1,), device="cpu", threads=1), no_progress)
    assert (found.settings.device, found.settings.threads) == ("cpu", 1)
    assert found.rows[0].graph is not None
    assert "as asked for" in found.rows[0].graph.choice


class TestNames:
    """A network's name stands for its artifact in the artifacts folder."""

    @pytest.fixture(autouse=True)
    def exporter(self, monkeypatch: pytest.MonkeyPatch, make_artifact: ArtifactMaker) -> None:
        import repr_export.pipeline
        from repr_models.weights import bundled as weights

        self.exported: list[str] = []
        self.precisions: list[tuple[str, ...]] = []
        self.fails = False
        from repr_models.registry import resolve

        record = {"weights_sha256": "ab" * 32}
        monkeypatch.setattr(weights, "is_bundled", lambda spec: spec.name == "lenet5.cifar10")
        monkeypatch.setattr(weights, "bundled_record", lambda _spec: record)

        def export(name: str, out: Path, options: ExportOptions | None = None) -> Any:
            from types import SimpleNamespace

            lower = options.precision.names if options else ()
            if self.fails and lower:
                raise PrecisionError("int8 loses 3 points of top-1, 0.5 may be lost")
            self.exported.append(name)
            self.precisions.append(lower)
            path = make_artifact(
                *(name,),
                parent=out,
                network="lenet5.cifar10",
                record={"bar": resolve(name).bar},
                more_precisions=lower,
            )
            return SimpleNamespace(path=path)

        monkeypatch.setattr(repr_export.pipeline, "export", export)

    def find(self, name: str, folder: Path, *precisions: str) -> tuple[Path, list[str]]:
        told: list[str] = []
        return artifacts_module.find_artifact(name, folder, told.append, precisions), told

    def test_is_exported_when_missing_and_reused_after(self, tmp_path: Path) -> None:
        path, told = self.find("lenet5", tmp_path)
        assert path == tmp_path / "lenet5"
        assert told == [f"exporting lenet5.cifar10 to {path}"]
        again, told = self.find("lenet5", tmp_path)
        assert (again, told) == (path, [])
        assert self.exported == ["lenet5"]

    def test_is_exported_with_the_precisions_that_are_measured(self, tmp_path: Path) -> None:
        path, told = self.find("lenet5", tmp_path, "fp32", "fp16", "int8")
        assert told == [f"exporting lenet5.cifar10 to {path}, in fp16, int8 too"]
        assert self.precisions == [("fp16", "int8")]
        # what is there is not altered: the way to add to it is said
        before = (path / "manifest.json").read_bytes()
        assert self.find("lenet5", tmp_path, "bf16") == (path, [])
        assert (path / "manifest.json").read_bytes() == before
        manifest = read_manifest(path)
        how = artifacts_module.how_to_add(manifest, path, "bf16")
        assert how == f"add it: repr-export lenet5 --fp16 --int8 --bf16 -o {tmp_path}"
        assert artifacts_module.how_to_add(manifest, path, "int8") == ""

    def test_is_exported_in_fp32_where_a_lower_precision_costs_too_much(
        self, tmp_path: Path
    ) -> None:
        self.fails = True
        path, told = self.find("lenet5", tmp_path, "fp32", "int8")
        assert "int8 loses 3 points" in told[-1]
        assert told[-1].endswith("exporting lenet5.cifar10 in fp32 alone")
        assert read_manifest(path).precisions == ("fp32",)

    def test_what_is_exported_again_keeps_its_precisions(
        self, tmp_path: Path, make_artifact: ArtifactMaker
    ) -> None:
        make_artifact(
            "lenet5", network="lenet5.cifar10", sha256="00" * 32, more_precisions=("fp16",)
        )
        self.find("lenet5", tmp_path, "fp32", "int8")
        assert self.precisions == [("fp16", "int8")]

    def test_is_exported_again_for_other_bundled_weights(
        self, tmp_path: Path, make_artifact: ArtifactMaker
    ) -> None:
        make_artifact("lenet5", network="lenet5.cifar10", sha256="00" * 32)
        _, told = self.find("lenet5", tmp_path)
        assert self.exported == ["lenet5"]
        assert "other weights" in told[0]

    def test_is_exported_again_for_another_bar(
        self, tmp_path: Path, make_artifact: ArtifactMaker
    ) -> None:
        make_artifact("lenet5", network="lenet5.cifar10", record={"bar": 0.99})
        _, told = self.find("lenet5", tmp_path)
        assert self.exported == ["lenet5"]
        assert "another bar" in told[0]

    def test_is_exported_again_when_damaged(
        self, tmp_path: Path, make_artifact: ArtifactMaker
    ) -> None:
        folder = make_artifact("lenet5", network="lenet5.cifar10")
        (folder / "model.onnx").write_bytes(b"")
        _, told = self.find("lenet5", tmp_path)
        assert self.exported == ["lenet5"]
        assert "damaged" in told[0]

    @pytest.mark.parametrize(("kind", "words"), [("random", "random"), ("file", "linear.safe")])
    def test_with_weights_of_the_users_own_is_left_alone(
        self, tmp_path: Path, make_artifact: ArtifactMaker, kind: str, words: str
    ) -> None:
        folder = make_artifact("lenet5", network="lenet5.cifar10", weights=kind, sha256=None)
        before = (folder / "manifest.json").read_bytes()
        _, told = self.find("lenet5", tmp_path)
        assert self.exported == []
        assert words in told[0]
        assert (folder / "manifest.json").read_bytes() == before

    def test_of_another_network_in_its_place_is_an_error(
        self, tmp_path: Path, make_artifact: ArtifactMaker
    ) -> None:
        make_artifact("lenet5", network="somebody.else")
        with pytest.raises(ValueError, match=r"holds somebody\.else"):
            self.find("lenet5", tmp_path)
        assert self.exported == []

    def test_without_trained_weights_says_how_to_get_an_artifact(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"repr-export shufflenet_v1.imagenet --weights FILE .*-o \S+$"
        ):
            self.find("shufflenet_v1.imagenet", tmp_path)


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

    def select(self, monkeypatch: pytest.MonkeyPatch, *taken: str, **how: bool) -> Any:
        from repr_models import registry
        from repr_models.weights import bundled as weights

        bundled = {name: self.BUNDLED[name] for name in taken or self.BUNDLED}
        known = [
            replace(spec, bar=bundled.get(spec.name, (0.0, spec.bar))[1])
            for spec in list(registry.networks())
        ]
        monkeypatch.setattr(registry, "registered", {spec.name: spec for spec in known})
        monkeypatch.setattr(weights, "is_bundled", lambda spec: spec.name in bundled)
        monkeypatch.setattr(registry, "is_bundled", lambda spec: spec.name in bundled)
        monkeypatch.setattr(
            weights,
            "bundled_record",
            lambda spec: {"accuracy": {"test_top1": bundled[spec.name][0]}},
        )
        self.without = len(known) - len(bundled)
        return artifacts_module.default_selection(**how)

    def test_takes_those_that_reach_their_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.select(monkeypatch)
        assert set(found.names) == {"lenet5", "resnet20", "resnet18"}
        assert "resnet32 (91.90 %, below its bar of 92 %)" in found.note
        assert "plain56 (shows degradation, and has no bar)" in found.note
        assert "--all-bundled takes these too" in found.note
        assert found.note.endswith(f"{self.without} networks have no bundled weights (--list)")
        assert "\n" not in found.note

    def test_takes_all_bundled_if_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.select(monkeypatch, all_bundled=True)
        assert set(found.names) == {name.split(".")[0] for name in self.BUNDLED}
        assert "below" not in found.note
        assert "no bundled weights" in found.note

    def test_is_not_empty_while_anything_is_bundled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.select(monkeypatch, "resnet32.cifar10").names == ("resnet32",)

    def test_without_any_weights_is_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self, "BUNDLED", {})
        assert self.select(monkeypatch).names == ()


def test_the_bar_of_the_artifact_is_its_rows(
    make_artifact: ArtifactMaker, no_progress: Any
) -> None:
    record = {"bar": 0.92, "accuracy": {"test_top1": 0.9}}
    for number, (each, below) in enumerate(
        ((record, True), ({**record, "bar": 0.9}, False), ({"bar": "x"}, False))
    ):
        folder = make_artifact(f"linear{number}", record=each)
        found = run(request(folder, batches=(1,)), no_progress)
        assert found.rows[0].graph is not None
        assert found.rows[0].graph.below_bar is below


class TestAnswers:
    """What the rows say of their graphs' answers."""

    @pytest.fixture
    def both(self, make_artifact: ArtifactMaker) -> Path:
        """An artifact whose int8 graph is its fp32 graph."""
        return make_artifact(more_precisions=("int8",))

    def test_one_pass_judges_every_precision(self, both: Path, no_progress: Any) -> None:
        found = run(request(both, batches=(1,), precisions=("fp32", "int8")), no_progress)
        fp32, int8 = (row.graph for row in found.rows)
        assert fp32 is not None
        assert int8 is not None
        assert (fp32.flips, fp32.agreement) == (None, None)
        assert int8.flips == Flips(0, 0)
        assert int8.agreement is not None
        assert int8.agreement.reference == "its fp32 graph"
        assert (int8.agreement.same, int8.agreement.images) == (10, 10)
        assert [what for what, *_ in no_progress.advanced].count("accuracy of linear") == 1

    def test_fp32_is_opened_to_compare_with(self, both: Path, no_progress: Any) -> None:
        found = run(request(both, batches=(1,), precisions=("int8",)), no_progress)
        assert len(found.rows) == 1
        assert found.rows[0].graph is not None
        assert found.rows[0].graph.flips == Flips(0, 0)

    def test_any_images_do_for_agreement(
        self, both: Path, no_progress: Any, tmp_path: Path
    ) -> None:
        pictures = write_pictures(tmp_path / "pictures")
        (pictures / "broken.png").write_bytes(b"no image")
        images = EvaluationImages(label_free=pictures)
        found = run(
            request(both, batches=(4,), precisions=("fp32", "int8"), images=images), no_progress
        )
        fp32, int8 = (row.graph for row in found.rows)
        assert {row.inputs for row in found.rows} == {"evaluation images"}
        assert fp32 is not None
        assert int8 is not None
        assert fp32.accuracy is None
        assert "nothing to compare" in fp32.accuracy_note
        assert int8.agreement is not None
        assert (int8.agreement.same, int8.agreement.images, int8.skipped) == (3, 3, 1)
        assert "broken.png" in int8.skip_reason

    def test_images_that_cannot_be_read_leave_the_latency(
        self, both: Path, no_progress: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "broken.png").write_bytes(b"no image")
        images = EvaluationImages(label_free=tmp_path / "pictures")
        row = run(request(both, batches=(1,), images=images), no_progress).rows[0]
        assert (row.status, row.inputs) == ("measured", feeds.NOISE)
        assert row.graph is not None
        assert "broken.png" in row.graph.accuracy_note


def write_pictures(root: Path, *folders: str) -> Path:
    """Three grey pictures in ``root``, or in each folder of it."""
    from PIL import Image

    for folder in folders or ("",):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            image = Image.new("RGB", (40, 36), (200, 10 * number, 0))
            image.save(root / folder / f"{number}.png")
    return root


class TestChosenImages:
    """Which images an artifact is judged on."""

    @pytest.fixture(autouse=True)
    def no_cifar10(self, monkeypatch: pytest.MonkeyPatch, few_images: ImageSet) -> None:
        def absent(folder: Path | None) -> ImageSet:
            if folder is None or folder.name == "cifar10":
                return few_images
            raise DataError("no CIFAR-10 here")

        monkeypatch.setattr(feeds, "_load", absent)

    def chosen(self, artifact: Path, **how: Any) -> tuple[Any, str]:
        return EvaluationImages(**how).for_artifact(read_manifest(artifact))

    def test_a_folder_by_class_for_any_classes(
        self, make_artifact: ArtifactMaker, tmp_path: Path, no_progress: Any
    ) -> None:
        folder = write_pictures(tmp_path / "pictures", "9", "3")
        artifact = make_artifact(dataset=None, classes=12)
        images, _ = self.chosen(artifact, folder=folder)
        assert images.labels.tolist() == [3, 3, 3, 9, 9, 9]
        row = run(
            request(artifact, batches=(1,), images=EvaluationImages(folder)),
            no_progress,
        ).rows[0]
        assert row.graph is not None
        assert row.graph.accuracy is not None
        assert (row.graph.accuracy.top1, row.graph.accuracy.top5) == (0, 3)  # the last class wins

    def test_imagenet_goes_by_wordnet_ids(
        self, make_artifact: ArtifactMaker, tmp_path: Path
    ) -> None:
        folder = write_pictures(tmp_path / "pictures", "n01440764", "n15075141")
        images, _ = self.chosen(make_artifact(dataset="imagenet", classes=1000), folder=folder)
        assert images.labels.tolist() == [0] * 3 + [999] * 3
        with pytest.raises(DataError, match="no classes of the network"):
            self.chosen(make_artifact("own", dataset=None, classes=1000), folder=folder)

    def test_cifar10_is_for_its_networks(
        self, make_artifact: ArtifactMaker, tmp_path: Path, few_images: ImageSet
    ) -> None:
        folder = tmp_path / "cifar10"
        assert self.chosen(make_artifact("one"), folder=folder)[0] is few_images
        images, note = self.chosen(make_artifact("two", dataset="imagenet"), folder=folder)
        assert images is None
        assert "holds CIFAR-10" in note

    def test_a_part_is_drawn_evenly(self, make_artifact: ArtifactMaker, tmp_path: Path) -> None:
        artifact = make_artifact()
        images, _ = self.chosen(artifact, limit=8)
        assert images.labels.tolist() == [9, 0, 1, 2, 3, 4, 5, 6]  # one of the three nines
        assert images.description == "8 drawn evenly by class (seed 0) from ten grey images"
        images, _ = self.chosen(artifact, label_free=write_pictures(tmp_path / "p"), limit=2)
        assert len(images) == 2

    def test_a_folder_without_images_is_refused_at_once(self, tmp_path: Path) -> None:
        for how in ("folder", "label_free"):
            with pytest.raises(DataError, match="holds no images"):
                EvaluationImages(**{how: tmp_path}).check()
        write_pictures(tmp_path)
        EvaluationImages(folder=tmp_path).check()
        EvaluationImages(label_free=tmp_path).check()
