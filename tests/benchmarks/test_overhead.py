"""The comparison with plain ONNX Runtime: right about made-up costs, limits kept."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from fake_queue import World

from repr_bench import overhead
from repr_bench.overhead import compare, main

ArtifactMaker = Callable[..., Path]


class Slowing(World):
    """A world that drifts and jumps, and calls of a given cost in µs."""

    def __init__(self, noise_us: float = 0.0, drift: float = 0.0) -> None:
        super().__init__()
        self.noise = np.random.default_rng(0)
        self.noise_us, self.drift = noise_us, drift

    def costing(self, us: float, name: str = "") -> Callable[[], None]:
        def milliseconds(_: int) -> float:
            slower = 1 + self.drift * self.now / 1e9
            return (us * slower + self.noise.exponential(self.noise_us)) / 1e3

        return self.call(name, milliseconds)


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WARMUP_SECONDS", 0.01)


@pytest.mark.parametrize("drift", [0.0, 0.5])
@pytest.mark.parametrize("cost", [0.0, 5.0])
def test_cost_is_found_under_drift_and_spikes(cost: float, drift: float) -> None:
    world = Slowing(noise_us=5.0, drift=drift)
    found = compare(world.costing(100 + cost), world.costing(100), 1.0, clock=world.clock)
    assert found.blocks >= 200
    mean_slowness = found.plain_us / 103.5
    assert found.difference_us == pytest.approx(cost * mean_slowness, abs=0.6)
    assert found.interval_us.low <= found.difference_us <= found.interval_us.high
    assert found.interval_us.high - found.interval_us.low < 2.0
    assert found.percent == pytest.approx(100 * found.difference_us / found.plain_us)


def test_blocks_call_both_alike_and_turn_the_order() -> None:
    world = Slowing()
    ours, plain = world.costing(100, "o"), world.costing(100, "p")
    found = compare(ours, plain, 0.001, clock=world.clock)
    assert found.blocks == 200
    assert "".join(world.called[-8:]) == "oppooppo"
    assert world.times["o"] == world.times["p"]


@pytest.mark.parametrize(("device", "title"), [("cpu", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_command_on_a_real_artifact(
    make_artifact: ArtifactMaker, capsys: pytest.CaptureFixture[str], device: str, title: str
) -> None:
    folder = str(make_artifact())
    options = ["--seconds", "0.02", "--threads", "1", "--device", device]
    assert main([folder, *options, "--max-us", "1e6", "--max-percent", "1e6"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: Session.run ")
    assert f" µs, {title} " in out
    assert "over the limit" not in out
    assert main([folder, *options, "--max-us=-1000000"]) == 1
    assert "over the limit of -1e+06 µs" in capsys.readouterr().out
    # an artifact that fails leaves the others
    assert main(["nowhere", folder, *options, "--max-percent=-1000000"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("nowhere: ")
    assert (out.startswith(folder), "over the limit of -1e+06 %" in out) == (True, True)


def test_ctrl_c_exits_130(make_artifact: ArtifactMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "measure_overhead", Mock(side_effect=KeyboardInterrupt))
    assert main([str(make_artifact())]) == 130
