"""The studies as data: which networks, trained how, and what the papers say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from repr_models.errors import TrainingError

PROG = "python -m repr_models.studies"
"""The command that runs the studies and shows them."""

REDUCTION = "2x2 pixels averaged: 16x16 images"
"""What is done to every image, training and test, before anything else: a quarter of the work."""

GROUPS = 8
"""Of GroupNorm: 2, 4 and 8 channels a group in stages of 16, 32 and 64 channels."""


@dataclass(frozen=True)
class Run:
    """One network trained once; its record is ``NAME.json``.

    ``depth`` counts weighted layers (even). ``norm_batch`` is how many images BatchNorm normalises
    together, all of the batch by default. ``recipe`` is what is done otherwise than by default in
    :class:`repr_models.training.recipe.Recipe`.
    """

    name: str
    depth: int
    residual: bool
    recipe: Mapping[str, float | int | str]
    norm: Literal["batch", "group", "none"] = "batch"
    norm_batch: int | None = None
    init: Literal["msra", "msra-forward", "xavier"] = "msra"
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A claim, where it is made, and the runs that try it.

    ``columns`` are those of its table (:mod:`repr_models.studies.table`), ``paper`` what the paper
    has where a run stands, by the run's name, and ``note`` on what that was measured.
    """

    name: str
    title: str
    claim: str
    source: str
    columns: tuple[str, ...]
    runs: tuple[Run, ...]
    paper: Mapping[str, str]
    note: str


_DEPTH = {"epochs": 3, "batch_size": 128, "learning_rate": 0.1, "warmup_epochs": 0.2}
_SMALL_RATE = {**_DEPTH, "learning_rate": 0.02}
_INIT = {**_SMALL_RATE, "epochs": 1}
_NORM = {"epochs": 2, "batch_size": 64, "learning_rate": 0.05, "warmup_epochs": 0.2}

_BY_DEPTH = tuple(
    Run(f"{family}{depth}", depth, family == "resnet", _DEPTH)
    for depth in (20, 56)
    for family in ("plain", "resnet")
)

STUDIES = (
    Study(
        name="depth",
        title="Depth",
        claim="More layers make a plain network worse, on its training images too; with shortcuts "
        "they do not.",
        source="He et al. 2016, §4.2",
        columns=("network", "images", "epochs", "training error", "test error", "CPU s/epoch"),
        runs=_BY_DEPTH,
        paper={
            "plain20": "lowest of the plain ones (Fig. 6, left)",
            "plain56": "highest of the plain ones (Fig. 6, left)",
            "resnet20": "8.75 % (Table 6)",
            "resnet56": "6.97 % (Table 6)",
        },
        note="So few epochs show how much harder the deeper plain network is to train, a contrast "
        "of plain and residual, and not where they end: the deeper residual network, too, is still "
        "behind here. The paper trains on whole images, 64,000 steps of 128. On ImageNet, from 18 layers to "
        "34, its plain networks go from 27.94 to 28.54 % and its residual ones from 27.88 to "
        "25.03 % (Table 2).",
    ),
    Study(
        name="init",
        title="Initialisation",
        claim="Xavier's variance lets the signal of a deep rectifier network die out, since a "
        "rectifier stops half of it; with twice the variance the network learns.",
        source="He et al. 2015, §2.2",
        columns=("network", "initialised", "signal", "gradient", "loss", "test error"),
        runs=(
            Run("plain30-xavier", 30, False, _INIT, norm="none", init="xavier"),
            Run("plain30-msra", 30, False, _INIT, norm="none", init="msra-forward"),
        ),
        paper={"plain30-xavier": "stalls (Fig. 3)", "plain30-msra": "converges (Fig. 3)"},
        note="The paper's network has 27 convolutions and 3 fully connected layers, on ImageNet. "
        "*Signal* is the standard deviation of the first and of the last layer's outputs before "
        "training, *gradient* that of their weights' gradient; what MSRA loses goes mostly to the "
        "zeros around the smallest maps. A guess among ten classes has the loss 2.303.",
    ),
    Study(
        name="batchnorm",
        title="BatchNorm",
        claim="With BatchNorm a network takes higher learning rates and needs fewer steps.",
        source="Ioffe, Szegedy 2015, §4.2",
        columns=("network", "normalised by", "rate", "loss", "training error", "test error"),
        runs=(
            next(run for run in _BY_DEPTH if run.name == "plain20"),
            Run("plain20-none", 20, False, _DEPTH, norm="none", init="msra-forward"),
            Run("plain20-none-slow", 20, False, _SMALL_RATE, norm="none", init="msra-forward"),
        ),
        paper={
            "plain20": "72.2 % top-1 after 2.1 M steps at 5 times the rate (Fig. 3)",
            "plain20-none": "parameters become infinite at 5 times the rate (§4.2.2)",
            "plain20-none-slow": "72.2 % top-1 after 31.0 M steps (Fig. 3)",
        },
        note="The paper's network is Inception, on ImageNet.",
    ),
    Study(
        name="groupnorm",
        title="GroupNorm",
        claim="BatchNorm gets worse as it sees fewer images at once; GroupNorm sees one at a time.",
        source="Wu, He 2018, §4.1",
        columns=("network", "normalised by", "training error", "test error", "CPU s/epoch"),
        runs=(
            *(
                Run(f"resnet20-bn{images}", 20, True, _NORM, norm_batch=images)
                for images in (32, 8, 2)
            ),
            Run("resnet20-gn", 20, True, _NORM, norm="group"),
        ),
        paper={
            "resnet20-bn32": "23.6 %",
            "resnet20-bn8": "24.8 %",
            "resnet20-bn2": "34.7 %",
            "resnet20-gn": "24.1 % at 32, 24.0 % at 8, 24.1 % at 2",
        },
        note="That BatchNorm suffers from few images shows; that GroupNorm is nearly as good as "
        "BatchNorm at 32 does not, in two epochs of so small a network. The paper's figures (Table "
        "2, Fig. 5) are ResNet-50's on ImageNet, with 8 workers of "
        "that many images and the rate in proportion. Here every step takes 64 images at one rate, "
        "and only what is normalised together changes.",
    ),
)
"""In the order of the README; a run may serve several."""


def find_runs(names: Sequence[str]) -> list[Run]:
    """The runs called ``names``, a study's name meaning all of its runs; each once, in order.

    Raises :class:`TrainingError` for a name that is neither.
    """
    known: dict[str, tuple[Run, ...]] = {
        run.name: (run,) for study in STUDIES for run in study.runs
    }
    known |= {study.name: study.runs for study in STUDIES}
    for name in names:
        if name not in known:
            raise TrainingError(
                f"there is no study or run called {name!r}; there are {', '.join(known)}"
            )
    return list({run.name: run for name in names for run in known[name]}.values())
