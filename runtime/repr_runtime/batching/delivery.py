"""How an answer, or an error, reaches the request it belongs to."""

import copy
import threading
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from repr_runtime.batching.queue import Answer, Request
from repr_runtime.errors import CudaError, DeviceMemoryError, SessionClosedError

if TYPE_CHECKING:
    import asyncio


def deliver(request: Request, answer: Answer | BaseException) -> None:
    """Complete the future of ``request``, unless it is; what its callbacks raise ends no worker."""
    if request.done():
        return
    try:
        if isinstance(answer, BaseException):
            request.set_exception(answer)
        else:
            request.set_result(answer)
    except InvalidStateError:
        return  # another thread did, just now
    except BaseException as error:  # of a callback: an exit, say, which must not end a worker
        what = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(what))


def may_be_one_sample(error: BaseException) -> bool:
    """Whether the others of the batch could be answered without the one that fails."""
    lost = isinstance(error, CudaError) and not isinstance(error, DeviceMemoryError)
    return not lost and not isinstance(error, SessionClosedError)


def own_copy(error: BaseException) -> BaseException:
    """A copy for one thread, since raising an error writes into it."""
    try:
        mine = copy.copy(error)
    except Exception:  # not every class can be copied
        return error
    if type(mine) is not type(error):
        return error
    mine.__cause__ = error.__cause__
    return mine.with_traceback(error.__traceback__)


def hand_over(
    loop: "asyncio.AbstractEventLoop", waiting: "asyncio.Future[Answer]", request: Future[Answer]
) -> None:
    """Complete ``waiting``, a future of ``loop``, as ``request`` was; called in any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_complete, waiting, request)


def _complete(waiting: "asyncio.Future[Answer]", request: Future[Answer]) -> None:
    if waiting.done():  # its task was cancelled
        return
    if request.cancelled():
        waiting.cancel()
    elif (error := request.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(request.result())
