"""The studies' records, the section of models/README.md that is made of them, and the plot."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from train_files import CIFAR10_SHA256

from repr_models import DataError
from repr_models.studies import __main__ as command
from repr_models.studies import plot, table
from repr_models.studies.catalogue import STUDIES, Run, find_runs
from repr_models.studies.plot import figure, lines
from repr_models.studies.records import (
    bundled_folder,
    checkpoint_records,
    read_record,
    records_folder,
)
from repr_models.studies.runs import settings

MODELS = Path(__file__).resolve().parents[3] / "models"
RUNS = find_runs([study.name for study in STUDIES])
RECORDED = [run for run in RUNS if read_record(records_folder(), run.name) is not None]


def make_record(run: Run, train_top1: float, test_top1: float, **more: Any) -> dict[str, Any]:
    row = {"train_loss": 1.25, "train_top1": train_top1, "test_top1": test_top1}
    return {
        "history": [{**row, "train_top1": 0.1, "cpu_seconds": 20.0}, {**row, "cpu_seconds": 31.0}],
        "recipe": {"epochs": 2, "learning_rate": 0.1, "batch_size": 128},
        "settings": {"groups": 8 if run.norm == "group" else None},
        "signal": {"output_std": [0.64, 0.2, 4e-6], "gradient_std": [1.25e-8, 0.02]},
        "diverged": None,
        "threads": 1,
        "seed": 0,
        **more,
    }


def section(records: Path, checkpoints: Path) -> str:
    """The section with each paragraph on one line, so that a sentence can be found in it."""
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|])", " ", table.section(records, checkpoints))


def write(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record), "utf-8")


# --- what ships -----------------------------------------------------------------------------


def test_the_readme_says_what_the_records_say() -> None:
    content = (MODELS / "README.md").read_text("utf-8")
    shown = content.split(f"{table.BEGIN}\n")[1].split(table.END)[0]
    made = table.section(records_folder(), bundled_folder())
    assert shown == made, "run `python -m repr_models.studies table`, then `plot`"


@pytest.mark.parametrize("run", RECORDED, ids=lambda run: run.name)
def test_a_record_is_of_the_run_as_it_stands_in_the_catalogue(run: Run) -> None:
    record = read_record(records_folder(), run.name)
    assert record is not None
    sets = (SimpleNamespace(sha256=CIFAR10_SHA256[split]) for split in ("train", "test"))
    assert record["settings"] == settings(run, *sets)  # type: ignore[arg-type]
    assert record["recipe"] == record["settings"]["recipe"]
    assert len(record["signal"]["output_std"]) == run.depth
    assert {"torch", "numpy", "python"} <= record["versions"].keys()
    epochs = [row["epoch"] for row in record["history"]]
    whole = list(range(1, record["recipe"]["epochs"] + 1))
    assert epochs == (whole[: len(epochs)] if record["diverged"] else whole)


def test_no_record_is_of_no_run() -> None:
    assert {path.stem for path in records_folder().iterdir()} == {run.name for run in RECORDED}


def test_names_are_of_one_run_or_study_each() -> None:
    names = [run.name for run in RUNS] + [study.name for study in STUDIES]
    assert len(set(names)) == len(names)
    assert find_runs(["batchnorm", "depth"])[0].name == "plain20"
    assert [run.name for run in find_runs(["batchnorm", "depth"])].count("plain20") == 1


def test_every_study_says_what_the_paper_has_of_each_run() -> None:
    for study in STUDIES:
        assert study.paper.keys() == {run.name for run in study.runs}, study.name


# --- the section ----------------------------------------------------------------------------


def test_a_row_shows_the_last_epoch_and_the_finding_compares(tmp_path: Path) -> None:
    top1 = {"plain20": (0.5, 0.6), "resnet20": (0.55, 0.64)}
    top1 |= {"plain56": (0.402, 0.43), "resnet56": (0.5625, 0.645)}
    records = tmp_path / "records"
    records.mkdir()
    write(records, {run.name: make_record(run, *top1[run.name]) for run in find_runs(["depth"])})
    bundled = {
        "history": [{"train_top1": 0.1}, {"train_top1": 0.92}],
        "recipe": {"epochs": 24, "batch_size": 128},
        "accuracy": {"test_top1": 0.8826},
    }
    write(tmp_path, {"plain20.cifar10": bundled, "resnet50.cifar10": bundled})
    assert "On whole images" not in section(records, tmp_path)
    deep = {**bundled, "history": [{"train_top1": 0.851}], "accuracy": {"test_top1": 0.84}}
    deep["recipe"] = {"epochs": 30, "batch_size": 256}
    write(tmp_path, {"plain56.cifar10": deep, "plain56_gn.cifar10": deep})
    text = section(records, tmp_path)
    lines = text.splitlines()
    assert "### Depth" in lines
    assert "### Initialisation" not in lines
    assert (
        "| plain 20 | 16×16 | 2 | 50.0 % | 40.0 % | 26 | lowest of the plain ones (Fig. 6, left) |"
        in lines
    )
    assert "| residual 56 | 16×16 | 2 | 43.8 % | 35.5 % | 26 | 6.97 % (Table 6) |" in lines
    assert "| plain 20, bundled | 32×32 | 24 | 8.0 % | 11.7 % |  |  |" in lines
    assert "residual 50" not in text
    assert (
        "On whole images, after 24 and 30 epochs by recipes that differ (see their records), the "
        "plain network's training error changes by +6.9 points from 20 layers to 56, its test error by +4.3."
        in text
    )
    assert "GroupNorm" not in text[: text.index("### BatchNorm")]
    assert (
        "From 20 layers to 56 the plain network's training error changes by +9.8 points and its "
        "test error by +17.0. From 20 layers to 56 the residual network's training error changes "
        "by −1.2 points and its test error by −0.5." in text
    )
    assert "(seed 0, 1 CPU thread, 3.4 minutes of it for all)" in text  # 4 runs of 51 s
    depth = lines[: lines.index("### BatchNorm")]  # of which plain20 is a part as well
    assert len([line for line in depth if line.startswith("|")]) == 2 + 4 + 2


def test_groupnorm_stands_beside_batchnorm_where_both_are_bundled(tmp_path: Path) -> None:
    runs = find_runs(["groupnorm"])
    write(tmp_path, {run.name: make_record(run, 0.5, 0.6) for run in runs})
    record = {"history": [{"train_top1": 0.95}], "recipe": {"epochs": 24, "batch_size": 128}}
    write(tmp_path, {"resnet56_gn.cifar10": {**record, "accuracy": {"test_top1": 0.87}}})
    assert "bundled" not in section(tmp_path, tmp_path)
    write(tmp_path, {"resnet56.cifar10": {**record, "accuracy": {"test_top1": 0.92}}})
    text = section(tmp_path, tmp_path).partition("### GroupNorm")[2]
    assert "| residual 56, bundled | BatchNorm, 128 images | 5.0 % | 8.0 % |  |  |" in text
    assert "| residual 56, bundled | GroupNorm | 5.0 % | 13.0 % |  |  |" in text
    assert (
        "On whole images, after 24 epochs, the test error of 56 layers is 8.0 % with BatchNorm and "
        "13.0 % with GroupNorm." in text
    )


def test_signals_are_shown_from_the_first_to_the_last_layer(tmp_path: Path) -> None:
    xavier, msra = find_runs(["init"])
    signal = {"output_std": [0.9, 0.5, 0.3], "gradient_std": [0.0012, 0.5]}
    records = {xavier.name: make_record(xavier, 0.1, 0.1)}
    write(tmp_path, records | {msra.name: make_record(msra, 0.2, 0.25, signal=signal)})
    text = section(tmp_path, tmp_path)
    assert (
        "| plain 30 | Xavier | 0.64 → 4.0·10⁻⁶ | 1.2·10⁻⁸ → 0.02 | 1.250 | 90.0 % | stalls (Fig. 3) |"
        in text
    )
    assert "| plain 30 | MSRA | 0.9 → 0.3 | 0.0012 → 0.5 | 1.250 | 75.0 % | converges" in text
    assert "shrinks 160,000-fold with Xavier and 3-fold with MSRA" in text


def test_normalisations_are_named_and_compared(tmp_path: Path) -> None:
    top1 = {"resnet20-bn32": 0.6, "resnet20-bn8": 0.59, "resnet20-bn2": 0.52, "resnet20-gn": 0.585}
    write(
        tmp_path,
        {run.name: make_record(run, 0.5, top1[run.name]) for run in find_runs(["groupnorm"])},
    )
    text = section(tmp_path, tmp_path)
    assert "| residual 20 | BatchNorm, 2 images | 50.0 % | 48.0 % | 26 | 34.7 % |" in text
    assert "| residual 20 | GroupNorm, 8 groups | 50.0 % | 41.5 % | 26 | 24.1 % at 32" in text
    assert (
        "test error changes by +8.0 points (in training by +0.0); GroupNorm's is +1.5 points from "
        "BatchNorm's at 32 and −6.5 from that at 2." in text
    )


def test_a_diverged_run_has_no_error(tmp_path: Path) -> None:
    norm, fast, slow = find_runs(["batchnorm"])
    diverged = make_record(fast, 0, 0, diverged="training diverged in epoch 1", history=[])
    records = {norm.name: make_record(norm, 0.5, 0.6), fast.name: diverged}
    write(tmp_path, {**records, slow.name: make_record(slow, 0.3, 0.35)})
    text = section(tmp_path, tmp_path)
    assert "| plain 20 | BatchNorm, 128 images | 0.1 | 1.250 | 50.0 % | 40.0 % | 72.2 %" in text
    assert "| plain 20 | nothing | 0.1 | diverged | diverged | diverged | parameters" in text
    assert "with BatchNorm makes 40.0 % errors, the better one without 65.0 %." in text


def test_a_study_that_is_not_whole_says_so_and_concludes_from_what_is_there(
    tmp_path: Path,
) -> None:
    some = find_runs(["resnet20-bn32", "plain20", "plain56", "resnet20"])
    write(tmp_path, {run.name: make_record(run, 0.5, 0.6) for run in some})
    text = section(tmp_path, tmp_path)
    assert "the plain network's training error changes by +0.0 points" in text
    assert "the residual network's" not in text
    assert "Not run yet: resnet56." in text
    assert "Not run yet: resnet20-bn8, resnet20-bn2, resnet20-gn." in text
    assert "GroupNorm's is" not in text


def test_the_section_is_put_between_the_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = find_runs(["resnet20-gn"])
    write(tmp_path, {run.name: make_record(run, 0.5, 0.6)})
    readme = tmp_path / "README.md"
    arguments = ["--records", str(tmp_path), "table", "--readme", str(readme)]
    assert command.main(arguments) == 1
    assert "README.md is not there; name the file with --readme FILE" in capsys.readouterr().err
    for content in ("no markers", f"{table.BEGIN} alone", f"{table.END} before {table.BEGIN}"):
        readme.write_text(content, "utf-8")
        assert command.main(arguments) == 1
        assert "must have these two lines, in this order" in capsys.readouterr().err
        assert readme.read_text("utf-8") == content
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", "utf-8")
    expected = table.section(tmp_path, bundled_folder())
    for _ in range(2):
        assert command.main(arguments) == 0
        content = readme.read_text("utf-8")
        assert content == f"before\n{table.BEGIN}\n{expected}{table.END}\nafter\n"


# --- records --------------------------------------------------------------------------------


def test_checkpoints_of_the_studied_family_come_by_depth(tmp_path: Path) -> None:
    names = (
        "resnet20",
        "plain56",
        "plain20",
        "resnet50",
        "resnet110",
        "lenet5",
        "plain20.x",
        "resnet56_gn",
    )
    write(tmp_path, {f"{name}.cifar10": {"history": [], "network": name} for name in names})
    found = checkpoint_records(tmp_path)
    assert [(each.residual, each.depth, each.record["network"]) for each in found] == [
        (False, 20, "plain20"),
        (True, 20, "resnet20"),
        (False, 56, "plain56"),
        (True, 56, "resnet56_gn"),
        (True, 110, "resnet110"),
    ]
    assert [each.group_norm for each in found] == [False, False, False, True, False]


@pytest.mark.parametrize("content", ["[1]", "{}", '{"history'])
def test_a_file_that_is_no_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "plain20.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"plain20\.json is no .*delete it"):
        read_record(tmp_path, "plain20")


# --- the plot -------------------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    """Every number of the paths of an SVG, in order."""
    paths = re.findall(r' d="([^"]*)"', text)
    return [float(number) for path in paths for number in re.findall(r"-?[\d.]+", path)]


def test_what_muon_trained_is_told_apart(tmp_path: Path) -> None:
    record = {"history": [{"train_top1": 0.9}], "accuracy": {"test_top1": 0.8}}
    for depth, more in ((20, {}), (32, {"optimizer": "muon"})):
        recipe = {"epochs": 24, "batch_size": 128, **more}
        write(tmp_path, {f"resnet{depth}.cifar10": {**record, "recipe": recipe}})
    drawn = [line for line in lines(tmp_path / "none", tmp_path) if line[0].startswith("32×32")]
    assert [(images, [point[0] for point in points]) for images, _, points in drawn] == [
        ("32×32, bundled", [20]),
        ("32×32, bundled, Muon", [32]),
    ]
    rows = [table._checkpoint_row(["epochs"], each) for each in checkpoint_records(tmp_path)]
    assert rows == [["24"], ["24, Muon"]]


def test_the_plot_that_ships_is_what_the_records_say(tmp_path: Path) -> None:
    path = tmp_path / "depth.svg"
    assert command.main(["plot", "-o", str(path)]) == 0
    shipped = (MODELS / "depth.svg").read_text("utf-8")
    assert len(shipped) < 60_000
    made = path.read_text("utf-8")
    # another matplotlib may place things otherwise by a pixel
    assert numbers(made) == pytest.approx(numbers(shipped), abs=1), "run `… plot`"


def test_the_plot_shows_both_errors_against_depth(tmp_path: Path) -> None:
    top1 = {"plain20": (0.5, 0.6), "resnet20": (0.55, 0.64), "plain56": (0.4, 0.43)}
    records = {run.name: make_record(run, *top1[run.name]) for run in find_runs([*top1])}
    write(tmp_path, records)
    found = lines(tmp_path, tmp_path)
    training, test = figure(found).axes
    for panel, column in ((training, 0), (test, 1)):
        drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
        assert drawn == {
            "plain, 16×16": [
                [depth, pytest.approx(100 * (1 - top1[f"plain{depth}"][column]))]
                for depth in (20, 56)
            ],
            "residual, 16×16": [[20, pytest.approx(100 * (1 - top1["resnet20"][column]))]],
        }


def test_without_matplotlib_the_plot_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(plot, "draw", missing)
    arguments = ["--records", str(tmp_path), "plot", "-o", str(tmp_path / "a.svg")]
    assert command.main(arguments) == 1
    assert (
        capsys.readouterr().err
        == "python -m repr_models.studies needs matplotlib: pip install 'repr-deploy[bench]'\n"
    )


def test_the_section_and_the_plot_need_records_and_the_plot_an_svg(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for does, what in ((table.section, "show"), (lines, "draw")):
        with pytest.raises(DataError, match=f"has no record to {what}; make them: python -m"):
            does(tmp_path, tmp_path)
    assert command.main(["plot", "-o", str(tmp_path / "a.png")]) == 1
    assert "name a file that ends in .svg, not a.png" in capsys.readouterr().err


def test_the_table_needs_no_torch() -> None:
    code = (
        "import sys; from repr_models.studies.table import section; "
        "from repr_models.studies.records import *; "
        "section(records_folder(), bundled_folder()); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "False\n"
