"""Importing the runtime: its names, and what it does not pull in."""

import re
import subprocess
import sys
from pathlib import Path

import repr_runtime
from repr_runtime import errors

FORBIDDEN = (
    "torch|onnx|onnx_ir|onnxscript|rich|PIL|matplotlib|scipy|"
    "tensorrt|tensorrt_rtx|pycuda|cuda|repr_(?!runtime).*"
)


def foreign_modules(code: str, *arguments: str) -> set[str]:
    """Modules of other packages that a fresh interpreter holds after ``code``."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c"),
            f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}), sep='\\n')",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return {name for name in done.stdout.split() if re.fullmatch(FORBIDDEN, name)}


def test_loading_and_running_pulls_in_nothing_but_onnx_runtime(artifact: Path) -> None:
    code = (
        "import sys, numpy as np, repr_runtime\n"
        "assert 'onnxruntime' not in sys.modules, 'too early'\n"
        "with repr_runtime.load(sys.argv[1], device='cpu') as session:\n"
        "    session.run(np.zeros((1, 3, 4, 4), np.float32))\n"
        "    session.classify(np.zeros((9, 7, 3), np.uint8)); session.self_test()\n"
        "assert 'onnxruntime' in sys.modules\n"
        "import repr_runtime.cli"
    )
    assert foreign_modules(code, str(artifact)) == set()
    assert foreign_modules("import onnx") >= {"onnx"}  # the probe sees what is imported


def test_the_exported_names_are_these() -> None:
    assert repr_runtime.__all__ == [
        *("Batcher", "BatcherStats", "Check", "Limits", "Manifest", "Prediction", "ReproError"),
        *("SelfTestReport", "Session", "TensorRTOptions", "load", "preflight", "read_manifest"),
    ]
    assert all(hasattr(repr_runtime, name) for name in repr_runtime.__all__)


def test_a_missing_extra_says_the_line_that_installs_it() -> None:
    error = errors.MissingExtraError("the report", "bench", "matplotlib")
    assert str(error) == (
        "the report needs the extra 'bench' (no module 'matplotlib'): pip install 'repr-deploy[bench]'"
    )
    assert isinstance(error, ImportError)


def test_a_message_keeps_both_ends_of_what_is_too_long_and_can_always_be_printed() -> None:
    long = str(errors.ArtifactNotFoundError(f"{'a' * 100_000} is no artifact; give its folder"))
    assert len(long) < 600
    assert long.startswith("aaa")
    assert "…(100,000 characters)…" in long
    assert long.endswith("aaa is no artifact; give its folder")
    many = str(errors.DeadlineExceededError("one " * 10_000 + "way out"))
    assert errors.LONGEST_TEXT - 1 <= len(many) <= errors.LONGEST_TEXT
    assert many.endswith("way out")
    assert str(errors.OptionError("caf\udce9 is called é")) == r"caf\udce9 is called é"
    assert str(errors.MissingExtraError("x", "serve")).startswith("x needs the extra 'serve'")
