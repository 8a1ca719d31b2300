"""One logger a process: each listener gets what was said during its own work, and no other's."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from repr_runtime.backends.tensorrt.library import EDITIONS, open_library
from repr_runtime.backends.tensorrt.messages import Messages, begin, last_error, listen, logger


@pytest.fixture
def trt() -> Any:
    """A module with a logger to derive from; another one for each test."""

    class Module(SimpleNamespace):
        __hash__ = object.__hash__

    return Module(ILogger=type("ILogger", (), {}))


def say(trt: Any, severity: str, text: str) -> None:
    logger(trt).log(SimpleNamespace(name=severity), text)


def elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def another_run(trt: Any) -> tuple[str, str]:
    begin()
    say(trt, "ERROR", "of another's run")
    return last_error(), last_error()


def test_the_last_error_is_the_newest_of_this_thread_and_told_once(trt: Any) -> None:
    elsewhere(say, trt, "ERROR", "before the call")
    begin()
    for text in ("the first", "the second", "the third: why\nand where"):
        say(trt, "ERROR", text)
    say(trt, "WARNING", "no error")
    assert elsewhere(another_run, trt) == ("of another's run", "")
    assert (last_error(), last_error()) == ("the third: why", "")
    elsewhere(say, trt, "WARNING", "no error")
    elsewhere(say, trt, "ERROR", "of a thread of the library's own\nand more")
    assert last_error() == "of a thread of the library's own"
    say(trt, "ERROR", "of this one")
    assert last_error() == "of this one"
    begin()
    with listen(trt):
        elsewhere(say, trt, "ERROR", "of a build")
    assert last_error() == ""


def test_errors_and_warnings_are_kept_each_once(trt: Any) -> None:
    begin()
    with listen(trt) as messages:
        with listen(trt) as inner:
            pass
        for severity in ("INFO", "VERBOSE", "WARNING", "WARNING", "ERROR", "INTERNAL_ERROR"):
            say(trt, severity, f"said as {severity}")
    assert last_error() == ""  # it was the listener's
    say(trt, "ERROR", "too late")
    assert messages.warnings == ["said as WARNING"]
    assert messages.errors == ["said as ERROR", "said as INTERNAL_ERROR"]
    assert inner == Messages()  # though the two were equal when it went


def test_a_listening_thread_hears_itself_and_the_newest_hears_the_workers(trt: Any) -> None:
    def load() -> list[str]:
        with listen(trt) as own:
            elsewhere(say, trt, "WARNING", "of a worker")
            heard.set()
            assert said.wait(10)
            say(trt, "ERROR", "of the load")
        return [*own.errors, *own.warnings]

    heard, said = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool, listen(trt) as build:
        loading = pool.submit(load)
        assert heard.wait(10)
        say(trt, "ERROR", "of the build")
        said.set()
        assert loading.result() == ["of the load", "of a worker"]
    assert (build.errors, build.warnings) == (["of the build"], [])


def test_a_runtime_that_lives_leaves_no_word_in_a_builds_notes() -> None:
    pytest.importorskip("tensorrt_rtx")
    library = open_library(EDITIONS["tensorrt-rtx"])
    runtime = library.trt.Runtime(logger(library.trt))
    with listen(library.trt) as messages:
        assert library.trt.Builder(logger(library.trt)) is not None
    assert messages.warnings == []
    assert runtime is not None
