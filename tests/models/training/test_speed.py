"""The speed of training by setting: what is compared, and how it is said."""

import pytest
import torch

from repr_models.registry import resolve
from repr_models.training import speed


def test_settings_take_their_steps_in_turn_and_the_quiet_ones_count() -> None:
    found = speed.settings(resolve("lenet5.cifar10"), 4)
    assert [each.state.recipe.precision for each in found] == ["fp32", "bf16", "bf16"]
    before = [each.state.network.get_parameter("fc1.weight").clone() for each in found]
    ticks = iter([0.0])
    now = [0.0]

    def clock() -> float:
        now[0] += next(ticks, 0.5)
        return now[0]

    speed.compare(found, 4.0, clock)
    assert [len(each.seconds) for each in found] == [2, 2, 2]  # 3.5 s a round
    for each, was in zip(found, before, strict=True):
        assert not torch.equal(each.state.network.get_parameter("fc1.weight"), was)
    found[0].seconds = [1.0, 0.5, 0.25, 0.125, 8.0]
    assert found[0].images_per_second == 4 / 0.25


def test_of_the_two_in_bf16_one_is_as_torch_has_it() -> None:
    plain, quick = speed.settings(resolve("shufflenet_v2.cifar10"), 4)[1:]
    kinds = [{type(m) for m in each.state.network.modules()} for each in (plain, quick)]
    assert kinds[0] < kinds[1]


def test_the_command_prints_a_line_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["lenet5", "--seconds", "0.01", "--batch-size", "4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("lenet5.cifar10, images/s: fp32 ")
    assert line.count(" ×)") == 2


@pytest.mark.parametrize("name", ["nosuch", "inception_v3"])
def test_a_network_that_is_not_trained_is_a_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed.main(["lenet5", name]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("speed: ")
