"""The single-stream and multi-stream scenarios: each query is sent as the one before is answered."""

from dataclasses import replace
from functools import partial

from repr_bench.inputs import make_feed
from repr_bench.measuring.measure import measure
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.scenarios.system import SystemUnderTest


def measure_streams(system: SystemUnderTest, row: ScenarioRow) -> ScenarioRow:
    """``row`` with queries of its batch back to back, by one caller. Raises what a query raises."""
    arrays, what = make_feed(system.session, system.images, row.batch or 1)
    measured = measure(
        [partial(system.session.run, *arrays)],
        system.request.plan,
        report=partial(system.listener.advance, f"{system.label} {row.scenario}"),
    )
    timing = measured.timings[0]
    if timing.error is not None:
        raise timing.error
    windows = tuple(map(tuple, timing.rounds))
    row = replace(
        row,
        inputs=what,
        windows_ns=windows,
        window_seconds=tuple(sum(window) / 1e9 for window in windows),
        steady=timing.steady,
    )
    return row if measured.interrupted else replace(row, status="measured", reason="")
