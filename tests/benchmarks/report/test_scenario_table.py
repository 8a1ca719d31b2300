"""Cautions on scenarios: each said once, with all the rows that it holds for."""

from dataclasses import replace
from typing import Any

import numpy as np
from page_results import RESULTS, server
from scenario_rows import LOADGEN

from repr_bench.report.sections.scenarios import scenario_cautions


def test_a_caution_names_all_its_rows() -> None:
    row: Any = server(np.random.default_rng(0))
    end = row.confirmed.latency_ms[99].interval.high
    near = replace(row, slo_ms=end - 1e-6)
    far = replace(row, label="far", slo_ms=end + 1.0)
    driven = replace(LOADGEN, scenario="server")
    rows = (near, replace(near, label="other"), far, driven, replace(driven, label="other"))
    found = scenario_cautions(replace(RESULTS, scenarios=rows))
    assert [text for text in found if "reaches beyond" in text] == [
        "p99 held its bound, but its interval reaches beyond, and a longer run (--seconds) would "
        "tell: lenet5 fp32 server, other fp32 server"
    ]
    reason = "Early stopping not satisfied"
    assert f"{reason}: lenet5 fp32 server (LoadGen), other fp32 server (LoadGen)" in found
