"""The choices of one engine build, checked when they are made."""

import re
from dataclasses import dataclass
from pathlib import Path

from repr_export.errors import OptionError
from repr_runtime.artifact.manifest import ProfileInfo
from repr_runtime.backends.tensorrt.library import EDITIONS

DEFAULT_PROFILE = ProfileInfo(1, 8, 32)
"""The batch sizes of an engine whose graph leaves them free, where none are asked for."""

_LARGEST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine; checked when made, raising :class:`OptionError`.

    ``edition`` is ``tensorrt``, ``tensorrt-rtx`` or ``auto``. ``profiles`` are the batch sizes
    to optimize for, each with its smallest, its best and its largest; empty means
    :data:`DEFAULT_PROFILE`, or the one batch size of a graph that has just one. ``opt_level``
    0..5 is how long to search for faster kernels; None is the library's own choice.
    ``timing_cache`` is a file that keeps measured kernels for the next build.
    ``version_compatible`` engines run with later versions of TensorRT. ``strip_weights``
    leaves the weights out: the engine must be refitted from its graph before it runs.
    ``compute_capabilities`` are those to build for, such as ``("8.6", "8.9")``, or
    ``("current",)`` for the GPU of this machine (TensorRT-RTX); empty means all that the
    library builds for by default. ``tf32`` lets float32 products be rounded to 10 bits of
    mantissa; it is TensorRT's default and not ours, so that fp32 means fp32.
    """

    edition: str = "auto"
    profiles: tuple[ProfileInfo, ...] = ()
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    strip_weights: bool = False
    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.edition not in (*EDITIONS, "auto"):
            raise OptionError(
                f"--engine must be {', '.join(EDITIONS)} or auto, got {self.edition!r}"
            )
        for profile in self.profiles:
            if not 1 <= profile.min <= profile.opt <= profile.max <= _LARGEST_BATCH:
                raise OptionError(
                    f"--shapes must have 1 <= min <= opt <= max, got {shown(profile)}"
                )
        if len(set(self.profiles)) != len(self.profiles):
            raise OptionError(f"--shapes names {shown(*self.profiles)}: one of them twice")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise OptionError(f"--opt-level must lie in 0..5, got {self.opt_level}")
        targets = self.compute_capabilities
        for target in targets:
            if target != "current" and not re.fullmatch(r"\d{1,2}\.\d", target):
                raise OptionError(
                    f"--compute-capability must be like 8.6,8.9 or 'current', got {target!r}"
                )
        if len(set(targets)) != len(targets) or ("current" in targets and len(targets) > 1):
            raise OptionError(
                f"--compute-capability takes each value once, and 'current' alone, got "
                f"{','.join(targets)}"
            )


def parse_profile(text: str) -> ProfileInfo:
    """``"1,8,32"`` (smallest, best, largest batch) or ``"8"`` for just that one.

    Raises :class:`OptionError`.
    """
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"\s*\d{1,10}\s*", part) for part in parts):
        raise OptionError(f"--shapes must be min,opt,max such as 1,8,32, or one size, got {text!r}")
    sizes = [int(part) for part in parts]
    return ProfileInfo(sizes[0], sizes[len(sizes) // 2], sizes[-1])


def shown(*profiles: ProfileInfo) -> str:
    """As they are written after ``--shapes``."""
    return " ".join(f"{p.min},{p.opt},{p.max}" for p in profiles)
