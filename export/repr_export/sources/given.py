"""Labels and preprocessing, as the user gave them or as the data set has them."""

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
        raise OptionError(f"--labels {path} cannot be read: {first_line(error)}") from error
    labels = tuple(line.strip() for line in lines)
    if not labels or not all(labels):
        raise OptionError(f"--labels {path} must hold one class a line, and no empty line")
    return labels


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
    resize = options.resize or min(height, width)
    return PreprocessingInfo(resize, (height, width), options.mean, options.std)
