"""What `Session.run` costs over the plain library: `python -m repr_bench.overhead ARTIFACT...`.

Both run the same graph in the same session of ONNX Runtime, or compiled by OpenVINO, one right
after the other, in blocks of four calls: ours, plain, plain, ours. The difference within a block
is free of drift and of who went first, to first order.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from repr_bench.errors import BenchError, UsageError
from repr_bench.inputs import make_feed
from repr_bench.measuring.measure import Call, Clock, garbage_frozen
from repr_bench.options import seconds, whole_number
from repr_bench.statistics.intervals import Interval, percentile, percentile_interval
from repr_runtime import ReproError, Session, load
from repr_runtime.loading import DEVICES

ROUNDS = 20
"""Parts of the measurement that the bootstrap draws, so that drift counts as spread."""
LEAST_BLOCKS = 10 * ROUNDS
WARMUP_SECONDS = 0.5
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Overhead:
    """Medians of both in µs, and the median difference within a block with its interval."""

    ours_us: float
    plain_us: float
    difference_us: float
    interval_us: Interval
    blocks: int

    @property
    def percent(self) -> float:
        """The difference in percent of the plain call."""
        return 100 * self.difference_us / self.plain_us


def compare(
    ours: Call, plain: Call, seconds: float, *, clock: Clock = time.perf_counter_ns
) -> Overhead:
    """Time ``ours`` against ``plain`` for at least ``seconds`` and 200 blocks of four calls."""
    start = clock()
    while clock() - start < WARMUP_SECONDS * 1e9:
        ours()
        plain()
    blocks: list[tuple[int, int, int, int]] = []
    start = clock()
    while clock() - start < seconds * 1e9 or len(blocks) < LEAST_BLOCKS:
        times = [clock()]
        for call in (ours, plain, plain, ours):
            call()
            times.append(clock())
        a, b, c, d = (after - before for before, after in pairwise(times))
        blocks.append((a, b, c, d))
    samples = np.array(blocks) / 1e3
    differences = (samples[:, 0] - samples[:, 1] - samples[:, 2] + samples[:, 3]) / 2
    interval = percentile_interval(np.array_split(differences, ROUNDS), 50)
    assert interval is not None, f"there are {ROUNDS} rounds"
    return Overhead(
        ours_us=percentile(samples[:, [0, 3]], 50),
        plain_us=percentile(samples[:, [1, 2]], 50),
        difference_us=percentile(differences, 50),
        interval_us=interval,
        blocks=len(blocks),
    )


def measure_overhead(session: Session, seconds: float) -> Overhead:
    """The cost of ``session.run`` at the smallest batch, over its own library's.

    Raises :class:`UsageError` if the session runs neither on ONNX Runtime nor on OpenVINO.
    """
    arrays, _ = make_feed(session, None, session.batch_size or 1)
    feed = {spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)}
    ours, plain = partial(session.run, *arrays), _plain(session, feed)
    with garbage_frozen():
        return compare(ours, plain, seconds)


def _plain(session: Session, feed: dict[str, Any]) -> Call:
    """The library called as its documentation does; OpenVINO without copies of inputs and outputs."""
    backend: Any = session.backend
    if backend.name == "onnxruntime" and hasattr(backend, "session"):
        return partial(backend.session.run, [spec.name for spec in session.outputs], feed)
    if backend.name == "openvino":
        request = backend.compiled.create_infer_request()
        return partial(request.infer, feed, share_inputs=True, share_outputs=True)
    raise UsageError(
        f"{session!r} runs neither on ONNX Runtime nor on OpenVINO; there is nothing to compare"
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m repr_bench.overhead",
        description="What Session.run costs over the plain library on the same graph, at batch 1.",
    )
    p.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="folders of repr-export")
    p.add_argument("--seconds", type=seconds, default=3.0, help="for each artifact (default: 3)")
    p.add_argument(
        "--threads", type=whole_number, metavar="N", help="CPU threads (default: one a core)"
    )
    p.add_argument("--device", choices=DEVICES, default="auto")
    p.add_argument("--max-us", type=float, metavar="US", help="exit 1 if it costs more")
    p.add_argument("--max-percent", type=float, metavar="PERCENT", help="exit 1 if it costs more")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, 1 for an artifact that fails or a cost over a limit, 130 if interrupted."""
    args = parser().parse_args(argv)
    status = 0
    try:
        for artifact in args.artifacts:
            try:
                with load(artifact, device=args.device, threads=args.threads) as session:
                    found = measure_overhead(session, args.seconds)
                    library = TITLES[session.backend.name]
            except (ReproError, BenchError, ValueError) as error:
                print(f"{artifact}: {error}", file=sys.stderr)
                status = 1
                continue
            too_much = _over(found, args.max_us, args.max_percent)
            print(f"{artifact}: {_sentence(found, library)}{too_much}", flush=True)
            status = 1 if too_much else status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _sentence(found: Overhead, library: str) -> str:
    low, high = found.interval_us
    return (
        f"Session.run {found.ours_us:,.1f} µs, {library} {found.plain_us:,.1f} µs (medians); "
        f"{found.difference_us:+.1f} µs [{low:+.1f}, {high:+.1f}], {found.percent:+.2f} % "
        f"({found.blocks:,} blocks of ours, plain, plain, ours; 95 % interval)"
    )


def _over(found: Overhead, max_us: float | None, max_percent: float | None) -> str:
    limits = (found.difference_us, max_us, "µs"), (found.percent, max_percent, "%")
    for cost, most, unit in limits:
        if most is not None and cost > most:
            return f"; over the limit of {most:g} {unit}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
