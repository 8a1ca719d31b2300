"""The code over `tensorrt` uses its API as NVIDIA's published stubs describe it."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
MODULES = [
    "repr_export.tensorrt.build",
    "repr_export.tensorrt.graph_checks",
    "repr_export.tensorrt.receipt",
    "repr_export.tensorrt.diagnostics",
    "repr_export.tensorrt.builder_library",
    "repr_export.tensorrt.monitor",
    "repr_runtime.backends.tensorrt.messages",
    "repr_runtime.backends.tensorrt.backend",
    "repr_runtime.backends.tensorrt.lane",
    "repr_runtime.backends.tensorrt.library",
]

CONFIG = """
[mypy]
strict = true
mypy_path = {folders}
disable_error_code = no-any-return

[mypy-tensorrt.*,tensorrt_bindings.*]
follow_imports = silent
[mypy-onnx.*,onnxruntime.*]
ignore_missing_imports = true
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the published stubs, which mypy cannot read as they are."""
    pytest.importorskip("mypy")
    try:
        files = importlib.metadata.files("tensorrt-stubs") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tensorrt-stubs is not installed")
    folder = tmp_path_factory.mktemp("stubs")
    for file in files:
        if file.suffix == ".pyi":
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), folder / file)
    path = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = path.read_text()
    text = re.sub(r"([(,] ?)in: ", r"\1in_: ", text)  # a keyword as a parameter's name
    text = text.replace(
        "channel_axis: int) -> IScaleLayer", "channel_axis: int = ...) -> IScaleLayer"
    )
    text = re.sub(r"^bool: DataType.*$", "", text, flags=re.MULTILINE)  # hides the built-in
    path.write_text(text)
    return folder


def check(stubs: Path, *arguments: str) -> str:
    config = stubs / "mypy.ini"
    folders = [stubs, *(PROJECT / name for name in ("models", "export", "runtime"))]
    config.write_text(CONFIG.format(folders=":".join(map(str, folders))))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        config,
        "--cache-dir",
        stubs / "cache",
    ]
    done = subprocess.run(
        [*map(str, command), *arguments], capture_output=True, text=True, cwd=stubs, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_code_over_tensorrt_fits_the_stubs(stubs: Path) -> None:
    lines = check(stubs, *(part for name in MODULES for part in ("-m", name))).splitlines()
    ours = [line for line in lines if re.search(rf"({'|'.join(MODULES)})".replace(".", "/"), line)]
    assert lines, "mypy said nothing at all"
    assert ours == [], "\n".join(ours)


@pytest.mark.slow
def test_the_check_sees_what_does_not_fit(stubs: Path) -> None:
    (stubs / "wrong.py").write_text(
        "import tensorrt as trt\n"
        "def f(config: trt.IBuilderConfig) -> None:\n"
        "    config.set_flag(trt.BuilderFlag.TF32)\n"
        "    config.max_workspace_size = 1\n"
    )
    found = check(stubs, str(stubs / "wrong.py"))
    assert 'wrong.py:4: error: "IBuilderConfig" has no attribute "max_workspace_size"' in found
    assert "wrong.py:3" not in found
