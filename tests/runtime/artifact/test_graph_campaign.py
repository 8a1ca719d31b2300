"""Graphs that nearly are some: `load` and an export's reader answer or refuse each, and nothing else.

A few hundred of them each time; ``REPR_GRAPHS=20000 pytest tests/runtime/artifact/test_graph_campaign.py``
takes that many each way, from the number ``REPR_GRAPHS_FIRST`` on, and says what came of them with ``-s``.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import graph_campaign
import pytest

MANY = int(os.environ.get("REPR_GRAPHS", "150"))
FIRST = int(os.environ.get("REPR_GRAPHS_FIRST", "0"))
AT_ONCE = 2000  # in one process


@pytest.mark.timeout(0)
@pytest.mark.skipif(sys.platform != "linux", reason="of a process's own memory")
@pytest.mark.parametrize("way", ["load", "read"])
def test_each_is_answered_or_refused(way: str, tmp_path: Path) -> None:
    came, peak = Counter[str](), 0
    for first in range(FIRST, FIRST + MANY, AT_ONCE):
        count = min(AT_ONCE, FIRST + MANY - first)
        program = [sys.executable, graph_campaign.__file__, way, str(first), str(count)]
        done = subprocess.run(
            [*program, str(tmp_path)], capture_output=True, text=True, check=False, errors="replace"
        )
        at = (tmp_path / "at").read_text()
        assert done.returncode == 0, (at, done.returncode, done.stderr[-2000:])
        said = json.loads(done.stdout)  # and nothing else was printed
        assert said["wrong"] == []
        came.update(said["came"])
        peak = max(peak, said["MiB"])
    print(f"\n{came.total():,} graphs, {peak} MiB at most:", dict(came.most_common()))
    assert came.total() == MANY
    assert came["answered"] + came["read"] > MANY // 40
    assert peak < 2048
