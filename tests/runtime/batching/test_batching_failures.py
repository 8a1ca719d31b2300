"""The batcher: mistakes of the caller, failures of the session, and closing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_session import LONG, FakeSession, batcher, is_answer, occupied, sample, sizes
from numpy.typing import NDArray
from refusals import refuses

from repr_runtime import errors, load
from repr_runtime.artifact.manifest import TensorSpec

# Mistakes of the caller, failures of the session


def test_a_wrong_input_is_the_callers_error_at_once() -> None:
    session = FakeSession()
    wrong: list[tuple[type[Exception], Any]] = [
        *((errors.InputShapeError, np.ones(s, np.float32)) for s in ((3,), (1, 1, 2), (0, 2))),
        (errors.BatchSizeError, np.zeros((5, 2), np.float32)),
        *((errors.InputDtypeError, np.zeros(2)), (errors.InputTypeError, [1.0, 2.0])),
        (errors.NonFiniteInputError, np.array([1, np.nan], np.float32)),
        *((errors.InputNameError, {"y": sample(1)}), (errors.InputNameError, {})),
    ]
    with batcher(session, max_delay=0) as made:
        for kind, given in wrong:
            with pytest.raises(kind):
                made.submit(given)
        assert is_answer(made.run({"x": sample(1)}, timeout=LONG), 1)
        assert (made.stats().accepted, made.stats().refused) == (1, 0)
    assert sizes(session) == [1]


def test_a_sample_that_fails_does_not_fail_its_neighbours() -> None:
    def fail(batch: NDArray[Any]) -> None:
        if 2 in batch[:, 0]:
            raise errors.ExecutionError(f"cannot bear 2 among {len(batch)}")

    session = FakeSession(fail=fail)
    with batcher(session) as made:
        futures = [made.submit(sample(i)) for i in range(4)]
        for i in (0, 1, 3):
            assert is_answer(futures[i].result(10), i)
        with pytest.raises(errors.ExecutionError, match="cannot bear 2 among 1"):
            futures[2].result(10)
    assert sizes(session) == [4, 1, 1, 1, 1]
    stats = made.stats()
    assert (stats.answered, stats.failed, stats.retried, stats.batches) == (3, 1, 1, {4: 1})


@pytest.mark.parametrize("kind", [errors.SessionClosedError, errors.CudaError])
def test_what_no_sample_can_be_blamed_for_is_not_tried_again(kind: type[Exception]) -> None:
    cause = OSError("below")

    def fail(_: NDArray[Any]) -> None:
        raise kind("gone for good") from cause

    session = FakeSession(fail=fail)
    with batcher(session) as made:
        futures = [made.submit(sample(i)) for i in range(4)]
        raised = [future.exception(10) for future in futures]
    assert sizes(session) == [4]
    assert all(type(e) is kind and str(e) == "gone for good" for e in raised)
    assert all(e is not None and e.__cause__ is cause for e in raised)
    assert len({id(error) for error in raised}) == 4  # raising writes into it
    assert made.stats().failed == 4


def test_a_deadline_that_passes_during_a_failing_run_is_not_tried_again() -> None:
    deadline = time.monotonic() + 0.5

    def fail(_: NDArray[Any]) -> None:
        time.sleep(max(0, deadline - time.monotonic()))
        raise errors.ExecutionError("always")

    session = FakeSession(fail=fail)
    with batcher(session, max_batch=2) as made:
        late = made.submit(sample(1), deadline=deadline)
        other = made.submit(sample(2))
        assert isinstance(late.exception(10), errors.DeadlineExceededError)
        assert isinstance(other.exception(10), errors.ExecutionError)
    assert sizes(session) == [2, 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_in_the_session_or_a_callback_reaches_its_owner_and_ends_no_worker() -> None:
    def leave(_: object) -> None:
        raise SystemExit(3)

    session = FakeSession(fail=leave)
    with batcher(session, max_delay=0) as made:
        assert isinstance(made.submit(sample(1)).exception(10), SystemExit)
        session.fail = None
        assert session.entered.acquire(timeout=10)  # of the run that failed
        with occupied(session, made) as first:
            first.add_done_callback(leave)
        assert is_answer(made.run(sample(2), timeout=10), 2)


def test_outputs_without_a_row_a_sample_are_an_error_and_not_a_mix_up() -> None:
    class Shrinks(FakeSession):
        def run(self, feed: Any) -> dict[str, NDArray[Any]]:
            return {name: values[:1] for name, values in super().run(feed).items()}

    with batcher(Shrinks(), max_batch=2) as made:
        both = made.submit(np.zeros((2, 2), np.float32))
        with pytest.raises(errors.ExecutionError, match="expected a row for each sample"):
            both.result(10)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(("batch", 2), (2,)), ((4, 2), ("batch", 2)), (("n", "n"), ("n", 2)), ((), ("n",))],
)
def test_networks_without_a_row_a_sample_are_refused(inputs: Any, outputs: Any) -> None:
    session = FakeSession()
    session.inputs = (TensorSpec("x", "float32", inputs),)
    session.outputs = (TensorSpec("y", "float32", outputs),)
    with pytest.raises(errors.NotBatchableError, match="run it without a Batcher"):
        batcher(session)


@pytest.mark.parametrize(
    "changes",
    [
        *({"max_batch": wrong} for wrong in (0, 1.5, None)),
        *({"max_delay": wrong} for wrong in (-1, np.inf, np.nan, "1")),
        *({"queue_limit": wrong} for wrong in (3, "9")),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with refuses(errors.OptionError, name, f"got {value!r}"):
        batcher(FakeSession(), **changes)


def test_a_path_in_place_of_a_session() -> None:
    with refuses(errors.OptionError, "a Batcher needs a session: Batcher(load('a'))"):
        batcher("a")


# Closing


def test_closing_runs_what_waits_without_further_delay() -> None:
    session = FakeSession()
    made = batcher(session)
    futures = [made.submit(sample(i)) for i in range(3)]
    made.close()
    assert all(is_answer(f.result(0), i) for i, f in enumerate(futures))
    with pytest.raises(errors.BatcherClosedError, match="make a new one"):
        made.submit(sample(4))
    made.close()
    made.close(drain=False)
    assert (made.stats().answered, made.stats().refused) == (3, 1)
    assert sizes(session) == [3]


def test_closing_without_draining_fails_what_waits_and_ends_what_runs() -> None:
    session = FakeSession()
    made = batcher(session, max_delay=0)
    with ThreadPoolExecutor(1) as pool:
        with occupied(session, made) as first:
            waiting = made.submit(sample(1))
            closing = pool.submit(made.close, drain=False)
            with pytest.raises(errors.BatcherClosedError, match="before the request was begun"):
                waiting.result(10)
            assert not closing.done()  # it waits for the run
        closing.result(10)
    assert first.result(0)["twice"].shape == (4, 2)
    assert (made.stats().failed, made.stats().answered) == (1, 1)


def test_a_close_that_does_not_drain_overtakes_one_that_does() -> None:
    session = FakeSession()
    made = batcher(session, max_batch=1, max_delay=0)
    with ThreadPoolExecutor(2) as pool:
        with occupied(session, made):
            waiting = [made.submit(sample(i)) for i in range(5)]
            closing = [pool.submit(made.close, drain=drain) for drain in (True, False)]
            assert all(isinstance(f.exception(10), errors.BatcherClosedError) for f in waiting)
        for closed in closing:
            closed.result(10)


def test_a_callback_may_close_the_batcher() -> None:
    session = FakeSession()
    made = batcher(session, max_delay=0)
    closed = threading.Event()
    with occupied(session, made) as first:
        first.add_done_callback(lambda _: (made.close(), closed.set()))
    assert closed.wait(10)
    made.close()


def test_a_closed_session_fails_requests_and_not_the_batcher(artifact: Path, tiny: Any) -> None:
    session = load(artifact, device="cpu")
    with batcher(session, max_batch=2) as made:
        session.close()
        futures = [made.submit(x) for x in tiny.inputs(2)]
        assert all(isinstance(f.exception(10), errors.SessionClosedError) for f in futures)
