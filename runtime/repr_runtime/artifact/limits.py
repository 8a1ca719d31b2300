"""What an artifact's graph may cost before ONNX Runtime sees it, and while it loads and runs."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from repr_runtime.errors import OptionError
from repr_runtime.options import require_seconds, require_whole

_LONGEST = 86_400.0  # seconds
_SWITCH = {"yes": True, "no": False}


@dataclass(frozen=True)
class Limits:
    """Bounds that a graph is held to at ``load``; as they are by default, no real network meets them.

    ``size``: bytes of the graph's file. ``constants``: bytes of constants that loading may make
    beyond those in the file: sparse tensors made dense, and what ONNX Runtime (1.27 or later)
    computes beforehand; what would be more is computed at each run. ``nodes``: with those of
    subgraphs, and of functions each time that they are called. ``calls``: of functions, with the
    calls within them. ``depth``: of functions that call functions. ``subgraphs``: whether there
    may be any, as in Loop, If and Scan. ``load_seconds``: until ONNX Runtime gives up loading;
    ``run_seconds``: until it gives up a run. It looks at the clock between two steps, or nodes;
    None does not look. What they cannot bound stands in docs/strangers.md.
    Raises :class:`OptionError` for what none may be.
    """

    size: int = 2**31
    constants: int = 512 * 2**20
    nodes: int = 250_000
    calls: int = 10_000
    depth: int = 64
    subgraphs: bool = True
    load_seconds: float | None = None
    run_seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "subgraphs":
                if not isinstance(value, bool):
                    raise OptionError(f"subgraphs must be True or False, got {value!r:.60}")
            elif not field.name.endswith("_seconds"):
                require_whole(0, 2**62, **{field.name: value})
            elif value is not None:
                require_seconds(0.001, _LONGEST, **{field.name: value})

    @classmethod
    def parse(cls, text: str) -> Self:
        """The limits of ``NAME=NUMBER,…``, as in ``run_seconds=5,subgraphs=no``.

        Raises :class:`OptionError`.
        """
        limits = cls()
        known = [field.name for field in fields(cls)]
        for part in filter(None, text.split(",")):
            name, _, number = part.strip().partition("=")
            try:
                if name not in known:
                    raise KeyError(name)
                if name == "subgraphs":
                    value: Any = _SWITCH[number]
                else:
                    value = float(number) if name.endswith("_seconds") else int(number)
            except (KeyError, ValueError) as error:
                raise OptionError(
                    f"{part!r:.60} is no limit; known are {', '.join(known)}: numbers, but for "
                    f"subgraphs=yes or no"
                ) from error
            limits = replace(limits, **{name: value})
        return limits
