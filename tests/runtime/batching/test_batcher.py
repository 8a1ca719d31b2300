"""The batcher: what is run together and when, who gets what, what is never run."""

import asyncio
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_session import LONG, FakeSession, batcher, is_answer, occupied, sample, sizes
from numpy.typing import NDArray

from repr_runtime import Batcher, errors, load

# What is run together, and when


def test_a_full_batch_starts_at_once_and_an_answer_holds_nothing_of_the_others() -> None:
    session = FakeSession()
    with batcher(session) as made:
        futures = [made.submit(sample(i)) for i in range(4)]
        assert all(is_answer(f.result(10), i) for i, f in enumerate(futures))
    assert sizes(session) == [4]
    for values in (values for future in futures for values in future.result().values()):
        assert values.flags.writeable
        assert (values if values.base is None else values.base).size == values.size


def test_the_oldest_waits_for_company_as_long_as_max_delay() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0.4) as made:
        start = time.monotonic()
        first = made.submit(sample(1))
        time.sleep(0.05)
        second = made.submit(sample(2))
        assert is_answer(first.result(10), 1)
        assert time.monotonic() - start >= 0.4
        assert is_answer(second.result(10), 2)
    assert sizes(session) == [2]
    assert 0.4 <= made.stats().wait_longest < 10


def test_what_came_during_a_run_goes_together_in_order_of_arrival() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0) as made:
        with occupied(session, made):
            futures = [made.submit(sample(i)) for i in range(1, 7)]
        assert all(is_answer(f.result(10), i) for i, f in enumerate(futures, 1))
    assert [batch[:, 0].tolist() for batch in session.seen[1:]] == [[1, 2, 3, 4], [5, 6]]


def test_half_of_the_time_to_a_deadline_is_left_for_the_run() -> None:
    with batcher(FakeSession()) as made:
        start = time.monotonic()
        assert is_answer(made.run(sample(1), timeout=1), 1)  # though max_delay is longer
        assert 0.49 <= time.monotonic() - start <= 1.1


def test_as_many_batches_are_in_flight_as_there_are_instances() -> None:
    session = FakeSession(instances=3)
    session.gate.clear()
    with batcher(session, max_batch=2) as made:
        futures = [made.submit(sample(i)) for i in range(10)]
        for _ in range(3):
            assert session.entered.acquire(timeout=10)
        assert (made.stats().running, made.stats().waiting) == (6, 4)
        session.gate.set()
        assert all(is_answer(f.result(10), i) for i, f in enumerate(futures))
    assert session.most_at_once == 3
    assert sizes(session) == [2] * 5


def test_several_samples_stay_together_and_keep_their_dimension() -> None:
    session = FakeSession()
    with batcher(session, max_batch=5, max_delay=0) as made:
        with occupied(session, made):
            three = made.submit(np.stack([sample(i) for i in (1, 2, 3)]))
            one = made.submit(sample(4))
            two = made.submit(np.stack([sample(5), sample(6)]))
            alone = made.submit(sample(7)[None])
        answers = [f.result(10) for f in (three, one, two, alone)]
    assert [a["twice"].shape for a in answers] == [(3, 2), (2,), (2, 2), (1, 2)]
    assert [a["sum"].shape for a in answers] == [(3,), (), (2,), (1,)]
    assert is_answer(answers[1], 4)
    firsts = [np.atleast_2d(a["twice"])[:, 0].tolist() for a in answers]
    assert firsts == [[2, 4, 6], [8], [10, 12], [14]]
    assert sizes(session) == [5, 4, 3]  # 3 + 1, since two more would be six


def test_samples_of_unlike_shapes_are_run_apart() -> None:
    session = FakeSession(width="w")
    with batcher(session, max_delay=0) as made:
        with occupied(session, made):
            shapes = [2, 3, 2, 3, 3]
            futures = [made.submit(np.full(width, i, np.float32)) for i, width in enumerate(shapes)]
        for i, (future, width) in enumerate(zip(futures, shapes, strict=True)):
            assert future.result(10)["twice"].tolist() == [2 * i] * width
    assert [batch.shape for batch in session.seen[1:]] == [(2, 2), (3, 3)]


def test_a_shape_that_fills_every_batch_does_not_starve_another() -> None:
    session = FakeSession(width="w")
    with batcher(session, max_batch=2, max_delay=0, queue_limit=1000) as made:
        with occupied(session, made):
            made.submit(np.zeros((2, 3), np.float32))
            odd = made.submit(np.zeros(5, np.float32))
            for _ in range(50):
                made.submit(np.zeros((2, 3), np.float32))
        odd.result(10)
        assert (1, 5) in [batch.shape for batch in session.seen[:4]]


@pytest.mark.parametrize(
    ("session", "words", "runs"),
    [
        (FakeSession(batch_size=8), "up to 8 samples, padded to 8", {1: 8, 2: 8}),
        (FakeSession(sizes=(4, 16)), "up to 16 samples, 0 s", {1: 4, 4: 4, 5: 16, 16: 16}),
    ],
)
def test_batches_are_filled_up_to_the_sizes_that_there_are(
    session: FakeSession, words: str, runs: dict[int, int]
) -> None:
    with batcher(session, max_batch=64, max_delay=0) as made:
        assert words in repr(made)
        assert made.max_batch == max(runs.values())
        for rows, run_at in runs.items():
            x = np.stack([sample(i) for i in range(rows)])
            assert np.array_equal(made.run(x)["twice"], 2 * x)
            assert np.array_equal(session.seen[-1], x[np.minimum(range(run_at), rows - 1)])
        assert made.stats().padding == sum(runs.values()) - sum(runs)
        assert made.stats().batches == dict.fromkeys(runs, 1)


def test_an_idle_batcher_uses_no_processor() -> None:
    with batcher(FakeSession(instances=4)) as made:
        made.submit(sample(1))  # one worker waits for company, three for work
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1


# Deadlines, cancellation, back-pressure


def test_a_request_whose_deadline_passes_in_the_queue_is_never_run() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0) as made:
        with occupied(session, made) as first:
            late = made.submit(sample(1), deadline=time.monotonic() + 0.02)
            fine = made.submit(sample(2), deadline=time.monotonic() + LONG)
            time.sleep(0.05)
        first.result(10)
        with pytest.raises(errors.DeadlineExceededError, match="no answer within 0"):
            late.result(10)
        assert is_answer(fine.result(10), 2)
    assert [batch[:, 0].tolist() for batch in session.seen[1:]] == [[2]]
    assert (made.stats().expired, made.stats().answered) == (1, 2)


def test_run_returns_at_its_deadline_whether_it_waits_or_is_run() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0) as made:
        with occupied(session, made) as first:
            with pytest.raises(TimeoutError):  # it is one of these, too
                made.run(sample(1), deadline=time.monotonic() + 0.03)
            assert (made.stats().expired, made.stats().waiting) == (1, 0)
        first.result(10)
        session.gate.clear()
        with pytest.raises(errors.DeadlineExceededError):
            made.run(sample(1), timeout=0.05)
        assert (made.stats().expired, made.stats().running) == (2, 0)
        session.gate.set()
    assert (made.stats().expired, made.stats().answered) == (2, 1)
    assert sizes(session) == [4, 1]


def test_a_timeout_error_of_the_session_is_not_taken_for_a_deadline() -> None:
    def fail(_: NDArray[Any]) -> None:
        raise TimeoutError("of the session")

    with (
        batcher(FakeSession(fail=fail), max_delay=0) as made,
        pytest.raises(TimeoutError, match="of the session"),
    ):
        made.run(sample(1), timeout=LONG)
    assert (made.stats().failed, made.stats().expired) == (1, 0)


def test_timeout_and_deadline_are_one_question() -> None:
    session = FakeSession()
    with batcher(session) as made:
        with pytest.raises(ValueError, match="give one of them"):
            made.run(sample(1), timeout=1, deadline=1)
        with pytest.raises(ValueError, match="deadline must be seconds, got nan"):
            made.submit(sample(1), deadline=float("nan"))
        assert made.stats().accepted == 0
        with pytest.raises(errors.DeadlineExceededError, match=r"moments of time\.monotonic\(\)"):
            made.run(sample(1), deadline=0.5)
    assert session.seen == []


def test_what_is_cancelled_is_not_run_and_what_is_run_cannot_be_cancelled() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0) as made:
        with occupied(session, made) as first:
            assert (first.running(), first.cancel()) == (True, False)
            dropped, kept = made.submit(sample(1)), made.submit(sample(2))
            told = threading.Event()
            dropped.add_done_callback(lambda _: told.set())
            assert [dropped.cancel(), dropped.cancel(), told.is_set()] == [True] * 3
            assert wait([dropped], timeout=0).done == {dropped}
            assert (made.stats().cancelled, made.stats().waiting) == (1, 1)
        assert is_answer(kept.result(10), 2)
        assert not first.cancel()
        with pytest.raises(CancelledError):
            dropped.result(10)
    assert [batch[:, 0].tolist() for batch in session.seen[1:]] == [[2]]
    assert (made.stats().cancelled, made.stats().answered) == (1, 2)


def test_a_full_queue_refuses_at_once_and_says_the_limit() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0, queue_limit=5) as made:
        with occupied(session, made):
            futures = [made.submit(np.zeros((4, 2), np.float32)), made.submit(sample(1))]
            with pytest.raises(errors.QueueFullError, match="5 samples wait, and 5 may"):
                made.submit(sample(2))  # at once: nothing is answered before the gate is opened
            assert futures[1].cancel()  # which makes room
            futures.append(made.submit(sample(3)))
        assert is_answer(futures[2].result(10), 3)
    assert made.stats().refused == 1


def test_expired_requests_make_room_in_a_full_queue() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0, queue_limit=4) as made, occupied(session, made):
        late = [made.submit(sample(i), deadline=time.monotonic() + 0.01) for i in range(4)]
        time.sleep(0.03)
        made.submit(sample(9))
        assert all(isinstance(f.exception(0), errors.DeadlineExceededError) for f in late)
        assert (made.stats().expired, made.stats().waiting) == (4, 1)


# Statistics


def test_statistics_are_a_snapshot_that_a_service_can_log() -> None:
    session = FakeSession()
    with batcher(session, max_delay=0) as made:
        before = made.stats()
        made.run(np.zeros((3, 2), np.float32))
        made.run(sample(1))
        after = made.stats()
    assert (before.accepted, before.batches) == (0, {})
    assert (after.accepted, after.answered, after.started) == (2, 2, 2)
    assert 0 <= after.wait_longest <= after.wait_total
    assert asdict(after)["batches"] == {1: 1, 3: 1}
    with pytest.raises(FrozenInstanceError):
        after.accepted = 3  # type: ignore[misc]


# Event loops


def test_cancelling_a_task_withdraws_its_request_unless_that_is_run_already() -> None:
    session = FakeSession()
    session.gate.clear()

    async def drop(asked: asyncio.Task[Any]) -> None:
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    async def ask(made: Batcher) -> None:
        running = asyncio.create_task(made.run_async(sample(1)))
        await asyncio.to_thread(session.entered.acquire)
        for timeout in (None, LONG):
            waiting = asyncio.create_task(made.run_async(sample(1), timeout=timeout))
            await asyncio.sleep(0.01)
            assert made.stats().waiting == 1
            await drop(waiting)
            assert made.stats().waiting == 0
        await drop(running)
        session.gate.set()
        assert is_answer(await made.run_async(sample(2)), 2)

    with batcher(session, max_delay=0) as made:
        asyncio.run(ask(made))
    assert (made.stats().answered, made.stats().cancelled) == (2, 2)
    assert sizes(session) == [1, 1]


def test_deadlines_and_errors_in_an_event_loop() -> None:
    session = FakeSession()

    async def ask(made: Batcher) -> None:
        with pytest.raises(errors.DeadlineExceededError):
            await made.run_async(sample(1), timeout=0.03)
        with pytest.raises(errors.InputShapeError):
            await made.run_async(np.zeros(3, np.float32))
        with pytest.raises(errors.DeadlineExceededError):
            await made.run_async(sample(1), deadline=time.monotonic() - 1)
        session.gate.set()
        assert is_answer(await made.run_async(sample(2), timeout=LONG), 2)
        made.close()
        with pytest.raises(errors.BatcherClosedError):
            await made.run_async(sample(1))

    with batcher(session, max_delay=0) as made, occupied(session, made):
        asyncio.run(ask(made))


# A real network


def test_lenet5_gives_what_the_session_gives(lenet5: Path) -> None:
    x = np.random.default_rng(0).standard_normal((24, 3, 32, 32)).astype(np.float32)
    with load(lenet5, device="cpu", threads=1, instances=2) as session:
        expected, exactly = session.run(x)["logits"], session.run(x[:8])["logits"]
        with batcher(session, max_batch=8, max_delay=0.005) as made, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: made.run(x[i], timeout=20)["logits"], range(24)))
            whole = made.run(x[3:7], timeout=20)["logits"]
        assert made.stats().answered == 25
        with batcher(session, max_batch=8) as made:  # a batch is bit for bit the session's own
            futures = [made.submit(image) for image in x[:8]]
            assert np.array_equal([f.result(20)["logits"] for f in futures], exactly)
        assert made.stats().batches == {8: 1}
    np.testing.assert_allclose(np.stack(answers), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole, expected[3:7], rtol=1e-4, atol=1e-5)


def test_a_graph_of_two_inputs(two_inputs: Path) -> None:
    left, right = np.ones((3, 2), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    with load(two_inputs, device="cpu") as session, batcher(session, max_batch=3) as made:
        futures = [made.submit({"left": a, "right": b}) for a, b in zip(left, right, strict=True)]
        assert np.array_equal([f.result(10)["total"] for f in futures], left + right)
        with pytest.raises(errors.InputNameError, match="missing 'right'"):
            made.submit(left)
        with pytest.raises(errors.InputShapeError):
            made.submit({"left": left[0], "right": right})
        with pytest.raises(errors.InputShapeError, match="already"):
            made.submit({"left": left, "right": right[:2]})
