"""Arrays that lie on a GPU: read from torch, CuPy and others, and given back to them.

Two agreements carry them across libraries without a copy: DLPack
(https://dmlc.github.io/dlpack/latest/) and the CUDA array interface, version 3
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from repr_runtime.errors import InputDtypeError, InputShapeError, InputTypeError, words_of

CPU, CUDA = 1, 2  # DLDeviceType
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}  # DLDataTypeCode
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME = b"dltensor"


def is_device_array(value: Any) -> bool:
    """Whether ``value`` says that it lies on a CUDA device."""
    if isinstance(value, np.ndarray):
        return False
    try:
        if hasattr(value, "__dlpack_device__"):
            return int(value.__dlpack_device__()[0]) == CUDA
        return hasattr(value, "__cuda_array_interface__")
    except Exception:  # whatever another library's object raises
        return False


def device_of(value: Any) -> int | None:
    """The index of the device that a device array lies on; None where it does not say."""
    return int(value.__dlpack_device__()[1]) if hasattr(value, "__dlpack_device__") else None


@dataclass(frozen=True)
class DeviceView:
    """Where an array lies on the device; ``owner`` keeps it there.

    ``needs_synchronize``: what fills it may still be running, and nothing says on which stream.
    ``ordered``: the producer makes our stream wait for it, when asked by ``arrive``.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int | None
    owner: Any
    needs_synchronize: bool
    ordered: Any = None

    def arrive(self, stream: int) -> None:
        """Let work on ``stream`` begin after what the producer has under way."""
        if self.ordered is not None:
            self.ordered.__dlpack__(stream=stream)


def view(value: Any) -> DeviceView:
    """The device array ``value``; its values are there only after ``arrive``.

    DLPack is preferred, since through it the producer can be told who has to wait for it.
    Raises :class:`InputTypeError` if it is not contiguous or cannot be shared (a torch tensor
    that wants a gradient), and :class:`InputDtypeError` for a type that numpy does not have.
    """
    try:
        if hasattr(value, "__dlpack__"):
            no_stream_yet = -1
            found = read_capsule(value.__dlpack__(stream=no_stream_yet), ordered=value)
        else:
            found = _from_interface(value.__cuda_array_interface__)
    except InputDtypeError:
        raise
    except Exception as error:  # whatever another library's object raises
        raise InputTypeError(
            f"the {type(value).__name__} cannot be shared ({words_of(error)}); give it as a plain, "
            f"contiguous CUDA array (torch: x.detach().contiguous())"
        ) from error
    return found


def stand_in(value: Any) -> Any:
    """A numpy array of the view's shape and dtype, for checks that look at no values."""
    if isinstance(value, DeviceView):
        try:
            return _stand_in(value.dtype, value.shape)
        except (TypeError, ValueError) as error:
            raise InputShapeError(
                f"a device array of shape {value.shape} cannot be ({error}); give one that lies on the GPU"
            ) from error
    return value


@lru_cache
def _stand_in(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(np.zeros((), dtype), shape)


def _from_interface(interface: dict[str, Any]) -> DeviceView:
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        _require_contiguous(shape, tuple(int(s) // dtype.itemsize for s in strides))
    if interface.get("mask") is not None:
        raise ValueError("it has a mask")
    # Version 3 has a stream, and None there says that no work is under way.
    settled = "stream" in interface and interface["stream"] is None
    return DeviceView(int(interface["data"][0]), shape, dtype, None, interface, not settled)


def _require_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            raise ValueError(f"shape {shape} with strides {strides} is not contiguous")
        expected *= size


class _Tensor(ctypes.Structure):  # DLTensor
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):  # DLManagedTensor
    _fields_ = [
        ("tensor", _Tensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


_api = ctypes.pythonapi
_get_pointer = _api.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_new_capsule = _api.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
# In a destructor the capsule is no object any more that may be counted: a plain address.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _api)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _api)
)


def read_capsule(capsule: Any, ordered: Any = None) -> DeviceView:
    """The array in a DLPack capsule. The capsule is not consumed: it frees the array when it goes.

    Raises ``ValueError`` for one that is not contiguous or is of a type that numpy lacks.
    """
    tensor = _Managed.from_address(_get_pointer(capsule, _NAME)).tensor
    kind = _KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise InputDtypeError(
            f"a device array of DLPack type {tensor.code} with {tensor.bits} bits has no numpy "
            f"type; cast it to float16 or float32"
        )
    dtype = np.dtype(kind if kind == "bool" else f"{kind}{tensor.bits}")
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        _require_contiguous(shape, tuple(tensor.strides[: tensor.ndim]))
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceView(address, shape, dtype, tensor.device_id, capsule, False, ordered)


_alive: dict[int, tuple[Any, ...]] = {}  # what each exported DLManagedTensor points to


def _destroy(capsule: int) -> None:
    if _is_valid(capsule, _NAME):  # nobody took it: a consumer renames it
        _alive.pop(_address_of(capsule, _NAME), None)


# Consumers may call the first without the interpreter's lock; CFUNCTYPE takes it.
_c_delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda managed: _alive.pop(managed, None))
_c_destroy = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy)


def make_capsule(
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    owner: Any,
    device: tuple[int, int],
) -> Any:
    """A DLPack capsule of a contiguous array on ``device`` (kind, index); it keeps ``owner``."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed()
    tensor = managed.tensor
    tensor.data, tensor.device_type, tensor.device_id = address, *device
    tensor.ndim, tensor.code, tensor.bits = len(shape), _CODES[dtype.kind], dtype.itemsize * 8
    tensor.lanes, tensor.shape, tensor.byte_offset = 1, sizes, 0
    managed.deleter = ctypes.cast(_c_delete, ctypes.c_void_p)
    place = ctypes.addressof(managed)
    _alive[place] = (managed, sizes, owner)
    return _new_capsule(place, _NAME, ctypes.cast(_c_destroy, ctypes.c_void_p))


class Returned(deque[Any]):
    """What arrays gave back, and whose memory a consumer's work on the device may still read."""

    def take(self) -> list[Any]:
        """All of it, to be freed once the device has been waited for; safe in several threads."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self.popleft())
        return taken


class DeviceArray:
    """An output on the device: contiguous, complete, and the caller's own.

    torch takes it with ``torch.from_dlpack(x)``, CuPy with ``cupy.from_dlpack(x)`` or
    ``cupy.asarray(x)``, without a copy. Its memory is given back when the last array over it
    goes. ``copy_to_host`` gives a numpy array.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: int,
        to_host: Callable[[DeviceArray], np.ndarray[Any, Any]],
        release: Callable[[int], None],
    ) -> None:
        self.address, self.shape, self.dtype, self.device = address, shape, dtype, device
        self._to_host, self._release = to_host, release

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        """The values as a new numpy array."""
        return self._to_host(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,  # complete already
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        # As versions before 1.0, without `copy` and `dl_device`: so whoever wants a copy makes it.
        return make_capsule(self.address, self.shape, self.dtype, self, self.__dlpack_device__())

    def __del__(self) -> None:
        self._release(self.address)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)} on cuda:{self.device}>"
