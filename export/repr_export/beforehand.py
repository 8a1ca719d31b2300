"""Mistakes that can be seen before the work are found before the work."""

import tempfile
from pathlib import Path

from repr_export.errors import OptionError
from repr_export.options import ExportOptions
from repr_export.precision.int8.calibration import images_in
from repr_export.samples import require_readable
from repr_export.source import Source
from repr_export.tensorrt.build import require_buildable


def require_ready(out: Path, options: ExportOptions) -> None:
    """Raise unless ``out`` can be written, the files that ``options`` name be read, and engines built.

    Raises :class:`OptionError`, :class:`repr_export.errors.CalibrationError` for a folder of
    images, and what :func:`repr_export.tensorrt.build.require_buildable` raises.
    """
    _require_writable(out, "-o")
    if options.triton is not None:
        _require_writable(options.triton, "--triton")
    if options.samples is not None:
        require_readable(options.samples, "--samples")
    given = options.precision.calibration
    if given is not None and given.suffix == ".npz":
        require_readable(given, "--calibration")
    elif given is not None:
        images_in(given)
    if options.engine is not None:
        require_buildable(options.engine)


def _require_writable(out: Path, option: str) -> None:
    place = out.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OptionError(
            f"nothing can be written to {out}: {place} says {error.strerror!r}; choose another "
            f"place with {option}"
        ) from error


def require_calibration(source: Source, options: ExportOptions) -> None:
    """Raise :class:`OptionError` for int8 of a network without data to calibrate it on."""
    if "int8" not in options.precision.names:
        return
    given = options.precision.calibration
    if given is None and source.identity.source != "registry":
        raise OptionError(
            "int8 of a network of your own is calibrated on data like what it will see: give "
            "--calibration, a folder of images or a file of numpy.savez with an array for each input"
        )
    if source.preprocessing is None and (given is None or given.suffix != ".npz"):
        raise OptionError(
            "int8 from images needs to know how they become inputs; give --mean and --std, or a "
            "file of numpy.savez with the inputs themselves as --calibration"
        )
