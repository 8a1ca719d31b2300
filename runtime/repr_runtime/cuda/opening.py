"""CUDA on a device, through whichever Python binding is installed."""

from repr_runtime.cuda.bindings import BindingsCuda
from repr_runtime.cuda.device import Cuda
from repr_runtime.cuda.driver import cuda_status, keep_context
from repr_runtime.errors import DeviceUnavailableError


def open_cuda(device: int = 0) -> Cuda:
    """CUDA on ``device``: through PyCUDA where it is installed, else through ``cuda.bindings``.

    Raises :class:`DeviceUnavailableError` if there is no such device, or neither package.
    """
    status = cuda_status()
    if device >= status.devices:
        reason = status.reason or f"there are {status.devices}"
        raise DeviceUnavailableError(
            f"CUDA device {device} is not there: {reason}; use device='cpu', or choose another"
        )
    keep_context(device)
    try:
        from repr_runtime.cuda.pycuda import PyCuda
    except ImportError:
        return BindingsCuda(device)
    return PyCuda(device)
