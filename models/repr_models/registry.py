"""Names to networks: the families are gathered at the first look-up."""

import difflib
import importlib
from collections.abc import Iterator
from functools import cache, partial

# The package's public function ``networks`` has the name of this folder, and whatever first
# imports the folder puts it in the function's place. It is imported here, before the function is.
from repr_models import networks as families
from repr_models.errors import UnknownNetworkError
from repr_models.spec import IMAGENET, NetworkSpec, registered, stored_multiply_adds
from repr_models.weights.bundled import is_bundled

FAMILY_MODULES = (
    "lenet",
    "alexnet",
    "vgg",
    "googlenet",
    "inception",
    "resnet",
    "inception_resnet",
    "densenet",
    "xception",
    "mobilenet",
    "shufflenet",
)
"""The modules that register networks, one a family; loaded at the first look-up."""


@cache
def _load_families() -> None:
    for module in FAMILY_MODULES:
        importlib.import_module(f"{families.__name__}.{module}")


def networks() -> Iterator[NetworkSpec]:
    """All registered networks: the families in their order here, then a user's own.

    Within a family in the order of registration, whichever family was imported first.
    """
    _load_families()
    place = {f"{families.__name__}.{module}": n for n, module in enumerate(FAMILY_MODULES)}

    def family(spec: NetworkSpec) -> int:
        builder = spec.builder.func if isinstance(spec.builder, partial) else spec.builder
        return place.get(builder.__module__, len(place))

    yield from sorted(registered.values(), key=family)


def known_names() -> list[str]:
    """Every name that :func:`resolve` takes, those for short too.

    Of networks that are registered by now or counted: no family is loaded, nor torch.
    """
    names = {*registered, *stored_multiply_adds()}
    return sorted(names | {name.partition(".")[0] for name in names})


def require_known(name: str) -> None:
    """Raise :class:`UnknownNetworkError` for a name that is none of :func:`known_names`."""
    key = name.strip().lower()
    known = [name for name in known_names() if ("." in name) is ("." in key)]
    if key not in known:
        raise UnknownNetworkError(name, difflib.get_close_matches(key, known, n=3, cutoff=0.0))


def resolve(name: str) -> NetworkSpec:
    """The network called ``name``: ``resnet20.cifar10``, or ``resnet20`` for short.

    A bare name means the variant whose trained weights ship with the package; where none
    does, the only variant, or else the one for ImageNet.
    Raises :class:`UnknownNetworkError`, which lists the nearest names.
    """
    require_known(name)
    _load_families()
    key = name.strip().lower()
    if key in registered:
        return registered[key]
    variants = [spec for spec in registered.values() if spec.architecture == key]
    bundled = [spec for spec in variants if is_bundled(spec)]
    published = [spec for spec in variants if spec.dataset is IMAGENET]
    return (bundled or published or variants)[0]
