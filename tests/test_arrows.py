"""The arrows between the rooms: who may import whom, read from every import statement."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "repr_models": "models",
    "repr_export": "export",
    "repr_runtime": "runtime",
    "repr_bench": "benchmarks",
}
ARROWS = {
    "repr_models": set[str](),
    "repr_runtime": set[str](),
    "repr_export": {"repr_models", "repr_runtime"},
    "repr_bench": {"repr_export", "repr_models", "repr_runtime"},
}
RUNTIME_LIBRARIES = {"numpy", "onnxruntime"}
GPU_LIBRARIES = {"tensorrt", "tensorrt_rtx", "cuda", "pycuda"}
"""What the runtime may import inside a function, once they are asked for, or for types alone."""
OWN_LIBRARY = {"cuda_pycuda.py": {"pycuda"}}
"""Files that are imported only where their library is."""


def imported(file: Path) -> set[str]:
    """The top packages that ``file`` imports anywhere, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            function = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            names |= {
                str(argument.value)
                for argument in node.args[:1]
                if function in ("import_module", "__import__")
                and isinstance(argument, ast.Constant)
            }
    return {name.partition(".")[0] for name in names}


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / ROOMS[package] / package).rglob("*.py"))
    assert files, f"{package} has no files"
    return files


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_along_its_arrows(package: str) -> None:
    allowed = ARROWS[package] | {package}
    for file in files_of(package):
        wrong = (imported(file) & set(ROOMS)) - allowed
        assert not wrong, f"{file} imports {wrong}"


def imported_at_once(file: Path) -> set[str]:
    """The top packages that importing ``file`` itself imports: not in functions, nor for types."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    later = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    ]
    names = [
        name
        for node in ast.walk(tree)
        if node not in later
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    return {name.partition(".")[0] for name in names}


def test_the_runtime_needs_numpy_and_onnx_runtime_only() -> None:
    known = set(sys.stdlib_module_names) | RUNTIME_LIBRARIES | {"repr_runtime"}
    for file in files_of("repr_runtime"):
        wrong = imported(file) - known - GPU_LIBRARIES
        assert not wrong, f"{file} imports {wrong}"
        at_once = imported_at_once(file) - known - OWN_LIBRARY.get(file.name, set())
        assert not at_once, f"{file} imports {at_once} at once"


def test_nothing_imports_the_tests_or_a_folder_by_its_name() -> None:
    for package in ROOMS:
        for file in files_of(package):
            assert not imported(file) & {"tests", *ROOMS.values()}, file


def test_imports_inside_functions_and_by_name_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import os.path\ndef f():\n    from torch.nn import Linear\n"
        "    importlib.import_module('onnx.helper')\n"
    )
    assert imported(file) == {"os", "torch", "onnx"}
