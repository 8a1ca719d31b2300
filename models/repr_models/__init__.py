"""Networks, the weights they were trained to, and the data they were trained on.

Importing this package imports no torch: the look-up of a name and the loading of weights do.
"""

from repr_models.data.cifar10 import bundled_subset, load_cifar10
from repr_models.data.images import ImageSet
from repr_models.errors import (
    DataError,
    DuplicateNetworkError,
    ModelsError,
    TrainingError,
    UnknownNetworkError,
    WeightsError,
)
from repr_models.registry import networks, resolve
from repr_models.spec import (
    CIFAR10,
    IMAGENET,
    Dataset,
    FoldContract,
    NetworkSpec,
    Preprocessing,
    Published,
    register,
)
from repr_models.weights.bundled import bundled_record, is_bundled
from repr_models.weights.loading import WeightsSource, load_checkpoint, load_weights
from repr_models.weights.randomize import randomize

__all__ = [
    "CIFAR10",
    "IMAGENET",
    "DataError",
    "Dataset",
    "DuplicateNetworkError",
    "FoldContract",
    "ImageSet",
    "ModelsError",
    "NetworkSpec",
    "Preprocessing",
    "Published",
    "TrainingError",
    "UnknownNetworkError",
    "WeightsError",
    "WeightsSource",
    "bundled_record",
    "bundled_subset",
    "is_bundled",
    "load_checkpoint",
    "load_cifar10",
    "load_weights",
    "networks",
    "randomize",
    "register",
    "resolve",
]
