"""The driver of `libcuda.c`, for what is run in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repr_runtime.cuda.driver import cuda_status


def run_over_it(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with ``arguments``, whose CUDA driver is built in ``folder``; skips where it cannot be."""
    if sys.platform != "linux" or cuda_status().devices or shutil.which("cc") is None:
        pytest.skip("this needs Linux, a C compiler and no GPU")
    source, library = Path(__file__).with_name("libcuda.c"), folder / "libcuda.so.1"
    build = ["cc", "-w", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(build, check=True, timeout=60)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
