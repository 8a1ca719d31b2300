"""How far a graph may be from its network: a fixed bound, or the network's own rounding."""

from pathlib import Path

import numpy as np
import pytest

from repr_export.errors import ParityError
from repr_export.options import ExportOptions
from repr_export.parity import (
    PARITY_BOUND,
    ROUNDING_FACTOR,
    Difference,
    allow_rounding,
    compare,
    require_parity,
    summarize,
)
from repr_export.pipeline import export
from repr_export.samples import SampleSet
from repr_runtime import load

EXACT = np.array([[0.0, 1.0], [2.0, 10.0]])
SAMPLES = SampleSet("noise", "two made up", {"x": np.zeros((2, 1), np.float32)})


def judged(own: float, graphs: float) -> Difference:
    """The verdict where float32 is off by ``own`` of the range and the graph by ``graphs`` more."""
    expected = {"y": EXACT + np.array([[0, 0], [0, own * 10]])}
    actual = {"y": expected["y"] + np.array([[0, 0], [0, graphs * expected["y"].max()]])}
    rows = compare(SAMPLES, [expected], [actual])
    (row,) = allow_rounding(rows, [expected], [{"y": EXACT}])
    return row


def test_a_network_that_rounds_little_keeps_the_bound() -> None:
    row = judged(own=1e-6, graphs=2e-4)
    assert row.allowed == PARITY_BOUND
    with pytest.raises(ParityError, match=r"allowed is 0\.0001"):
        require_parity([row])


def test_a_network_that_amplifies_rounding_allows_its_graph_as_much() -> None:
    row = judged(own=1e-3, graphs=2e-3)
    assert row.own_rounding == pytest.approx(1e-3, rel=2e-3)
    assert row.allowed == pytest.approx(ROUNDING_FACTOR * 1e-3, rel=2e-3)
    require_parity([row])
    assert "since the network in float32 is off from itself in float64 by 0.001" in summarize([row])

    # More than that is an error all the same, and nothing is allowed where rounding drowns it.
    with pytest.raises(ParityError, match=r"allowed is 0\.004"):
        require_parity([judged(own=1e-3, graphs=5e-3)])
    assert judged(own=0.05, graphs=0.06).allowed == PARITY_BOUND


@pytest.mark.large
@pytest.mark.slow
def test_a_deep_network_of_drawn_weights_is_exported_and_proves_itself(tmp_path: Path) -> None:
    exported = export("plain56", tmp_path, ExportOptions(weights="random"))
    receipt = exported.manifest.receipts["parity"]
    for row in receipt["differences"]:
        assert row["relative"] <= row["allowed"]
        assert row["allowed"] == PARITY_BOUND or row["own_rounding"] > PARITY_BOUND / 4
    assert load(exported.path, device="cpu").self_test().top1_agreement == 1.0
