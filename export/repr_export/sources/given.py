"""Labels and preprocessing, as the user gave them or as the data set has them."""

from collections.abc import Sequence
from pathlib import Path

from repr_export.errors import OptionError, first_line
from repr_export.options import ExportOptions
from repr_runtime.artifact.manifest import PreprocessingInfo


def read_labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"--labels {path} cannot be read: {first_line(error)}; give a text file with one class a line"
        ) from error
    labels = tuple(line.strip() for line in lines)
    if not labels or not all(labels):
        raise OptionError(f"--labels {path} must hold one class a line, and no empty line")
    return labels


def require_labels(labels: tuple[str, ...] | None, output: Sequence[int | str]) -> None:
    """Raise :class:`OptionError` if ``labels`` are not as many as the classes of an output.

    ``output`` is its shape, whose last axis has the classes.
    """
    classes = output[-1] if output else None
    if labels is not None and isinstance(classes, int) and classes != len(labels):
        raise OptionError(
            f"there are {len(labels)} labels, the network has {classes} classes; --labels takes one a line, "
            f"in the order of the network's outputs"
        )


def preprocessing_of(
    options: ExportOptions, input_shape: tuple[int, ...] | None
) -> PreprocessingInfo | None:
    if options.mean is None or options.std is None:
        return None
    if input_shape is None or len(input_shape) != 3 or input_shape[0] != 3:
        raise OptionError(
            f"--mean and --std are for RGB images, inputs of 3xHxW; this one is {input_shape}"
        )
    _, height, width = input_shape
    if options.resize is not None and options.resize < min(height, width):
        raise OptionError(
            f"--resize {options.resize} makes images too small for the network's {height}x{width}; "
            f"give {min(height, width)} or more"
        )
    # Images for inputs that are not square have that shape already: no side of another says its size.
    resize = options.resize or (height if height == width else None)
    return PreprocessingInfo(resize, (height, width), options.mean, options.std)
