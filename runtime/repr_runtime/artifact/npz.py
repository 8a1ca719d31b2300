"""A few arrays out of a `.npz` file that may be a stranger's: what each is stands before it is unpacked."""

import math
import zipfile
from collections.abc import Callable, Collection
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from repr_runtime.artifact import bounds

_ENTRY = b"PK\1\2"
_BY_CHANCE = 1000  # times that these bytes may stand in packed numbers

Check = Callable[[str, tuple[int, ...], np.dtype[Any]], object]


def read_npz(content: bytes, names: Collection[str], check: Check) -> dict[str, NDArray[Any]]:
    """The arrays called ``names``, which must be all that the file ``content`` holds.

    ``check`` gets each one's name, shape and dtype before any is unpacked, and raises for what is
    none of those wanted. Raises ``ValueError`` for more bytes than ``bounds.GOLDEN_BYTES`` and
    its neighbours allow, and what zipfile, zlib and numpy raise for a damaged file.
    """
    if content.count(_ENTRY) > len(names) + _BY_CHANCE:
        raise ValueError(f"it holds more than the {len(names)} arrays expected")
    with zipfile.ZipFile(BytesIO(content)) as archive:
        found = sorted(info.filename for info in archive.infolist())
        # With its suffix a key is one file's alone, whatever the inputs are called.
        if found != sorted(f"{name}.npy" for name in names):
            raise ValueError(f"it holds {', '.join(found)}, expected {', '.join(sorted(names))}")
        total = 0
        for name in names:
            with archive.open(f"{name}.npy") as stream:
                if npy.read_magic(stream) != (1, 0):  # a later one's header may be of any length
                    raise ValueError(f"{name} is in a format that numpy.savez does not write")
                shape, _, dtype = npy.read_array_header_1_0(stream)
            if any(size < 0 for size in shape):
                raise ValueError(f"{name} has shape {shape}")
            check(name, shape, dtype)
            total += math.prod(shape) * dtype.itemsize
        most = max(bounds.GOLDEN_FREE, min(bounds.GOLDEN_BYTES, bounds.GOLDEN_RATIO * len(content)))
        if total > most:
            raise ValueError(
                f"it unpacks to {total:,} bytes, more than the {most:,} that a file of {len(content):,} may"
            )
        return {name: _read(archive, name) for name in names}


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    stream: IO[bytes]
    with archive.open(f"{name}.npy") as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        if stream.read(1):  # at the end its checksum is compared
            raise ValueError(f"{name} has more bytes than its shape {array.shape} takes")
    return array
