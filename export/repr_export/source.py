"""What every source is: a network to export, its graph and what it computes."""

from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.layout import Arrays
from repr_models.spec import FoldContract
from repr_runtime.artifact.manifest import PreprocessingInfo, WeightsInfo


@dataclass(frozen=True)
class Identity:
    """What the manifest says of the network, but for what is counted in its graph.

    ``note`` is a sentence for the user about how the target was understood, or "".
    """

    name: str
    architecture: str
    dataset: str | None
    source: str
    folder: str
    note: str = ""


class Source(Protocol):
    """A network to export."""

    identity: Identity
    weights: WeightsInfo
    preprocessing: PreprocessingInfo | None
    labels: tuple[str, ...] | None
    fold: FoldContract | None
    parameters: int | None

    def model(self) -> ir.Model:
        """A new graph of the network, with nothing folded yet."""
        ...

    def try_out(self, inputs: Arrays) -> None:
        """Run what is not trusted to run at all; raises :class:`GraphError` if it crashes."""
        ...

    def reference(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """What the original network computes for ``inputs``."""
        ...

    def exact(self, inputs: Arrays) -> dict[str, NDArray[Any]] | None:
        """The same in float64, or None where it cannot be computed (in time)."""
        ...
