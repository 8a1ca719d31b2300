"""A TensorRT backend over the fake device and a fake engine."""

from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
from fake_cuda import FakeCuda
from fake_tensorrt import engine_bytes, expected

from repr_runtime.backends.tensorrt.backend import EngineFile, TensorRTBackend, TensorRTOptions
from repr_runtime.backends.tensorrt.library import EDITIONS, Library

EAGER = TensorRTOptions(cuda_graphs=False)


def library(rtx: bool = False, **choices: Any) -> Library:
    flavour = EDITIONS["tensorrt-rtx" if rtx else "tensorrt"]
    return Library(flavour, fake_tensorrt.module(rtx=rtx, **choices))


def engine_file(content: bytes, folder: Path, **choices: Any) -> EngineFile:
    return EngineFile(content, folder / "fp16.engine", "0" * 64, "repr-export x", **choices)


class Made:
    """A backend, and what it was made of."""

    def __init__(self, folder: Path, **choices: Any) -> None:
        rtx = choices.pop("rtx", False)
        options = choices.pop("options", TensorRTOptions())
        self.cuda = choices.pop("cuda", None) or FakeCuda()
        self.library = choices.pop("library", None) or library(rtx)
        graph = choices.pop("graph", None)
        content = engine_bytes(rtx=rtx, version=self.library.version, **choices)
        file = engine_file(content, folder, graph=graph)
        self.backend = TensorRTBackend(file, self.library, self.cuda, options)

    @property
    def trt(self) -> Any:
        return self.library.trt

    @property
    def engine(self) -> Any:
        return self.trt.engines[-1]

    def run(self, x: np.ndarray) -> np.ndarray:
        (logits,) = self.backend.run({"input": x})
        return logits

    def computes(self, *counts: int, seed: int = 0) -> None:
        """Batches of so many samples, one after the other, come out right."""
        for count in counts:
            x = batch(count, seed)
            np.testing.assert_array_equal(self.run(x), expected(x))


def batch(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, count])
    return random.standard_normal((count, 3, 4, 4)).astype(np.float32)
