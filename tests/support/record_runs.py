"""Record one network again and again, as a user would: the A/A runs that the instrument is held to.

    python tests/support/record_runs.py ARTIFACT... --minutes 10 --out recorded/quiet.npz

Each run is a fresh process with the default plan of ``repr-bench`` and sessions, warm-up,
yardstick and machine state of its own. Of every round's samples 21 order statistics are kept, so
that some hundred runs are well below 2 MB; ``recorded/README.md`` describes the file.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import ResultsError
from repr_bench.measuring.measure import Plan
from repr_bench.options import whole_number
from repr_bench.results.file import read_results, write_text
from repr_bench.results.machine import stolen_share, waited_share
from repr_bench.results.results import Results
from repr_bench.statistics.shift import FEWEST_ROUNDS
from repr_runtime.files import replace_file

POINTS = 21
"""Order statistics kept of a round: the smallest, the 5th, 10th … percentile, the largest."""
MOST_BYTES = 2_000_000


class RecordingError(Exception):
    """What the user can mend, in a sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Record until the runs or the minutes are used up; exit status 1 if nothing was written."""
    args = _parser().parse_args(argv)
    try:
        if not args.out.parent.is_dir():
            raise RecordingError(f"{args.out.parent} is not a folder; make it first")
        runs = record(args)
        size = write(runs, args.out)
    except (RecordingError, ResultsError, OSError) as error:
        print(f"record_runs: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(runs)} runs of {len(runs[0].rows)} rows, {size:,} bytes")
    return 0


def _parser() -> argparse.ArgumentParser:
    plan = Plan()
    parser = argparse.ArgumentParser(
        description="Run repr-bench on the same artifacts again and again, and keep what it timed."
    )
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    parser.add_argument("--batch", default="1,8", metavar="N,…", help="batch sizes (%(default)s)")
    parser.add_argument("--threads", type=whole_number, default=1, help="of a session (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=plan.seconds, help="timed of each row (%(default)s)"
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--runs", type=whole_number, help="how many runs")
    length.add_argument("--minutes", type=float, help="begin no run that would end later")
    return parser


def record(args: argparse.Namespace) -> list[Results]:
    """One run after the other. Ctrl-C ends it; whole runs are kept where no file would be lost."""
    found: list[Results] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run.json"
        try:
            while not found or not _done(args, len(found), time.monotonic() - began):
                found.append(_one_run(args, place))
                _tell(found, _left(args, len(found), time.monotonic() - began))
        except KeyboardInterrupt:
            if args.out.exists():
                raise RecordingError(f"interrupted; {args.out} is left as it was") from None
            print(f"interrupted: {len(found)} whole runs are kept", file=sys.stderr)
    if not found:
        raise RecordingError("no run was whole, so nothing was written")
    return found


def _left(args: argparse.Namespace, runs: int, spent: float) -> float:
    """Seconds until the last run will be over."""
    if args.runs is not None:
        return spent / runs * (args.runs - runs)
    return float(60 * args.minutes - spent)


def _done(args: argparse.Namespace, runs: int, spent: float) -> bool:
    return runs == args.runs or (args.runs is None and _left(args, runs, spent) < spent / runs)


def _one_run(args: argparse.Namespace, place: Path) -> Results:
    command = [sys.executable, "-m", "repr_bench.cli", *map(str, args.artifacts)]
    command += ["--batch", args.batch, "--threads", str(args.threads)]
    command += ["--seconds", str(args.seconds), "--limit", "1", "--json", str(place), "--quiet"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        told = done.stderr.strip()
        if not told and place.exists():
            told = "; ".join(row.reason for row in read_results(place).rows if row.reason)
        raise RecordingError(f"repr-bench failed: {told or f'exit status {done.returncode}'}")
    return read_results(place)


def _tell(runs: list[Results], left: float) -> None:
    run = runs[-1]
    medians = ", ".join(f"{row.label} {row.batch}: {row.latency_ms[50]} ms" for row in run.rows)
    print(
        f"run {len(runs)}: {medians}; waited {waited_share(run.machine):.0%}, "
        f"stolen {stolen_share(run.machine):.0%}; {max(0, round(left))} s left",
        file=sys.stderr,
        flush=True,
    )


def thinned(samples: Sequence[int]) -> NDArray[np.int32]:
    """``POINTS`` order statistics of a round in ns; the middle one is its nearest-rank median."""
    ordered = np.sort(np.asarray(samples))
    ranks = np.maximum(1, np.ceil(np.linspace(0, 1, POINTS) * len(ordered)))
    return np.asarray(np.minimum(ordered[ranks.astype(int) - 1], 2**31 - 1), np.int32)


def arrays(runs: Sequence[Results]) -> dict[str, NDArray[np.generic]]:
    """What the file holds. Raises :class:`RecordingError` where the runs differ in shape."""
    first = runs[0]
    shapes = {
        (run.settings.rounds, *((r.label, r.batch, r.status) for r in run.rows)) for run in runs
    }
    if len(shapes) > 1 or any(r.status != "measured" for r in first.rows):
        reasons = sorted({r.reason for run in runs for r in run.rows if r.reason})
        raise RecordingError(f"rows were not measured alike in all runs: {'; '.join(reasons)}")
    rounds = first.settings.rounds
    if rounds < FEWEST_ROUNDS:
        raise RecordingError(f"{rounds} rounds, and {FEWEST_ROUNDS} are needed")
    assert all(run.reference_load is not None for run in runs), "every run lays it on"
    held: dict[str, NDArray[np.generic]] = {
        "networks": np.array([row.label for row in first.rows]),
        "batches": np.array([row.batch for row in first.rows], np.int32),
        "bytes": np.array([row.graph.bytes if row.graph else 0 for row in first.rows]),
        "rounds_ns": np.array(
            [[[thinned(r) for r in row.rounds_ns] for row in run.rows] for run in runs]
        ),
    }
    for part in ("product_ns", "copy_ns"):
        times = [getattr(run.reference_load, part) for run in runs]
        held[part] = np.array([[sorted(t)[:4] for t in of_run] for of_run in times], np.int32)
    for field in (
        *("seconds", "own_cpu_seconds", "waited_seconds", "others_cpu_seconds"),
        *("stolen_cpu_seconds", "turns"),
    ):
        # What a machine does not tell is NaN here.
        values = [[getattr(state, field) for state in run.machine] for run in runs]
        held[field.split("_")[0]] = np.array(values, float).astype(np.float32)
    return held


def write(runs: Sequence[Results], path: Path) -> int:
    """The arrays to ``path``, where and how they were recorded beside it; returns the size.

    Both are written beside their places and renamed: what stood there stays whole until then.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays(runs))
    content = stream.getvalue()
    if len(content) > MOST_BYTES:
        raise RecordingError(f"{len(content):,} bytes, more than {MOST_BYTES:,}: record fewer runs")
    replace_file(path, content, mode=0o644)
    about = {
        "started": runs[0].started,
        "finished": runs[-1].finished,
        "settings": asdict(runs[0].settings),
        "environment": asdict(runs[0].environment),
        "loads": [state.load for run in runs for state in run.machine[:1]],
        "waited_percent": [round(100 * waited_share(run.machine), 2) for run in runs],
        "stolen_percent": [round(100 * stolen_share(run.machine), 2) for run in runs],
    }
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return len(content)


if __name__ == "__main__":
    sys.exit(main())
