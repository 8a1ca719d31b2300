"""Hostile arrays, names and objects without end: each is answered as its plain copy is, or refused.

``REPR_HOSTILE_INPUTS=400000 pytest -m large tests/runtime/inputs/test_hostile_inputs.py`` has as
many cases; the seed is the number of cases, so that what fails fails again.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from repr_runtime import Batcher, Session, errors, load
from repr_runtime.artifact.manifest import TensorSpec

CASES = int(os.environ.get("REPR_HOSTILE_INPUTS", "6000"))
Arrays = dict[str, Any]


class RudeError(Exception):
    """What no library is prepared for."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def rude(*_: Any, **__: Any) -> Any:
    raise RudeError


class Liar(np.ndarray):
    """An array that says nothing true of itself."""

    shape: Any = property(lambda _: (2, 3, 4, 4))
    ndim: Any = property(rude)
    dtype: Any = property(lambda _: np.dtype("f4"))
    __len__ = __getitem__ = __array_ufunc__ = __array_function__ = __iter__ = rude  # type: ignore[assignment]


class Names(Mapping[str, Any]):
    """A mapping of arrays that raises in one place."""

    def __init__(self, arrays: Arrays, place: str) -> None:
        self._arrays, self._place = arrays, place

    def _may(self, place: str) -> Arrays:
        return rude() if place == self._place else self._arrays

    def __getitem__(self, name: str) -> Any:
        return self._may("get")[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._may("iter"))

    def __len__(self) -> int:
        return len(self._may("len"))


def thing(random: np.random.Generator) -> Any:
    """An object that is no array; each method of those that are asked raises in some."""
    error = random.choice([RudeError, OSError, KeyError, MemoryError, RecursionError, SystemError])
    names = ("__dlpack__", "__dlpack_device__", "__cuda_array_interface__", "__array__", "shape")
    names += ("ndim", "dtype", "__len__", "__iter__", "__getitem__", "__array_interface__")

    def fail(*_: Any, **__: Any) -> Any:
        raise error("no")

    parts: Arrays = {name: fail for name in names if random.random() < 0.3}
    if "__dlpack_device__" not in parts and random.random() < 0.5:
        parts["__dlpack_device__"] = lambda _: (2, 0)
    for name in ("shape", "ndim", "dtype", "__cuda_array_interface__", "__array_interface__"):
        if name in parts:
            parts[name] = property(fail)
    made = type("Thing", (), parts)()
    return [None, 3, "x", b"x", [1.0], {}, made, made, made, [made]][random.integers(10)]


def values(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Numbers of that type, some of them odd."""
    array = random.integers(0, 3, shape).astype(dtype)
    if array.dtype.kind == "f" and random.random() < 0.9:
        array = random.standard_normal(shape).astype(dtype)
        odd = [0, np.nan, np.inf, -np.inf, 1e-45, 3e38, -3e38, -0.0][random.integers(8)]
        if array.size and random.random() < 0.3:
            array.flat[random.integers(array.size)] = odd
    return array


def laid_out(random: np.random.Generator, array: Any) -> Any:
    """The same numbers, elsewhere in memory."""
    kind = random.integers(9)
    if not array.ndim or kind == 0:
        return array
    if kind == 1:
        return np.asfortranarray(array)
    if kind == 2:
        return array[::-1][::-1] if random.random() < 0.5 else array[::-1].copy()[::-1]
    if kind == 3:  # with gaps
        wide = np.full((*array.shape, 3), 9, array.dtype)
        wide[..., 1] = array
        return wide[..., 1]
    if kind == 4 and len(array):  # all rows in one place
        return np.broadcast_to(array[:1], array.shape)
    if kind == 5 and array.dtype != object:  # off its boundary
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        moved = raw.view(array.dtype).reshape(array.shape)
        moved[...] = array
        return moved
    if kind == 6:
        array.flags.writeable = False
    if kind == 7:
        return np.swapaxes(np.swapaxes(array, 0, -1).copy(), 0, -1)
    return array


def derived(random: np.random.Generator, array: Any) -> Any:
    """The same as an array of another class, of which a mask may hide something."""
    kind = random.integers(12)
    if kind == 0:
        return np.ma.array(
            array, mask=random.random(array.shape) < random.choice([0, 0, 0.01, 0.5])
        )
    if kind == 1:
        return array.view(Liar)
    if kind == 2:
        return array.view(np.recarray)
    if kind == 3 and array.ndim == 2:
        return array.view(np.matrix)
    return array


DTYPES = ("f8", "f2", ">f4", "i4", "u1", "O", "c8", "?", "S3", "U2", "M8[s]", "V4", "f4,f4")


def array_for(random: np.random.Generator, spec: TensorSpec, rows: int) -> Any:
    """What fits, as a rule, and else is wrong in one or more of all ways there are."""
    if random.random() < 0.04:
        return thing(random)
    shape = [n if isinstance(n, int) else rows for n in spec.shape]
    if random.random() < 0.15:  # another shape
        place, way = random.integers(len(shape)), random.integers(5)
        if way == 0:
            del shape[place]
        elif way == 1:
            shape.insert(place, 1)
        else:
            shape[place] = int(random.integers(0, 7))
    dtype = spec.dtype if random.random() < 0.9 else str(random.choice(DTYPES))
    kind = dtype if np.dtype(dtype).kind in "fiu" else "f4"
    with np.errstate(all="ignore"):
        array = values(random, tuple(shape), kind).astype(dtype)
    return derived(random, laid_out(random, array))


def named(random: np.random.Generator, arrays: Arrays) -> Any:
    """The arrays by name, in some mapping, under names that are right as a rule."""
    arrays = dict(arrays)
    if random.random() < 0.15:
        odd = [3, None, b"input", "", "\udcff", "n" * 10_000, 1.5, ("a",)][random.integers(8)]
        way = random.integers(3)
        if way:
            value = arrays.pop(next(iter(arrays)))
        if way < 2:
            arrays[odd] = value if way else 1  # type: ignore[index]
    kind = random.integers(6)
    if kind == 0:
        return Names(arrays, str(random.choice(["", "", "get", "iter", "len"])))
    return OrderedDict(arrays) if kind == 1 else arrays


def hides(array: Any) -> bool:
    """Whether a mask hides some of it."""
    return isinstance(array, np.ma.MaskedArray) and any(np.ma.getmaskarray(array).tobytes())


def right(session: Session, given: Any, *, one: bool = False) -> Any:
    """The outputs, or the kind of error, for plain copies of what is given; None for what is none.

    ``one``: a sample without its batch dimension is one, too.
    """
    try:
        names = [name for name in given]  # noqa: C416  which asks for no length
        arrays = {str(name): given[name] for name in names}
    except (RudeError, TypeError):
        return None
    if {*names} != {spec.name for spec in session.inputs}:
        return None
    plain = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or hides(array):
            return None
        plain[name] = np.array(np.ndarray.view(array, np.ndarray), order="C")
    single = one and all(plain[s.name].ndim == len(s.shape) - 1 for s in session.inputs)
    try:
        if not single:
            return session.run(plain)
        outputs = session.run({name: array[None] for name, array in plain.items()})
        return {name: rows[0] for name, rows in outputs.items()}
    except errors.ReproError as error:
        return type(error)


def judge(found: Any, expected: Any, case: str) -> str:
    """What came of it, in a word; fails where it is neither right nor a refusal."""
    if isinstance(found, errors.ReproError):
        assert str(found)
        assert len(str(found)) < 5000, case
        assert not isinstance(expected, dict), f"{case}: {found!r} for what can be run"
        return type(found).__name__
    assert isinstance(found, dict), f"{case}: {found!r}"
    assert isinstance(expected, dict), f"{case}: an answer where {expected} was expected"
    for name, rows in expected.items():
        close = np.abs(rows).max(initial=0) * 1e-5 + 1e-30
        np.testing.assert_allclose(found[name], rows, rtol=1e-4, atol=close, err_msg=case)
    return "answered"


def attempt(act: Callable[[], Any]) -> Any:
    """What it gives, or its error, if it is one of ours; any other ends the test."""
    try:
        return act()
    except errors.ReproError as error:
        return error


@pytest.fixture
def sessions(tiny: Any, two_inputs: Path, tmp_path: Path) -> Iterator[list[Session]]:
    """Networks of images, of two inputs, of any width, and of a fixed batch."""
    wide = tiny.write_model(
        tmp_path / "wide",
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": ("n", "m", 3)},
        {"y": ("n", "m", 3)},
    )
    paths = [tiny.write(tmp_path / "images"), two_inputs, wide, tiny.write(tmp_path / "4", batch=4)]
    with ExitStack() as stack:
        yield [stack.enter_context(load(path, device="cpu", threads=1)) for path in paths]


@pytest.mark.large
@pytest.mark.timeout(600 + CASES / 100)
def test_every_input_is_answered_as_its_plain_copy_or_refused(sessions: list[Session]) -> None:
    random = np.random.default_rng(CASES)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        batchers = [
            stack.enter_context(Batcher(session, max_batch=4, queue_limit=64))
            for session in sessions
        ]
        for number in range(CASES):
            index = int(random.integers(len(sessions)))
            session, batcher = sessions[index], batchers[index]
            rows = session.batch_size or int(random.integers(1, 5))
            arrays = {spec.name: array_for(random, spec, rows) for spec in session.inputs}
            given = named(random, arrays)
            door, case = int(random.integers(6)), f"case {number} of {CASES}"
            # Of the fixed batch size any number of samples may be asked at these doors.
            free = sessions[0] if index == 3 and door > 2 else session
            if door in (1, 2):
                given = arrays
            expected = right(free, given, one=door > 3)
            if door == 0:
                found = attempt(lambda s=session, g=given: s.run(g))
            elif door == 1:
                found = attempt(lambda s=session, g=given: s.run(*g.values()))
            elif door == 2:
                found = attempt(lambda s=session, g=given: s.run(**g))
            elif door == 3:
                found = attempt(lambda s=session, g=given: s.run_all(g))
            else:
                found = attempt(lambda b=batcher, g=given: b.submit(g).result(30))
                if isinstance(found, errors.BatchSizeError):
                    expected = None
            counts[f"{door} {judge(found, expected, case)}"] += 1
            if index == 0:
                counts[images_and_logits(random, session, batcher, case)] += 1
    print(sum(counts.values()), dict(sorted(counts.items())))
    assert sum(count for what, count in counts.items() if "answered" in what) > CASES / 4


IMAGE = TensorSpec("image", "uint8", (9, 7, 3))
LOGITS = TensorSpec("logits", "float64", ("n", 5))


def images_and_logits(
    random: np.random.Generator, session: Session, batcher: Batcher, case: str
) -> str:
    """The same for ``classify`` and ``predictions``."""
    top = [1, 3, 99, np.int64(2), np.uint8(1), 2.5, True, 0, -1, None, 10**400][
        min(random.integers(40), 10) if random.random() < 0.3 else 0
    ]
    image = array_for(random, IMAGE, 1)
    logits = array_for(random, LOGITS, int(random.integers(1, 4)))
    door = ("classify", "list", "batcher", "predictions")[random.integers(4)]
    given = logits if door == "predictions" else image
    acts: dict[str, Callable[[Any], Any]] = {
        "classify": lambda x: session.classify(x, top=top),
        "list": lambda x: session.classify([x], top=top),
        "batcher": lambda x: batcher.classify(x, top=top, timeout=30),
        "predictions": lambda x: session.predictions(x, top=top),
    }
    found = attempt(lambda: acts[door](given))
    if isinstance(found, errors.ReproError):
        assert len(str(found)) < 5000, case
        fits = isinstance(given, np.ndarray) and not hides(given)
        if fits and type(found) is not errors.OptionError:
            again = attempt(lambda: acts[door](np.ndarray.view(given, np.ndarray).copy()))
            assert type(again) is type(found), f"{case}: {found!r}, {again!r}"
        return f"{door} {type(found).__name__}"
    assert not hides(given), case
    if isinstance(given, np.ndarray):
        plain = np.ascontiguousarray(np.ndarray.view(given, np.ndarray))
        again = acts[door](plain)
        assert [p.index for p in found] == [p.index for p in again], case
        near = [p.probability for p in again]
        assert [p.probability for p in found] == pytest.approx(near, nan_ok=True), case
    return f"{door} answered"
