"""The protocol's tensors: every datatype as bytes and as numbers, exactly, or refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from repr_runtime import errors
from repr_runtime.artifact.manifest import DTYPES, TensorSpec
from repr_serve.errors import RequestError
from repr_serve.oip.tensors import DATATYPES, NAMES, Signature


def signature(dtype: str, shape: tuple[int | str, ...] = ("n", 2)) -> Signature:
    spec = TensorSpec("x", dtype, shape)
    return Signature({"x": spec}, {"y": spec})


def test_every_dtype_of_an_artifact_has_a_name() -> None:
    assert {dtype.name for dtype in NAMES} == DTYPES
    assert set(DATATYPES) == set(NAMES.values())


def extremes(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return np.array([[False, True]])
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[limits.min, limits.max]], dtype)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_as_bytes_and_as_numbers(datatype: str) -> None:
    dtype = DATATYPES[datatype]
    x, takes = extremes(dtype), signature(dtype.name)
    layout = takes.layout("x", datatype, [1, 2], x.nbytes)
    for offset in range(3):  # in the midst of a body
        found = layout.array(b"\1" * offset + x.tobytes() + b"\1", offset)
        assert (found.dtype, found.flags.aligned, found.tolist()) == (dtype, True, x.tolist())
    for values in (x.tolist(), x.ravel().tolist()):
        found = takes.of_values("x", datatype, [1, 2], values)
        assert (found.dtype, found.tolist()) == (dtype, x.tolist())


def test_half_precision_is_taken_for_fp32_without_a_change() -> None:
    takes = signature("float32", ("n",))
    every = np.arange(2**16, dtype=np.uint16)
    found = takes.layout("x", "FP16", [2**16], 2**17).array(every.tobytes())
    np.testing.assert_array_equal(found, every.view(np.float16).astype(np.float32))
    bf16 = takes.layout("x", "BF16", [2**16], 2**17).array(every.tobytes())
    assert bf16.dtype == np.float32
    np.testing.assert_array_equal(bf16.view(np.uint32) >> 16, every)
    assert not (bf16.view(np.uint32) & 0xFFFF).any()
    for other in ("float64", "float16", "uint16"):
        with refuses(errors.InputDtypeError, "input 'x' is 'BF16', the model takes"):
            signature(other).layout("x", "BF16", [1, 2], 4)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", [-1, 0]),
        ("uint8", [256, 0]),
        ("int8", [0, 128]),
        ("int64", [2**63, 0]),
        ("uint64", [2**64, 0]),
        ("uint64", [2**63, -1]),
        ("uint64", [2**63, 0.5]),
        ("int32", [1.5, 0]),
        ("int32", [1.0, 2.0]),
        ("int32", [True, False]),
        ("bool", [0, 1]),
        ("float32", ["1", "2"]),
        ("float32", [None, 1]),
        ("float32", [{}, {}]),
        ("float32", "12"),
        ("float32", 12),
    ],
)
def test_numbers_that_the_type_has_not_are_refused(dtype: str, values: Any) -> None:
    with pytest.raises(RequestError, match="input 'x'"):
        signature(dtype).of_values("x", NAMES[np.dtype(dtype)], [1, 2], values)


def test_a_bool_is_0_or_1() -> None:
    layout = signature("bool").layout("x", "BOOL", [1, 2], 2)
    assert layout.array(b"\0\1").tolist() == [[False, True]]
    with refuses(RequestError, "a BOOL is one byte, 0 or 1"):
        layout.array(b"\0\2")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(name=_JSON, datatype=_JSON | st.sampled_from([*DATATYPES]), shape=_JSON, data=_JSON)
def test_whatever_json_says_it_is_an_array_or_a_refusal(
    name: Any, datatype: Any, shape: Any, data: Any
) -> None:
    takes = signature("float32")
    for given_name in (name, "x"):
        for given_shape in (shape, [1, 2]):
            with_numbers = (takes.of_values, (given_name, datatype, given_shape, data))
            with_bytes = (takes.layout, (given_name, datatype, given_shape, 8))
            for read, arguments in (with_numbers, with_bytes):
                said = ""
                try:
                    read(*arguments)
                except (errors.InputError, RequestError) as error:
                    said = str(error)
                assert len(said) < 500
