"""The codec of bundled checkpoints: what is stored how, how near it comes, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from repr_models import WeightsError, load_checkpoint
from repr_models.weights.checkpoint import _metadata
from repr_models.weights.codec import INT8_VALUES, METADATA_KEY, decode, describe, encode

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """One tensor of each kind; the large one has a zero row, and rows of very different size."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(64, 128, 3, 3, generator=generator)
    large *= torch.logspace(-6, 2, 64).view(-1, 1, 1, 1)
    large[5] = 0
    return {
        "conv.weight": large,
        "first.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "bn.weight": torch.randn(100_000, generator=generator),
        "bn.running_var": torch.rand(128, generator=generator),
        "bn.num_batches_tracked": torch.tensor(2**40),
        "index": torch.arange(70_000).reshape(7, -1),
        "scalar": torch.tensor(1.5),
    }


def roundtrip(state: State) -> State:
    content = encode(state)
    return decode(load(content), _metadata(content))


def test_each_kind_of_tensor_is_stored_in_its_type(state: State) -> None:
    stored = load(encode(state))
    assert {name: str(tensor.dtype)[6:] for name, tensor in stored.items()} == {
        "conv.weight": "int8",
        "conv.weight::scale": "float32",
        "first.weight": "float16",
        "bn.weight": "float32",
        "bn.running_var": "float32",
        "bn.num_batches_tracked": "int64",
        "index": "int64",
        "scalar": "float32",
    }
    assert stored["conv.weight::scale"].shape == (64,)
    assert float(stored["conv.weight::scale"][5]) == 1


def test_what_comes_back_is_as_near_as_its_type_allows(state: State) -> None:
    back = roundtrip(state)
    assert back.keys() == state.keys()
    for name in state.keys() - {"conv.weight", "first.weight"}:
        assert back[name].dtype == state[name].dtype
        assert torch.equal(back[name], state[name])
    assert torch.equal(back["first.weight"], state["first.weight"].half().float())
    rows, before = back["conv.weight"].flatten(1), state["conv.weight"].flatten(1)
    assert rows.dtype == torch.float32
    assert back["conv.weight"].shape == state["conv.weight"].shape
    # to nearest: half a step, a step being a 127th of each channel's own largest value
    step = before.abs().amax(1, keepdim=True) / 127
    assert bool(((rows - before).abs() <= step * 0.50001).all())
    assert float(((rows - before).abs() / step.clamp_min(1e-30)).max()) > 0.49
    assert bool((rows[5] == 0).all())


def test_a_row_by_hand() -> None:
    """Scale 254 / 127 = 2; halves go to the even neighbour."""
    tensor = torch.zeros(256, 256)
    tensor[3, :5] = torch.tensor([254.0, -254.0, 3.0, 5.0, -7.0])
    stored = load(encode({"w": tensor}))
    assert float(stored["w::scale"][3]) == 2
    assert stored["w"][3, :6].tolist() == [127, -127, 2, 2, -4, 0]


@pytest.mark.parametrize(("values", "dtype"), [(INT8_VALUES, "int8"), (INT8_VALUES - 2, "float16")])
def test_the_threshold(values: int, dtype: str) -> None:
    assert str(load(encode({"w": torch.ones(2, values // 2)}))["w"].dtype) == f"torch.{dtype}"


def test_values_beyond_fp16_stay_fp32() -> None:
    state = {"w": torch.tensor([[65_519.0, 1.0]]), "x": torch.tensor([[65_520.0, 1.0]])}
    assert [str(t.dtype) for _, t in sorted(load(encode(state)).items())] == [
        "torch.float16",
        "torch.float32",
    ]
    assert torch.equal(roundtrip(state)["x"], state["x"])


def test_the_smallest_numbers_of_float32_do_not_become_nan() -> None:
    tiny = torch.full((256, 256), 1e-45)
    assert bool(roundtrip({"w": tiny})["w"].isfinite().all())


def test_memory_order_and_names_order_do_not_show_in_the_bytes(state: State) -> None:
    content = encode(state)
    other = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in reversed(state.items())
    }
    assert encode(other) == content == encode(dict(state))


def test_what_is_described_is_what_is_there(state: State) -> None:
    content = encode(state)
    assert describe(content) == {
        "bytes": len(content),
        "values": {
            "float16": 216,
            "float32": 100_000 + 128 + 1 + 64,
            "int64": 70_001,
            "int8": 64 * 128 * 9,
        },
    }
    assert len(content) < 1.02 * (64 * 128 * 9 + 216 * 2 + 100_193 * 4 + 70_001 * 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [4, 256])
def test_values_that_are_not_finite_are_refused(value: float, size: int) -> None:
    tensor = torch.zeros(size, size)
    tensor[1, 1] = value
    with pytest.raises(WeightsError, match=r"block\.weight holds values that are not finite"):
        encode({"block.weight": tensor})


def test_a_name_like_a_scales_is_refused() -> None:
    with pytest.raises(WeightsError, match="'a::scale' cannot be stored"):
        encode({"a::scale": torch.zeros(2)})


# --- malformed files ------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 10))


def malformed(tensors: dict[str, Tensor | None], encoding: object) -> tuple[State, dict[str, str]]:
    content = encode(small().state_dict())
    stored = load(content)
    assert json.loads(_metadata(content)[METADATA_KEY])["encoding"] == RIGHT
    stored = {k: v for k, v in {**stored, **tensors}.items() if v is not None}
    return stored, {METADATA_KEY: json.dumps({"version": 1, "encoding": encoding})}


RIGHT = {"0.weight": "int8", "1.weight": "fp16"}
SCALE = "0.weight::scale"


@pytest.mark.parametrize(
    ("tensors", "encoding", "message"),
    [
        ({}, {**RIGHT, "1.weight": "int4"}, "1.weight is stored as 'int4', which this version"),
        ({}, {**RIGHT, "1.weight": ["fp16"]}, r"1.weight is stored as \['fp16'\], which this"),
        ({}, {**RIGHT, "2.weight": "fp16"}, "describes 2.weight, which it does not hold"),
        ({SCALE: None}, RIGHT, "0.weight is int8 and has no scale"),
        ({SCALE: torch.ones(255)}, RIGHT, r"scale of 0.weight is float32 \(255,\), expected fl"),
        ({SCALE: torch.ones(256, 1)}, RIGHT, r"is float32 \(256, 1\), expected float32 \(256,\)"),
        ({SCALE: torch.ones(256).half()}, RIGHT, "scale of 0.weight is float16"),
        *(
            ({SCALE: torch.full((256,), float(bad))}, RIGHT, "0.weight is not finite and above 0")
            for bad in ("nan", "inf", "0")
        ),
        ({"0.weight": torch.zeros(256, 256)}, RIGHT, "said to be int8 .* and is float32 of 2"),
        ({"0.weight": torch.ones(256, dtype=torch.int8)}, RIGHT, "and is int8 of 1"),
        ({"1.weight": torch.zeros(10, 256)}, RIGHT, "said to be fp16 and is float32"),
        ({"9::scale": torch.ones(1)}, RIGHT, "holds 9::scale, a scale of no int8 tensor"),
        ({}, {"1.weight": "fp16"}, "holds 0.weight::scale, a scale of no int8 tensor"),
        ({}, ["int8"], "metadata on how it is stored is damaged"),
        # and what decodes, but does not fit the network
        ({"1.weight": torch.zeros(11, 256).half()}, RIGHT, r"1.weight is \(11, 256\), the netw"),
        ({SCALE: None}, {"1.weight": "fp16"}, "another type: 0.weight is torch.int8, the network"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(
    tensors: dict[str, Tensor | None], encoding: object, message: str, tmp_path: Path
) -> None:
    stored, metadata = malformed(tensors, encoding)
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(stored, metadata))
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_checkpoint(network, path)
    assert str(path) in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "is damaged") for text in ("", "{", "[]", "null", '{"version": 1}')),
        ('{"version": 3, "encoding": {}}', "stored in version 3, this one reads up to 2; upd"),
        ('{"version": "1", "encoding": {}}', "stored in version '1', this one reads up to"),
    ],
)
def test_metadata_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        decode({}, {METADATA_KEY: text})


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_another_writer_is_read_as_it_is(
    metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    source: Any = small()
    (tmp_path / "w.safetensors").write_bytes(save(source.state_dict(), metadata))
    network = small()
    load_checkpoint(network, tmp_path / "w.safetensors")
    assert all(
        torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items()
    )
