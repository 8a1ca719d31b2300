"""Standard streams that are closed, full, or left by their reader: what a command did is done."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from repr_models import streams
from repr_runtime import files

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")

PROGRAM = """
import sys
from repr_runtime.files import with_streams

def run():
    print("said")
    print("told", file=sys.stderr)
    open("done", "w").write("done")
    return {status}

sys.exit(with_streams("command", run))
"""
COMMANDS = ("repr_models.training", "repr_export", "repr_runtime", "repr_serve", "repr_bench")


def shell(line: str, *arguments: str) -> tuple[int, str]:
    """Status and standard error of ``line``, in which "$@" is this Python with ``arguments``."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("where", "status", "told"),
    [
        (">/dev/null", 0, "told\n"),
        (">&-", 1, "told\ncommand: Bad file descriptor on standard output; all else was done\n"),
        (
            ">/dev/full",
            1,
            "told\ncommand: No space left on device on standard output; all else was done\n",
        ),
        ("| true", 0, "told\n"),
        (">/dev/null 2>/dev/full", 0, ""),
        (">&- 2>&- <&-", 1, ""),
    ],
)
def test_what_was_done_is_done_and_the_status_says_what_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, status: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for own in (0, 3):
        Path("done").unlink(missing_ok=True)
        assert shell(f'"$@" {where}', "-c", PROGRAM.format(status=own)) == (own or status, told)
        assert Path("done").read_text() == "done"  # and nothing that was said went into it


@pytest.mark.parametrize("package", COMMANDS)
def test_every_command_ends_so(package: str) -> None:
    status, told = shell('"$@" >/dev/full', "-W", "error", "-m", f"{package}.cli", "--help")
    assert status == 1
    assert told.startswith("repr-")
    assert told.endswith(": No space left on device on standard output; all else was done\n")
    assert told.count("\n") == 1


def test_the_package_that_imports_no_other_has_the_same() -> None:
    for name in ("_Outlet", "_outlet", "with_streams"):
        assert inspect.getsource(getattr(streams, name)) == inspect.getsource(getattr(files, name))
