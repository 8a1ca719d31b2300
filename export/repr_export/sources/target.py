"""Is what was asked for there? Seen before anything heavy is imported."""

from pathlib import Path

from repr_export.errors import TargetError
from repr_models.errors import UnknownNetworkError
from repr_models.registry import require_known


def is_graph(target: str) -> bool:
    """Whether ``target`` is the name of an ONNX file."""
    return target.lower().endswith(".onnx")


def require_target(target: str) -> None:
    """Raise :class:`TargetError` for a graph's file or a registered network that is not there."""
    if is_graph(target):
        if not Path(target).is_file():
            raise TargetError(f"there is no file {target}")
    elif ":" not in target:
        if Path(target).is_file():
            raise TargetError(
                f"{target} is no ONNX file; a checkpoint goes with its network, which "
                f"package.module:factory makes: --weights {target}"
            )
        try:
            require_known(target)
        except UnknownNetworkError as error:
            raise TargetError(
                f"{error} A network of your own is given as package.module:factory, a graph as "
                f"FILE.onnx"
            ) from error
