"""The choices of one export, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repr_export.errors import OptionError
from repr_export.layout import BATCH, Dims
from repr_export.precision.options import PrecisionOptions
from repr_export.tensorrt.options import EngineOptions
from repr_export.triton.config import Backend
from repr_runtime.artifact.manifest import TensorSpec

DEFAULT_OPSET = 20
OLDEST_OPSET, NEWEST_OPSET = 7, 26
"""The versions of the standard operators that ONNX Runtime runs."""
NEWEST_IR = 13
"""The version of the file format that it reads; what later ones add, none of these operators needs."""
_FIRST_FOLDED = 9
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ExportOptions:
    """What to export a network with.

    ``weights`` is a checkpoint's path, ``"random"``, or None (bundled ones for a registered
    network, what the factory made for a factory). ``batch`` None keeps the batch size free.
    ``opset`` None is 20 for torch networks and the file's own for ONNX files.
    ``input_shape`` is one sample's of the first input, without the batch; factories need it or
    another of these, ONNX files with free dimensions too; ``input_shapes`` are shapes by input name, as
    :func:`repr_export.layout.lay_out` takes them. ``samples`` is a file of arrays by input name
    (``numpy.savez``) to prove the graph on, in place of made-up ones.
    ``labels`` is a text file with one class a line. ``mean`` and
    ``std`` are a channel's, of images scaled to 0..1; ``resize`` is the shorter side before
    the centre crop (None: a square input's own, else images keep their size). ``name`` names the
    artifact. ``compare_layers`` compares each node's output with the original's, in every
    precision. ``precision`` are the lower precisions to add, ``engine`` how to build an engine of
    each precision (None: none). ``triton`` is a Triton model repository to write it to as well,
    ``triton_backend`` which of Triton's backends runs the graphs there (None: ``onnxruntime``).
    Raises :class:`OptionError` for values out of range.
    """

    weights: str | Path | None = None
    batch: int | None = None
    opset: int | None = None
    input_shape: tuple[int, ...] | None = None
    input_shapes: Mapping[str, Dims] | None = None
    samples: Path | None = None
    labels: Path | None = None
    mean: Triple | None = None
    std: Triple | None = None
    resize: int | None = None
    name: str | None = None
    compare_layers: bool = False
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    engine: EngineOptions | None = None
    triton: Path | None = None
    triton_backend: Backend | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"--batch must be a number from 1, or 'dynamic', got {self.batch}")
        if self.opset is not None and not _FIRST_FOLDED <= self.opset <= NEWEST_OPSET:
            raise OptionError(
                f"--opset must lie in {_FIRST_FOLDED}..{NEWEST_OPSET}, got {self.opset}"
            )
        for shape in (self.input_shape or (), *(self.input_shapes or {}).values()):
            if not all(size == BATCH or (isinstance(size, int) and size > 0) for size in shape):
                raise OptionError(f"--input must have sizes above 0, got {shape}")
        if (self.mean is None) != (self.std is None):
            raise OptionError("--mean and --std go together; give both or neither")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise OptionError(f"--std must be above 0 in each channel, got {self.std}")
        if self.mean and self.std and not all(abs(v) <= 1 for v in (*self.mean, *self.std)):
            raise OptionError(
                f"{_shown(self.mean, self.std)} are on the scale 0..255, and these are of images scaled "
                f"to 0..1; divide by 255: {_shown(self.mean, self.std, 255)}"
            )
        if self.resize is not None and (self.resize < 1 or self.mean is None):
            raise OptionError(
                f"--resize must be above 0 and goes with --mean and --std, got {self.resize}"
            )
        if self.triton_backend is not None and self.triton is None:
            raise OptionError("--triton-backend is for a model repository; give --triton DIR too")
        if self.name is not None and (
            not self.name or self.name.startswith(".") or set(self.name) & set("/\\:\0")
        ):
            raise OptionError(f"--name must be usable as a folder's name, got {self.name!r}")

    def shapes_of(self, specs: Sequence[TensorSpec]) -> dict[str, Dims]:
        """The shapes that were given for inputs like these, by name."""
        first = {} if self.input_shape is None else {specs[0].name: self.input_shape}
        return {**first, **(self.input_shapes or {})}

    def refuse(self, target: str, *names: str) -> None:
        """Raise :class:`OptionError` for options that mean nothing for ``target``."""
        for name in names:
            if getattr(self, name) is not None:
                option = "input NAME=" if name == "input_shapes" else name.removesuffix("_shape")
                raise OptionError(f"--{option} does not go with {target}; leave it out")


def _shown(mean: Triple, std: Triple, divisor: float = 1) -> str:
    return " ".join(
        f"--{name} {','.join(f'{value / divisor:.4g}' for value in values)}"
        for name, values in (("mean", mean), ("std", std))
    )
