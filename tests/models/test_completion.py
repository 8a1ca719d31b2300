"""What a shell's Tab completes: the commands themselves, asked as argcomplete's shell code asks them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "scipy", "matplotlib", "rich"}


def asked(line: str, cwd: Path) -> tuple[list[str], set[str]]:
    """The answer to a Tab at the end of ``line``, and the packages that were imported for it."""
    script = Path(sys.executable).parent / line.split()[0]
    python = [sys.executable, "-X", "importtime"]
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" 8>&1 9>/dev/null >/dev/null', "-", *python, str(script)],
        env={**variables, "COMP_POINT": str(len(line)), "PATH": "/usr/bin:/bin"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = re.findall(r"\|\s+(\w+)[\w.]*$", done.stderr, re.MULTILINE)
    return [answer.strip() for answer in done.stdout.splitlines()], set(imported)


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("repr-export resnet2", ["resnet20", "resnet20.cifar10"]),
        ("repr-export mine/m", ["mine/model.onnx"]),
        ("repr-export lenet5 --triton-backend o", ["onnxruntime", "openvino"]),
        ("repr-bench lenet5 plain3", ["plain32", "plain32.cifar10"]),
        ("repr-bench lenet5 --precision fp32,i", ["fp32,int8"]),
        ("repr-inspect --ver", ["--version", "--verify"]),
        ("repr-train resnet1", ["resnet110.cifar10"]),
    ],
)
def test_a_tab_is_answered_without_the_heavy_libraries(
    line: str, answers: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("model.onnx", "model.txt"):
        (tmp_path / "mine" / name).touch()
    found, imported = asked(line, tmp_path)
    assert found == answers
    assert "argcomplete" in imported
    assert not imported & HEAVY
