"""Which library builds engines here, and what its builder can be told."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from repr_export.errors import EngineBuildError
from repr_runtime.backends.tensorrt.library import EDITIONS, Edition, Library, import_library
from repr_runtime.backends.tensorrt.messages import Messages, listen, logger
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import BackendError, MissingExtraError

_PURPOSE = "building TensorRT engines"


@dataclass(frozen=True)
class BuilderLibrary(Library):
    """A library that can build here.

    ``choice`` is why ``auto`` took it, and empty where it was asked for by name.
    """

    choice: str = ""

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
                f"pip install -U 'repr-deploy[{self.edition.name}]'"
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


def open_library(name: str = "auto") -> BuilderLibrary:
    """Import the edition called ``name``, or for ``auto`` the first one that can build here.

    ``auto`` is ``tensorrt`` where it is installed and a GPU is there, else ``tensorrt-rtx``.
    Raises :class:`MissingExtraError` if it is not installed and :class:`EngineBuildError` if it
    cannot be loaded or lacks a GPU.
    """
    return _choose() if name == "auto" else _open(EDITIONS[name])


def _choose() -> BuilderLibrary:
    reasons, broken = [], []
    for edition in EDITIONS.values():
        try:
            library = _open(edition)
        except MissingExtraError:
            reasons.append(f"{edition.title} is not installed")
        except EngineBuildError as error:
            reasons.append(str(error).split(";")[0])
            if cuda_status().devices or edition.just_in_time:
                broken.append(error)
        else:
            reason = "; ".join(reasons) or "a GPU is there"
            return replace(library, choice=f"auto took {library.title}: {reason}")
    # Without a GPU, the library that needs none is the one to install.
    raise (
        broken[0]
        if broken
        else MissingExtraError(_PURPOSE, "tensorrt-rtx", EDITIONS["tensorrt-rtx"].module)
    )


def _open(edition: Edition) -> BuilderLibrary:
    try:
        module = import_library(edition, _PURPOSE, "Builder")
    except MissingExtraError:
        raise
    except BackendError as error:
        raise EngineBuildError(str(error)) from error
    status = cuda_status()
    if not edition.just_in_time and not status.devices:
        raise EngineBuildError(
            f"the builder of {edition.title} needs a GPU: {status.reason}; use --engine "
            f"tensorrt-rtx, whose builder needs none"
        )
    return BuilderLibrary(edition, module)


_building = threading.RLock()


@contextlib.contextmanager
def listen_alone(library: Library) -> Iterator[tuple[Any, Messages]]:
    """The logger to make a builder with, and the messages that come while the context lasts.

    One build at a time, since a builder's worker threads do not say whose they are.
    """
    with _building, listen(library.trt) as messages:
        yield logger(library.trt), messages
