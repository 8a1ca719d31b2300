"""The READMEs' Python, pasted line by line into one session where their artifact lies."""

import re
import shutil
from code import InteractiveConsole
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Pasted(InteractiveConsole):
    """An interactive session that keeps what it complains of."""

    complaints = ""

    def write(self, data: str) -> None:
        self.complaints += data


@pytest.mark.parametrize("readme", ["README.md", "runtime/README.md"])
def test_every_block_runs_as_it_stands(
    readme: str, lenet5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / readme).read_text("utf-8")
    blocks = re.findall(r"(?<!needs a port -->\n)```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    shutil.copytree(lenet5, tmp_path / "artifacts" / "resnet20")
    monkeypatch.chdir(tmp_path)
    session = Pasted()
    for line in "\n".join(blocks).splitlines():
        session.push(line)
        assert session.complaints == "", line
    assert session.locals["logits"].shape == (10,)
    label = session.locals["prediction"].label
    assert label in session.locals["session"].manifest.labels
