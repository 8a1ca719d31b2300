"""What building needs of `tensorrt` and `tensorrt_rtx` besides running: which, and what it can do."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repr_export.errors import EngineBuildError, OptionError
from repr_runtime.backends.tensorrt.library import (
    PRODUCTS,
    Library,
    Messages,
    Product,
    collect,
    logger,
    open_library,
)
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import BackendError, MissingExtraError


@dataclass(frozen=True)
class BuilderLibrary(Library):
    """A library that can build here; ``choice`` is why ``auto`` took it, else empty."""

    choice: str = ""

    @property
    def default_targets(self) -> tuple[str, ...]:
        """The compute capabilities of an engine built for none in particular.

        Such an engine runs on later ones too (NVIDIA, TensorRT-RTX documentation, "CPU-Only
        AOT"). Empty: the GPU's own.
        """
        return ("8.0", "8.6", "8.9", "12.0") if self.product.just_in_time else ()

    @property
    def targets(self) -> dict[str, Any]:
        """The compute capabilities that can be chosen, such as ``"8.6"``; empty if none can."""
        known = getattr(self.trt, "ComputeCapability", None)
        if known is None or not hasattr(self.trt.IBuilderConfig, "set_compute_capability"):
            return {}
        targets = {}
        for name, member in known.__members__.items():
            if match := re.fullmatch(r"SM(\d+)(\d)", name):
                targets[f"{match[1]}.{match[2]}"] = member
        return targets

    def strongly_typed(self) -> int:
        """The flags of a network whose types are those of the graph, and no others.

        A library without the flag knows only such networks (TensorRT 11) or, where it still
        has precision flags, is too old; the latter raises :class:`EngineBuildError`.
        """
        flags = getattr(self.trt, "NetworkDefinitionCreationFlag", None)
        if (flag := getattr(flags, "STRONGLY_TYPED", None)) is not None:
            return 1 << int(flag)
        if hasattr(self.trt.BuilderFlag, "FP16"):
            raise EngineBuildError(
                f"{self.title} cannot build strongly typed networks, so that the engine would not "
                f"have the types of the graph; update it: "
                f"pip install -U 'repr-deploy[{self.product.name}]'"
            )
        return 0

    def builder_flag(self, name: str, option: str) -> Any:
        """The builder's flag of that name; :class:`EngineBuildError` names the ``option``."""
        flag = getattr(self.trt.BuilderFlag, name, None)
        if flag is None:
            raise EngineBuildError(
                f"{self.title} has no builder flag {name}; leave out {option}, or build with "
                f"another version"
            )
        return flag


def open_builder(name: str = "auto") -> BuilderLibrary:
    """The library called ``name``, or for ``auto`` the first one that can build here.

    ``auto`` is ``tensorrt`` where it is installed and a GPU is there, else ``tensorrt-rtx``.
    Raises :class:`MissingExtraError` if it is not installed, :class:`OptionError` for an
    unknown name and :class:`EngineBuildError` if it cannot be loaded or lacks a GPU.
    """
    if name == "auto":
        return _choose()
    if name not in PRODUCTS:
        raise OptionError(f"--engine must be {', '.join(PRODUCTS)} or auto, got {name!r}")
    return _open(PRODUCTS[name])


def _choose() -> BuilderLibrary:
    reasons, broken = [], []
    for product in PRODUCTS.values():
        try:
            library = _open(product)
        except MissingExtraError as error:
            reasons.append(f"{product.title} is not installed")
            missing = error
        except EngineBuildError as error:
            reasons.append(str(error).split(";")[0])
            if cuda_status().devices or product.just_in_time:
                broken.append(error)
        else:
            reason = "; ".join(reasons) or "a GPU is there"
            return BuilderLibrary(product, library.trt, f"auto took {library.title}: {reason}")
    # Without a GPU, the library that needs none is the one to install.
    raise broken[0] if broken else missing


def _open(product: Product) -> BuilderLibrary:
    try:
        library = open_library(product, "building")
    except BackendError as error:
        raise EngineBuildError(str(error)) from error
    status = cuda_status()
    if not product.just_in_time and not status.devices:
        raise EngineBuildError(
            f"the builder of {product.title} needs a GPU: {status.reason}; use --engine "
            f"tensorrt-rtx, whose builder needs none"
        )
    return BuilderLibrary(product, library.trt)


_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def listen(library: Library) -> Iterator[tuple[Any, Messages]]:
    """The logger to make a builder with, and the messages that come while the context lasts.

    Builders have threads of their own, of which nobody could say whose they are: so one build
    runs at a time.
    """
    with _one_at_a_time, collect(all_threads=True) as messages:
        yield logger(library), messages
