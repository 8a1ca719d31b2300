"""Models that prove themselves, are asked, replaced without a lost request, and drained."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from serving import held

from repr_runtime import errors
from repr_runtime.machine import usable_cores
from repr_serve import ModelOptions, Service, Source
from repr_serve.errors import ModelNotFoundError, NotReadyError

CPU = ModelOptions(device="cpu", instances=1, max_batch=4, timeout=20)


def ask(service: Service, x: Any, name: str = "tiny", seconds: float = 20) -> Any:
    """The version that answered, and its logits."""

    async def once() -> Any:
        asked = service.model(name)
        return await service.infer(asked, {"input": x}, time.monotonic() + seconds)

    model, outputs = asyncio.run(once())
    return model.version, outputs["logits"]


def test_it_is_ready_once_the_golden_samples_have_passed(tiny: Any, artifact: Path) -> None:
    service = Service([Source("tiny", artifact)], CPU)
    assert not service.ready
    with refuses(NotReadyError, "model 'tiny' is not ready: not loaded yet"):
        service.model("tiny")
    service.load_all()
    try:
        assert service.ready
        x = tiny.inputs(2)
        version, logits = ask(service, x)
        np.testing.assert_allclose(logits, tiny.logits(x), atol=1e-4)
        assert service.model("tiny", version) is service.model("tiny")
        with refuses(ModelNotFoundError, "no version '1'", f"it is at {version}"):
            service.model("tiny", "1")
        with refuses(ModelNotFoundError, "no model '../tiny'", "served are tiny"):
            service.model("../tiny")
    finally:
        service.close()


def test_a_version_is_of_what_is_served_not_of_where(tiny: Any, tmp_path: Path) -> None:
    paths = [
        tiny.write(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    service = Service([Source(path.name, path) for path in paths], CPU)
    service.load_all()
    try:
        a, b, c = (service.model(name).version for name in "abc")
    finally:
        service.close()
    assert a == b != c


def test_what_does_not_compute_here_what_it_did_is_not_served(tiny: Any, tmp_path: Path) -> None:
    golden = tiny.golden()
    golden["output.logits"] += 1
    service = Service([Source("tiny", tiny.write(tmp_path / "bad", golden=golden))], CPU)
    with refuses(errors.SelfTestError, "golden samples differ"):
        service.load_all()
    assert not service.ready
    (listed,) = service.index()
    assert not listed.ready
    assert "golden samples differ" in listed.reason


def test_a_service_whose_gpu_is_lost_is_to_be_started_again(
    tiny: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def infer(*_: object) -> None:
        raise errors.DeviceLostError("cuda:0 is lost to this process (700); start it again")

    assert (service.live, service.ready) == (True, True)
    monkeypatch.setattr(service.model("tiny"), "infer", infer)
    with refuses(errors.DeviceLostError, "cuda:0 is lost"):
        ask(service, tiny.inputs(1))
    assert (service.live, service.ready) == (False, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a b=x"], "letters, digits, '_', '-' and '.' only, got 'a b'"),
        (["=x"], "got ''"),
        (["a=x", "a=y"], "two models are called 'a'"),
        (["x/a", "y/a"], "two models are called 'a'"),
        ([], "nothing to serve"),
    ],
)
def test_names_that_cannot_be_are_refused_before_the_work(given: list[str], words: str) -> None:
    with refuses(errors.OptionError, words):
        Service([Source.parse(text) for text in given])


def test_a_name_is_the_folders_unless_one_is_given(tmp_path: Path) -> None:
    assert Source.parse("a=b/c") == Source("a", Path("b/c"))
    assert Source.parse(tmp_path / "n") == Source("n", tmp_path / "n")
    odd = tmp_path / "x=y" / "n"  # a path, since a name has no slash
    assert Source.parse(str(odd)) == Source("n", odd)


def test_a_new_export_is_taken_up_without_a_lost_request(
    tiny: Any, service: Service, artifact: Path
) -> None:
    x = tiny.inputs(1)
    answers: list[tuple[str, Any]] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                answers.append(ask(service, x))
            except BaseException as error:
                failures.append(error)
                return

    before = service.model("tiny").version
    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    seeds = (1, 2, 3)
    for seed in seeds:
        tiny.write(artifact, seed=seed)
        service.refresh()
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    expected = {before: tiny.logits(x, 0)}
    seen = [version for version, _ in answers]
    assert len(set(seen)) > 1
    last = ask(service, x)
    np.testing.assert_allclose(last[1], tiny.logits(x, 3), atol=1e-4)
    assert last[0] == service.model("tiny").version != before
    for version, logits in answers:  # each answer is one version's, and that version's only
        if version not in expected:
            expected[version] = min(
                (tiny.logits(x, seed) for seed in seeds), key=lambda y: np.abs(y - logits).max()
            )
        np.testing.assert_allclose(logits, expected[version], atol=1e-4)


def test_who_waits_for_the_old_model_gets_its_answer(
    tiny: Any, service: Service, artifact: Path
) -> None:
    x = tiny.inputs(1)
    old = service.model("tiny")
    answers: list[Any] = []
    with held(old) as entered:
        asking = [threading.Thread(target=lambda: answers.append(ask(service, x))) for _ in "12"]
        asking[0].start()
        assert entered.acquire(timeout=10)
        asking[1].start()
        while old.stats().waiting < 1:
            time.sleep(0.002)
        tiny.write(artifact, seed=1)
        taking_up = threading.Thread(target=service.refresh)
        taking_up.start()
        while service.model("tiny") is old:
            time.sleep(0.002)
        np.testing.assert_allclose(ask(service, x)[1], tiny.logits(x, 1), atol=1e-4)
    for thread in (*asking, taking_up):
        thread.join(10)
    assert [version for version, _ in answers] == [old.version] * 2


def test_a_bad_export_is_refused_and_the_old_one_serves_on(
    tiny: Any, service: Service, artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, before = tiny.inputs(1), service.model("tiny")
    golden = tiny.golden(1)
    golden["output.logits"] += 1
    tiny.write(artifact, seed=1, golden=golden)
    for _ in range(3):  # it is looked at once
        service.refresh()
    assert service.model("tiny") is before
    assert service.ready
    assert service.refused_exports == {"tiny": 1}
    assert "the new export is refused, the old one serves on" in caplog.text
    np.testing.assert_allclose(ask(service, x)[1], tiny.logits(x), atol=1e-4)
    (artifact / "manifest.json").write_text("{}")
    service.refresh()
    assert service.refused_exports == {"tiny": 2}
    tiny.write(artifact, seed=2)
    service.refresh()
    np.testing.assert_allclose(ask(service, x)[1], tiny.logits(x, 2), atol=1e-4)
    assert service.index()[0].reason == ""


def test_watching_is_looking_again_and_again(tiny: Any, service: Service, artifact: Path) -> None:
    before = service.model("tiny")
    thread = service.watch(0.01)
    tiny.write(artifact, seed=1)
    end = time.monotonic() + 10
    while service.model("tiny") is before and time.monotonic() < end:
        time.sleep(0.01)
    assert service.model("tiny") is not before
    service.close()
    thread.join(5)
    assert not thread.is_alive()


def test_what_is_unloaded_is_not_asked_and_not_watched(service: Service) -> None:
    service.unload("tiny")
    assert service.ready  # nobody waits for it
    with refuses(NotReadyError, "unloaded"):
        service.model("tiny")
    service.refresh()
    assert [listed.ready for listed in service.index()] == [False]
    service.load("tiny")
    assert service.model("tiny").version
    with refuses(ModelNotFoundError, "no model 'other'"):
        service.load("other")


def test_closing_answers_what_waits_within_its_time_and_fails_the_rest(
    tiny: Any, service: Service
) -> None:
    x = tiny.inputs(1)
    model = service.model("tiny")
    answers: list[Any] = []
    with held(model) as entered:
        first = threading.Thread(target=lambda: answers.append(ask(service, x)))
        first.start()
        assert entered.acquire(timeout=10)
        closing = threading.Thread(target=service.close, args=(10.0,))
        closing.start()
        while not service.draining:
            time.sleep(0.002)
        assert not service.ready
    first.join(10)
    closing.join(10)
    assert len(answers) == 1
    with pytest.raises((errors.BatcherClosedError, errors.SessionClosedError)):
        ask(service, x)


def test_closing_ends_in_time_though_something_hangs(tiny: Any, service: Service) -> None:
    x = tiny.inputs(1)
    failed: list[BaseException] = []

    def client() -> None:
        try:
            ask(service, x)
        except errors.ReproError as error:
            failed.append(error)

    with held(service.model("tiny")) as entered:
        running, waiting = threading.Thread(target=client), threading.Thread(target=client)
        running.start()
        assert entered.acquire(timeout=10)
        waiting.start()
        while service.model("tiny").stats().waiting < 1:
            time.sleep(0.002)
        start = time.monotonic()
        service.close(0.1)
        assert time.monotonic() - start < 5
        waiting.join(10)
        assert [type(error) for error in failed] == [errors.BatcherClosedError]
    running.join(10)


def test_a_cpus_cores_are_shared_out_to_instances_of_one_thread(artifact: Path) -> None:
    for options, expected in (
        (ModelOptions(device="cpu"), usable_cores()),
        (ModelOptions(device="cpu", processes=10**6), 1),
        (ModelOptions(device="cpu", instances=3), 3),
    ):
        service = Service([Source("tiny", artifact)], options)
        service.load_all()
        assert service.model("tiny").session.instances == expected
        service.close()
