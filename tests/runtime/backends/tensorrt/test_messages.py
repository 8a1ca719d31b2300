"""One logger a process: each listener gets what was said during its own work, and no other's."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from repr_runtime.backends.tensorrt.library import EDITIONS, open_library
from repr_runtime.backends.tensorrt.messages import last_error, listen, logger


@pytest.fixture
def trt() -> Any:
    """A module with a logger to derive from; another one for each test."""

    class Module(SimpleNamespace):
        __hash__ = object.__hash__

    return Module(ILogger=type("ILogger", (), {}))


def say(trt: Any, severity: str, text: str) -> None:
    logger(trt).log(SimpleNamespace(name=severity), text)


def test_the_last_error_is_the_newest(trt: Any) -> None:
    for text in ("the first", "the second", "the third: why\nand where"):
        say(trt, "ERROR", text)
    say(trt, "WARNING", "no error")
    assert last_error() == "the third: why"


def test_errors_and_warnings_are_kept_each_once(trt: Any) -> None:
    with listen(trt) as messages:
        for severity in ("INFO", "VERBOSE", "WARNING", "WARNING", "ERROR", "INTERNAL_ERROR"):
            say(trt, severity, f"said as {severity}")
    say(trt, "ERROR", "too late")
    assert messages.warnings == ["said as WARNING"]
    assert messages.errors == ["said as ERROR", "said as INTERNAL_ERROR"]


def test_a_listening_thread_hears_itself_and_the_newest_hears_the_workers(trt: Any) -> None:
    def elsewhere(work: Any) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    heard = []

    def load() -> None:
        with listen(trt) as own:
            say(trt, "ERROR", "of the load")
        heard.append(own.errors)

    with listen(trt) as build:
        elsewhere(load)
        elsewhere(lambda: say(trt, "WARNING", "of a worker"))
        say(trt, "ERROR", "of the build")
    assert heard == [["of the load"]]
    assert (build.errors, build.warnings) == (["of the build"], ["of a worker"])


def test_a_build_hears_itself_while_a_newer_listener_is_at_work(trt: Any) -> None:
    listening, go_on = threading.Event(), threading.Event()
    heard = []

    def load() -> None:
        with listen(trt) as own:
            listening.set()
            assert go_on.wait(10)
        heard.append(own.errors)

    thread = threading.Thread(target=load)
    with listen(trt) as build:
        thread.start()
        assert listening.wait(10)
        say(trt, "ERROR", "of the build")
        go_on.set()
        thread.join()
    assert (heard, build.errors) == ([[]], ["of the build"])


def test_equal_listeners_are_told_apart(trt: Any) -> None:
    with listen(trt) as outer:
        with listen(trt) as inner:
            pass
        say(trt, "ERROR", "after the inner one")
    assert (outer.errors, inner.errors) == (["after the inner one"], [])


def test_a_runtime_that_lives_leaves_no_word_in_a_builds_notes() -> None:
    pytest.importorskip("tensorrt_rtx")
    library = open_library(EDITIONS["tensorrt-rtx"])
    runtime = library.trt.Runtime(logger(library.trt))
    with listen(library.trt) as messages:
        assert library.trt.Builder(logger(library.trt)) is not None
    assert messages.warnings == []
    assert runtime is not None
