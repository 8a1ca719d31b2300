"""What is named on a command line may be of any length: the commands' words about it are not."""

import pytest

from repr_bench.cli import main as bench
from repr_export.cli import main as export
from repr_runtime.cli import main as inspect


@pytest.mark.parametrize("path", ["x" * 100_000, "a/" * 50_000, "\x1b[2J\udcff"])
def test_a_path_that_no_file_has(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, *more in (
        (bench, "lenet5", "--compare", path),
        (bench, "--from", path),
        (bench, "lenet5", "--with", path),
        (export, "lenet5", "--weights", path),
        (export, path),
        (inspect, path),
    ):
        assert command(more) == 1
        words = "".join(capsys.readouterr())
        assert len(words) < 6000
        assert words.replace("\n", "").isprintable()
