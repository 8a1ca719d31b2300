"""Several processes that are one service are counted as one."""

import os
import time
from pathlib import Path

from repr_serve import Service
from repr_serve.metrics import Metrics


def lines(metrics: Metrics) -> set[str]:
    return set(metrics.page().decode().splitlines())


def test_the_counts_of_all_processes_are_added_up(service: Service, tmp_path: Path) -> None:
    one = Metrics(service, tmp_path)
    for _ in range(3):
        one.count("tiny", "http", "ok", 0.003)
    one.count("tiny", "grpc", "full", 0.003)
    one.close()
    file = tmp_path / f"{os.getpid()}.json"
    other = file.rename(tmp_path / "1.json")  # another process's
    (tmp_path / "2.json").write_text("{}")  # and one that is none of ours
    mine = Metrics(service, tmp_path)
    mine.count("tiny", "http", "ok", 0.03)
    for late in (False, True):  # what has ended counts on, but is not there
        found = lines(mine)
        assert 'repr_requests_total{model="tiny",outcome="ok",protocol="http"} 4.0' in found
        assert 'repr_requests_total{model="tiny",outcome="full",protocol="grpc"} 1.0' in found
        assert 'repr_request_seconds_bucket{le="0.005",model="tiny",protocol="http"} 3.0' in found
        assert 'repr_request_seconds_bucket{le="0.05",model="tiny",protocol="http"} 4.0' in found
        assert sum(line.startswith("repr_model_info{") for line in found) == 1
        there, ended = mine.snapshots()
        assert (len(there), len(ended)) == ((1, 1) if late else (2, 0))
        os.utime(other, (time.time() - 60,) * 2)
    mine.close()
