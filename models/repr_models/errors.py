"""What can go wrong with a network, its weights or its data.

ModelsError (ValueError)
├── UnknownNetworkError      no network of that name; lists the nearest
├── DuplicateNetworkError    two networks registered under one name
├── WeightsError             a checkpoint that is missing, damaged, or does not fit
├── DataError                images or labels that are missing or not what they should be
└── TrainingError            a recipe, a device or an unfinished run that cannot be trained with
"""

from collections.abc import Sequence


class ModelsError(ValueError):
    """Base of the errors of this package; the message says the way out."""


class UnknownNetworkError(ModelsError):
    """No network has that name; ``nearest`` holds the registered names that are closest to it."""

    def __init__(self, name: str, nearest: Sequence[str]) -> None:
        super().__init__(f"there is no network called {name!r}; did you mean {', '.join(nearest)}?")
        self.name = name
        self.nearest = tuple(nearest)


class DuplicateNetworkError(ModelsError):
    """A network of that name is registered already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a network called {name!r} is already registered; choose another name")


class WeightsError(ModelsError):
    """A checkpoint that is missing, damaged, or does not fit the network."""


class DataError(ModelsError):
    """Images or labels that are missing or not what they should be."""


class TrainingError(ModelsError):
    """A recipe, a device or an unfinished run that cannot be trained with."""
