"""The pages of docs/, followed as they stand: every block in order, in an empty folder.

A block whose first line is ``# FILE`` is that file. In a console block a line ``$ command`` is run,
and what stands below it is what it must say; its status must be 0, unless ``$ echo $?`` comes next. The
plain block behind a Python block is what that printed. ``…`` stands for anything, on a line of its own
for any lines. Comments in the page's source say more of the block below: ``<!-- figures vary -->`` that each
number may be another, ``<!-- figures vary; a busy machine cannot tell -->`` that the verdict may be that, too,
and ``<!-- not run: needs … -->`` that this machine lacks what it takes.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from repr_bench.cli import main as bench
from repr_export.cli import main as export
from repr_runtime.cli import main as inspect

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "README.md")
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "repr-export": export,
    "repr-inspect": inspect,
    "repr-bench": bench,
}
NOT_RUN = re.compile(
    r"<!-- not run: needs (a GPU|a server of Triton|a network|a port|systemd|Docker|a cluster) -->"
)
STATUS = "echo $?\n"
VARY = "<!-- figures vary -->"
BUSY = "<!-- figures vary; a busy machine cannot tell -->"
NUMBER = re.compile(r"(?<!\w)\d[\d.,]*(?:e[+-]?\d+)?")


@dataclass
class Reader:
    """Who follows a page, in the working folder, and what was said last."""

    page: str
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    status: int = 0

    def follow(self, text: str) -> None:
        marker, printed = "", None
        for token in MarkdownIt().parse(text):
            if token.type == "html_block":
                marker = token.content.strip()
            elif token.type == "fence":
                printed = self.block(token.info, token.content, marker, printed)
                marker = ""
        assert self.status == 0

    def block(self, language: str, content: str, marker: str, printed: str | None) -> str | None:
        """Take one block; what it printed, if it is Python."""
        assert marker in ("", VARY, BUSY) or NOT_RUN.fullmatch(marker), marker
        if NOT_RUN.fullmatch(marker):
            return None
        if named := re.match(r"# (\S+\.\w+)\n", content):
            Path(named[1]).write_text(content, "utf-8")
            importlib.invalidate_caches()  # as a new process would have none
        elif language == "python":
            with said() as out:
                exec(compile(content, self.page, "exec"), self.names)
            return out.getvalue()
        elif language == "console":
            for command, shown in re.findall(
                r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", content, re.M
            ):
                said_now = self.run(command)
                if marker == BUSY and "cannot tell:" in said_now:
                    break
                self.compare(command, shown, said_now, "" if command == STATUS else marker)
        elif not language and printed is not None:
            self.compare("Python", content, printed, marker)
        else:
            raise AssertionError(f"what is this block of {language or 'nothing'}?\n{content}")
        return None

    def run(self, command: str) -> str:
        if command == STATUS:
            status, self.status = self.status, 0
            return f"{status}\n"
        assert self.status == 0, f"the command before {command} gave {self.status}"
        name, *arguments = shlex.split(command.replace("\\\n", " "))
        if name in COMMANDS and not set("|<>&;*") & set(command):
            with said() as out:
                try:
                    self.status = COMMANDS[name](arguments)
                except SystemExit as stopped:
                    self.status = int(stopped.code or 0)
            return out.getvalue()
        done = subprocess.run(
            ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.status = done.returncode
        return done.stdout

    def compare(self, what: str, shown: str, real: str, marker: str) -> None:
        lines = [
            r"(?:.*\n)*?" if line.strip() == "…" else pattern(line.rstrip(), bool(marker)) + r" *\n"
            for line in shown.splitlines()
        ]
        assert not shown or re.fullmatch("".join(lines), real), f"{what} says:\n{real}"


def pattern(line: str, vary: bool) -> str:
    """What a line that is shown as ``line`` may be; with ``vary``, with any numbers."""

    def of(part: str) -> str:
        if part == "…":
            return ".*"
        if vary and NUMBER.fullmatch(part):
            return NUMBER.pattern
        return " +" if vary and part.isspace() else re.escape(part)

    return "".join(map(of, re.split(rf"(…|{NUMBER.pattern}|\s+)", line)))


@contextlib.contextmanager
def said() -> Iterator[io.StringIO]:
    """What is printed meanwhile, as a terminal shows it: both streams in one."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with this environment's commands and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("COLUMNS", "120")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("empty_folder")
def test_page(page: Path) -> None:
    if page.stem == "gpu" and find_library("cuda"):
        pytest.skip("it shows what a machine without a GPU says")
    Reader(page.name).follow(page.read_text("utf-8"))


def block(content: str, language: str = "console") -> str:
    return f"```{language}\n{content}\n```\n\n"


@pytest.mark.parametrize(
    "page",
    [
        block("$ false"),
        block("$ false") + block("$ echo on"),
        block("$ true\n$ echo $?\n1"),
        block("$ echo 0.25\n0.24"),
        block("$ printf 'one\\ntwo\\n'\none"),
        block("$ printf 'one\\ntwo\\n'\n…\nthree"),
        f"{VARY}\n" + block("$ echo 1 ms\n2 s"),
        f"{VARY}\n" + block("$ false\n$ echo $?\n3"),
        f"{BUSY}\n" + block("$ echo faster\nslower"),
        "<!-- not run: too slow -->\n" + block("$ echo on"),
        block("$ repr-inspect nowhere"),
        block("$ repr-inspect --help\nnothing"),
        block("raise AssertionError", "python"),
        block("print(1)", "python") + block("2", ""),
        block("a block of nothing", ""),
    ],
)
@pytest.mark.usefixtures("empty_folder")
def test_a_page_that_is_stale_fails(page: str) -> None:
    with pytest.raises(AssertionError):
        Reader("page").follow(page)


@pytest.mark.usefixtures("empty_folder")
def test_a_page_that_holds_is_followed() -> None:
    Reader("page").follow(
        block("# note.txt\ntext", "")
        + block("$ cat note.txt\n…\ntext\n$ echo 0.25 ms\n0.25…\n$ false\n$ echo $?\n1")
        + f"{BUSY}\n"
        + block("$ echo cannot tell: why\nslower\n$ echo $?\n3")
        + f"{VARY}\n"
        + block("$ echo 'p50  0.25 ms fp32'\np50 12.5 ms fp32")
        + "<!-- not run: needs a GPU -->\n"
        + block("$ false")
        + block("# note.py\nVALUE = 2", "python")
        + block("import note\n\nprint(note.VALUE)", "python")
        + block("2", "")
    )
