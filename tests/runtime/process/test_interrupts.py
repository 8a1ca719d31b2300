"""A signal's handler that raises leaves no lock taken, no instance lost, no request unanswered."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_place import Place
from fake_session import FakeSession, batcher, is_answer, sample
from interrupting import Interrupt, interrupted_everywhere

from repr_runtime import Batcher, Session, TensorRTOptions, errors, load

IN_TIME = 20.0
EVERY = 1 if "REPR_INTERRUPTS" in os.environ else 9
"""Of the places where a handler may raise, for what is slow to begin anew."""

# What is raised in a callback of a weak reference, or a destructor, Python ignores.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def in_another_thread(call: Callable[[], Any]) -> Any:
    """What ``call`` gives there; it must not wait for what this thread has left behind."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(IN_TIME)
    assert found, "it hangs, or has raised"
    return found[0]


def holds(made: Batcher, identity: int) -> None:
    """Whether others are answered as ever, and every request is accounted for."""
    assert is_answer(in_another_thread(lambda: made.run(sample(identity))), identity)
    stats = in_another_thread(made.stats)
    settled = stats.answered + stats.failed + stats.expired + stats.cancelled
    assert stats.accepted == settled + stats.waiting + stats.running


def only_interrupts(raised: BaseException | None) -> None:
    if not (raised is None or isinstance(raised, Interrupt)):
        raise raised


@pytest.mark.parametrize(
    "call",
    [
        lambda made: made.submit(sample(-1)),
        lambda made: made.run(sample(-1)),
        lambda made: made.run(sample(-1), timeout=5),
        lambda made: made.submit(sample(-1)).result(5),
        lambda made: made.submit(sample(-1)).cancel(),
        lambda made: made.submit(sample(-1)).exception(),
        lambda made: made.require_room(),
        lambda made: made.stats(),
    ],
    ids=["submit", "run", "run-timeout", "result", "cancel", "exception", "room", "stats"],
)
def test_batcher(call: Callable[[Batcher], object]) -> None:
    with batcher(FakeSession(), max_delay=0.0, queue_limit=10_000) as made:
        call(made)  # what is done once only would move the places of the next call
        places = 0
        for places, raised in enumerate(interrupted_everywhere(lambda: call(made)), 1):
            only_interrupts(raised)
            holds(made, places)
        assert places > 5


@pytest.mark.parametrize("call", [Batcher.close, lambda made: made.close(drain=False)])
def test_closing_can_be_interrupted_and_done_again(call: Callable[[Batcher], None]) -> None:
    state: dict[str, Any] = {}

    def before() -> None:
        made = state["made"] = batcher(FakeSession())
        state["waiting"] = made.submit(sample(1))

    for raised in interrupted_everywhere(lambda: call(state["made"]), before):
        only_interrupts(raised)
        in_another_thread(lambda: state["made"].close() or True)
        assert state["waiting"].done()
        assert state["made"].stats().waiting == 0
    state["made"].close()


def test_those_that_expired_are_told_though_whoever_found_them_was_interrupted() -> None:
    state: dict[str, Any] = {}

    def before() -> None:
        session = state["session"] = FakeSession()
        session.gate.clear()
        made = state["made"] = batcher(session, queue_limit=4)
        made.submit(np.zeros((4, 2), np.float32))
        assert session.entered.acquire(timeout=10)
        soon = time.monotonic() + 0.01
        state["late"] = [made.submit(sample(1), deadline=soon) for _ in range(4)]
        time.sleep(0.01)

    def submit() -> None:
        state["made"].submit(sample(2))

    for raised in interrupted_everywhere(submit, before, EVERY):
        only_interrupts(raised)
        state["session"].gate.set()
        found = in_another_thread(lambda: [r.exception(IN_TIME) for r in state["late"]])
        assert all(isinstance(error, errors.DeadlineExceededError) for error in found)
        in_another_thread(lambda: state["made"].close() or True)
    state["session"].gate.set()
    state["made"].close(drain=False)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_instances(artifact: Any, tiny: Any, device: str) -> None:
    x = tiny.inputs(2)
    with load(artifact, device=device, threads=1, instances=2) as session:
        idle = vars(vars(session.backend)["_idle"])["_queue"]
        session.run(x)  # what is done once only would move the places of the next call
        for raised in interrupted_everywhere(lambda: session.run(x)):
            only_interrupts(raised)
            assert idle.qsize() == 2


def test_lanes(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Place(tmp_path / "a", tiny, monkeypatch).write("tensorrt")
    x = tiny.inputs(2)
    state: dict[str, Session] = {}

    def before() -> None:
        options = TensorRTOptions(contexts=1)
        state["session"] = load(path, device="tensorrt", options=options)

    def holds_on() -> dict[str, Any]:
        with state["session"] as session:
            return session.run(x)

    want = None
    for raised in interrupted_everywhere(lambda: state["session"].run(x), before, EVERY):
        only_interrupts(raised)
        del raised  # which holds what it was raised in
        got = in_another_thread(holds_on)["logits"]
        np.testing.assert_array_equal(got, got if want is None else want)
        want = got


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals here")
def test_real_signals(artifact: Any, tiny: Any) -> None:
    """A timer that goes off anywhere, in a batcher of instances; any number by REPR_INTERRUPTS."""
    wanted = int(os.environ.get("REPR_INTERRUPTS", "300"))
    x = tiny.inputs(1)[0]
    want = tiny.logits(x[None])[0]
    count = 0

    def go_off(*_: object) -> None:
        raise Interrupt

    with load(artifact, device="cpu", threads=1, instances=2) as session, Batcher(session) as made:
        calls = (lambda: made.run(x), lambda: session.run(x[None]), lambda: made.submit(x).result())
        before = signal.signal(signal.SIGALRM, go_off)
        try:
            while count < wanted:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 4e-4))
                    while True:
                        calls[count % 3]()
                except Interrupt:
                    count += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        for _ in range(4):
            got = in_another_thread(lambda: made.run(x))["logits"]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        holds_alone = in_another_thread(lambda: session.run(x[None]))["logits"][0]
        np.testing.assert_allclose(holds_alone, want, rtol=1e-4, atol=1e-5)
