"""Sessions that are measured on a GPU: how engines are opened, and which need one a batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repr_runtime.backends.tensorrt.backend import TensorRTOptions

if TYPE_CHECKING:
    from repr_runtime import Session

ENGINES = TensorRTOptions(specialization="eager")
"""Else TensorRT-RTX runs a general kernel for as long as it compiles the one to be measured."""


def one_a_batch(session: Session) -> bool:
    """Whether batches of different sizes, in turn, would each pay for the change of size.

    ONNX Runtime's CUDA provider plans each convolution anew when its input is not of the shape of
    the last one, which takes longer than many runs.
    """
    return session.device != "cpu" and session.backend.name == "onnxruntime"
