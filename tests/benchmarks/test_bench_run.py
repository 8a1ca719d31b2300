"""A whole run over real artifacts: rows, accuracies, failures as rows, and Ctrl-C."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repr_bench import run as run_module
from repr_bench.inputs import NOISE, EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.request import Request
from repr_bench.results.file import from_json, to_json
from repr_bench.results.graph import Flips
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.run import run
from repr_runtime import Session, load
from repr_runtime.errors import DeviceUnavailableError

Maker, Bench = Callable[..., Path], Callable[..., Results]
WAY_OUT = "give some with --data DIR, or --label-free DIR"
QUICK = Plan(seconds=0.012, samples=12, rounds=12, warmup_seconds=0.01)

pytestmark = pytest.mark.usefixtures("ten_images")


@pytest.fixture
def bench(no_progress: Any) -> Bench:
    """Runs it on targets, at batch size 1 unless told another."""

    def ran(*targets: object, **asked: Any) -> Results:
        given = {"batches": (1,), "plan": QUICK, "threads": 1, **asked}
        return run(Request(tuple(map(str, targets)), **given), no_progress)

    return ran


def graph(row: Row) -> Any:
    return row.graph


def test_rows_of_a_real_artifact(make_artifact: Maker, bench: Bench, no_progress: Any) -> None:
    folder = make_artifact()
    found = bench(folder, batches=(1, 3), device="cpu")
    assert [row.batch for row in found.rows] == [1, 3]
    for row in found.rows:
        assert (row.label, row.precision, row.status) == ("linear", "fp32", "measured")
        assert row.samples >= len(row.rounds_ns) == 12
        assert row.warmup_ns
        assert row.inputs == "evaluation images"
        size = (folder / "model.onnx").stat().st_size
        of = graph(row)
        assert (of.bytes, of.parameters, of.device) == (size, 30_720, "cpu")
        assert "as asked for" in of.choice
        assert of.accuracy == replace(of.accuracy, top1=3, images=10, description="ten grey images")
    assert (found.settings.device, found.settings.threads) == ("cpu", 1)
    assert not found.interrupted
    assert from_json(to_json(found)) == found
    assert no_progress.advanced[-1][0] == "measuring"


def test_sessions_are_opened_anew_within_a_run_and_the_old_ones_closed(
    make_artifact: Maker, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Session] = []
    alive: list[int] = []
    closed: set[int] = set()
    close = Session.close

    def load_and_note(*args: Any, **more: Any) -> Session:
        opened.append(load(*args, **more))
        alive.append(len(opened) - len(closed))
        return opened[-1]

    def close_and_note(session: Session) -> None:
        closed.add(id(session))
        close(session)

    monkeypatch.setattr(run_module, "load", load_and_note)
    monkeypatch.setattr(Session, "close", close_and_note)
    found = bench(make_artifact(), batches=(1, 3), device="cpu")
    # one for what libraries take once; the rows share theirs; 12 rounds are three openings
    assert len(opened) == len(closed) == 1 + 3
    assert {row.status for row in found.rows} == {"measured"}
    assert max(alive) == 2  # the old one keeps its memory until the new one has its own


def test_default_batches_are_1_and_8_or_the_fixed_one(make_artifact: Maker, bench: Bench) -> None:
    rows = bench(make_artifact("free"), make_artifact("fixed", batch=4), batches=None).rows
    assert [(r.label, r.batch) for r in rows] == [("free", 1), ("free", 8), ("fixed", 4)]
    assert {r.status for r in rows} == {"measured"}
    assert graph(rows[2]).accuracy == graph(rows[0]).accuracy


def test_what_an_artifact_does_not_have_is_a_row_that_says_so(
    make_artifact: Maker, bench: Bench
) -> None:
    found = bench(make_artifact(batch=4), batches=(1, 4), precisions=("fp32", "fp16"))
    assert [(r.precision, r.batch, r.status, r.reason) for r in found.rows] == [
        ("fp32", 1, "absent", "the graph's batch is fixed at 4"),
        ("fp32", 4, "measured", ""),
        (*("fp16", None, "absent"), "no fp16 graph in this artifact; export it again with --fp16"),
    ]


def test_a_precision_that_this_machine_does_not_compute_is_absent_unless_its_device_was_asked_for(
    make_artifact: Maker, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, load = make_artifact(more_precisions=("bf16",)), run_module.load

    def loaded(path: Path, **options: Any) -> Any:
        if options.get("precision") == "bf16":
            raise DeviceUnavailableError("bf16 would only be emulated")
        return load(path, **options)

    monkeypatch.setattr(run_module, "load", loaded)
    for device, status in (("auto", "absent"), ("cpu", "failed")):
        fp32, bf16 = bench(folder, precisions=("fp32", "bf16"), device=device).rows
        assert (fp32.status, bf16.status) == ("measured", status)
        assert bf16.reason == "bf16 would only be emulated"


def test_what_fails_is_a_row_and_the_rest_goes_on(
    make_artifact: Maker, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered, bad = make_artifact("altered"), make_artifact("bad", dataset=None)
    content = bytearray((altered / "model.onnx").read_bytes())
    content[100] ^= 1
    (altered / "model.onnx").write_bytes(content)
    load = run_module.load

    def breaking(path: Path, **options: Any) -> Any:
        session = load(path, **options)
        if path.name == "bad":
            session.run = lambda *_: 1 / 0  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(run_module, "load", breaking)
    missing = tmp_path / "missing"
    *failed, good = bench(altered, missing, "resnet2000", bad, make_artifact("good")).rows
    assert [row.label for row in failed] == ["altered", str(missing), "resnet2000", "bad"]
    assert ({row.status for row in failed}, good.status) == ({"failed"}, "measured")
    parts = ("was altered", "no such folder", "resnet20", "ZeroDivisionError: division by zero")
    for row, part in zip(failed, parts, strict=True):
        assert part in row.reason


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"weights": "random"}, "random weights"),
        ({"dataset": "imagenet"}, f"no evaluation images for dataset imagenet; {WAY_OUT}"),
        ({"dataset": None}, f"no evaluation images for dataset unknown; {WAY_OUT}"),
        ({"preprocessing": False}, "the artifact does not say how images become inputs"),
    ],
)
def test_no_accuracy_says_why(
    make_artifact: Maker, bench: Bench, options: dict[str, Any], note: str
) -> None:
    (row,) = bench(make_artifact(**options)).rows
    assert (row.status, graph(row).accuracy, graph(row).accuracy_note) == ("measured", None, note)
    assert row.inputs == ("evaluation images" if "weights" in options else NOISE)


def test_free_dimensions_that_are_no_batch_are_refused(make_artifact: Maker, bench: Bench) -> None:
    (row,) = bench(make_artifact(dataset=None, size="height")).rows
    assert row.status == "absent"
    assert "'height'" in row.reason


def test_an_artifact_is_measured_once_and_those_of_one_name_keep_apart(
    make_artifact: Maker, bench: Bench, tmp_path: Path
) -> None:
    first, second = make_artifact(parent=tmp_path / "a"), make_artifact(parent=tmp_path / "b")
    found = bench(first, first, f"{first}/../linear", second)
    assert [r.label for r in found.rows] == ["linear", str(second)]


def test_ctrl_c_before_timing_lists_what_was_prepared(
    make_artifact: Maker, bench: Bench, no_progress: Any
) -> None:
    def advance(what: str, _done: float, _total: float) -> None:
        if "second" in what:
            raise KeyboardInterrupt

    no_progress.advance = advance
    found = bench(make_artifact("first"), make_artifact("second"))
    assert found.interrupted
    assert [(r.label, r.status, r.reason) for r in found.rows] == [
        ("first", "interrupted", "interrupted before it was measured")
    ]


def test_the_bar_of_the_artifact_is_its_rows(make_artifact: Maker, bench: Bench) -> None:
    record = {"bar": 0.92, "accuracy": {"test_top1": 0.9}}
    records = (record, {**record, "bar": 0.9}, {"bar": "x"})
    found = bench(*(make_artifact(f"linear{n}", record=each) for n, each in enumerate(records)))
    assert [graph(row).below_bar for row in found.rows] == [True, False, False]


class TestAnswers:
    """What the rows say of their graphs' answers."""

    @pytest.fixture
    def both(self, make_artifact: Maker) -> Path:
        """An artifact whose int8 graph is its fp32 graph."""
        return make_artifact(more_precisions=("int8",))

    def test_one_pass_judges_every_precision(
        self, both: Path, bench: Bench, no_progress: Any
    ) -> None:
        fp32, int8 = map(graph, bench(both, precisions=("fp32", "int8")).rows)
        assert [what for what, *_ in no_progress.advanced].count("accuracy of linear") == 1
        assert (fp32.flips, fp32.agreement) == (None, None)
        assert int8.flips == Flips(0, 0)
        assert int8.agreement.reference == "its fp32 graph"
        assert (int8.agreement.same, int8.agreement.images) == (10, 10)
        (alone,) = bench(both, precisions=("int8",)).rows  # fp32 is opened to compare with
        assert graph(alone).flips == Flips(0, 0)

    def test_any_images_do_for_agreement(
        self, both: Path, bench: Bench, write_pictures: Maker, tmp_path: Path
    ) -> None:
        pictures = write_pictures(tmp_path / "pictures")
        (pictures / "broken.png").write_bytes(b"no image")
        images = EvaluationImages(label_free=pictures)
        rows = bench(both, batches=(4,), precisions=("fp32", "int8"), images=images).rows
        assert {row.inputs for row in rows} == {"evaluation images"}
        fp32, int8 = map(graph, rows)
        assert fp32.accuracy is None
        assert "nothing to compare" in fp32.accuracy_note
        assert (int8.agreement.same, int8.agreement.images, int8.skipped) == (3, 3, 1)
        assert "broken.png" in int8.skip_reason

    def test_images_that_cannot_be_read_leave_the_latency(
        self, both: Path, bench: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.png").write_bytes(b"no image")
        (row,) = bench(both, images=EvaluationImages(label_free=tmp_path)).rows
        assert (row.status, row.inputs) == ("measured", NOISE)
        assert "broken.png" in graph(row).accuracy_note
