"""The arrows between the rooms, and their size: read from every file and import statement.

Imports inside functions, for types alone and by name count as well.
"""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "repr_models": "models",
    "repr_export": "export",
    "repr_runtime": "runtime",
    "repr_serve": "runtime",
    "repr_bench": "benchmarks",
}
ARROWS = {
    "repr_models": set[str](),
    "repr_runtime": set[str](),
    "repr_serve": {"repr_runtime"},
    "repr_export": {"repr_models", "repr_runtime"},
    "repr_bench": {"repr_export", "repr_models", "repr_runtime", "repr_serve"},
}
RUNTIME_LIBRARIES = {"numpy", "onnxruntime"}
EXTRA_LIBRARIES = {"openvino", "tensorrt", "tensorrt_rtx", "cuda", "pycuda"}
"""What the runtime may import inside a function, once they are asked for, or for types alone."""
OWN_LIBRARY = {"pycuda.py": {"pycuda"}}
"""Files that are imported only where their library is."""
ASKED_BY_A_SHELL = {"cli.py": {"argcomplete"}}
"""What answers a shell's Tab, imported inside a function when one asks."""


MOST_FILES = 15
MOST_LINES = {"source": 400, "tests": 450}
ALL_LINES = {"source": 48_450, "tests": 40_350}
"""Where the tree stands; to be lowered as it shrinks, and raised for a feature alone."""


def imported_names(file: Path) -> set[str]:
    """What ``file`` imports anywhere, dotted: ``from a import b`` is ``a.b``, which may be a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            function = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            names |= {
                str(argument.value)
                for argument in node.args[:1]
                if function in ("import_module", "__import__")
                and isinstance(argument, ast.Constant)
            }
    return names


def imported(file: Path) -> set[str]:
    """The top packages that ``file`` imports anywhere, functions included."""
    return {name.partition(".")[0] for name in imported_names(file)}


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
        asked = ASKED_BY_A_SHELL.get(file.name, set())
        wrong = imported(file) - known - EXTRA_LIBRARIES - asked
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


def modules(folder: Path) -> dict[str, Path]:
    """The modules of the package ``folder`` by dotted name; a package has its folder's."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def arrows_of(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which modules each one imports: of ``from a import b`` the module ``a.b``, or else ``a``.

    That ``a.b`` runs ``a``'s ``__init__`` first is no arrow: else any package that re-exports
    would be a circle.
    """
    return {
        name: {
            target
            for asked in imported_names(file)
            for target in (asked, asked.rpartition(".")[0])
            if target in known and not (target != asked and asked in known)
        }
        - {name}
        for name, file in known.items()
    }


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """The names on one circle of ``arrows``, in order; empty if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for target in sorted(arrows.get(name, ())):
            if found := visit(target):
                return found
        done.add(path.pop())
        return []

    return next((found for name in sorted(arrows) if (found := visit(name))), [])


def folder_arrows(known: Mapping[str, Path], folder: Path) -> dict[str, set[str]]:
    """The same between what stands side by side in ``folder``: its files and folders.

    Its own ``__init__`` is not one of them.
    """
    prefix = ".".join(folder.relative_to(ROOT).parts[1:]) + "."
    found: dict[str, set[str]] = defaultdict(set)
    for name, targets in arrows_of(known).items():
        if name.startswith(prefix):
            one = name.removeprefix(prefix).partition(".")[0]
            others = {
                t.removeprefix(prefix).partition(".")[0] for t in targets if t.startswith(prefix)
            }
            found[one] |= others - {one}
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_no_circle_of_files(package: str) -> None:
    found = circle(arrows_of(modules(ROOT / ROOMS[package] / package)))
    assert not found, " -> ".join(found)


@pytest.mark.parametrize("package", ROOMS)
def test_no_circle_of_folders(package: str) -> None:
    top = ROOT / ROOMS[package] / package
    known = modules(top)
    for folder in {file.parent for file in known.values()}:
        found = circle(folder_arrows(known, folder))
        assert not found, f"{folder}: {' -> '.join(found)}"


def python_files() -> Iterator[tuple[str, Path]]:
    """Every Python file of the tree that git knows or would take, with what it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    if not names:
        pytest.skip("not in a git checkout")
    for name in names:
        yield "tests" if name.startswith("tests/") else "source", ROOT / name


def test_no_folder_and_no_file_is_too_long_to_find_ones_way_in() -> None:
    lines: Counter[str] = Counter()
    folders: Counter[Path] = Counter()
    long = []
    for kind, file in python_files():
        count = len(file.read_text(encoding="utf-8").splitlines())
        lines[kind] += count
        folders[file.parent] += 1
        if count > MOST_LINES[kind]:
            long.append(f"{file.relative_to(ROOT)} {count}")
    full = {str(k.relative_to(ROOT)): n for k, n in folders.items() if n > MOST_FILES}
    assert (long, full) == ([], {})
    assert all(lines[kind] <= most for kind, most in ALL_LINES.items()), lines


def test_circles_are_found_wherever_the_import_stands(tmp_path: Path) -> None:
    def package(name: str, files: Mapping[str, str]) -> dict[str, Path]:
        for path, text in {"__init__.py": "", **files}.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return modules(tmp_path / name)

    none = package("p", {"a.py": "from p import b\n", "b.py": "from p.c import x\n", "c.py": ""})
    assert arrows_of(none) == {"p": set(), "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}
    assert circle(arrows_of(none)) == []
    later = package("q", {"a.py": "import q.b\n", "b.py": "def f():\n    from q import a\n"})
    assert circle(arrows_of(later)) == ["q.a", "q.b"]


def test_two_folders_that_import_each_other_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    files = {"x/a.py": "import p.y.b\n", "x/c.py": "", "y/b.py": "", "y/d.py": "import p.x.c\n"}
    for path, text in files.items():
        (tmp_path / "room" / "p" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "room" / "p" / path).write_text(text)
    known = modules(tmp_path / "room" / "p")
    assert circle(arrows_of(known)) == []
    assert circle(folder_arrows(known, tmp_path / "room" / "p")) == ["x", "y"]
