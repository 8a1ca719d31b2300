"""An unfinished run on disk: kept after each epoch, resumed only if it is the same run."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repr_models.data.images import ImageSet
from repr_models.errors import TrainingError
from repr_models.files import replace_file
from repr_models.training.loop import TrainingState
from repr_models.weights.padding import pads


def _identity(state: TrainingState, train_set: ImageSet) -> dict[str, Any]:
    """What a run is known by; other values are another run."""
    return {
        "network": state.spec.name,
        "recipe": state.recipe.as_dict(),
        "seed": state.seed,
        "data": train_set.sha256,
        **({"padding": "both sides"} if pads(state.network) else {}),
    }


def keep(state: TrainingState, train_set: ImageSet, path: Path) -> None:
    """Write the state to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"identity": _identity(state, train_set), **state.as_dict()}, buffer)
    replace_file(path, buffer.getvalue())


def resume(state: TrainingState, train_set: ImageSet, path: Path, *, fitted: bool = False) -> None:
    """Restore ``state`` from ``path``.

    With ``fitted`` the epochs, and those of the warm-up, are those that were fitted into the time
    that the run had. Raises :class:`TrainingError` if the file cannot be read, or is of another run.
    """
    try:
        saved = torch.load(path, map_location=state.device, weights_only=True)
        known = saved["identity"]
        if fitted:
            own = {name: known["recipe"][name] for name in ("epochs", "warmup_epochs")}
            state.recipe = replace(state.recipe, **own)
        expected = _identity(state, train_set)
        same = known == expected
        earlier = not same and known == {k: v for k, v in expected.items() if k != "padding"}
        if same:
            state.restore(saved)
    except Exception as error:  # torch raises many kinds here, all of them about this file
        raise TrainingError(
            f"{path} is an unfinished run that cannot be read; start anew with --restart"
        ) from error
    if earlier:
        raise TrainingError(
            f"{path} is an unfinished run of an earlier version, whose shortcuts padded zeros behind "
            f"the channels; finish it with that version, or start anew with --restart"
        )
    if not same:
        raise TrainingError(
            f"{path} is an unfinished run with another recipe, seed or data; finish it with "
            f"the command that began it, or start anew with --restart"
        )
