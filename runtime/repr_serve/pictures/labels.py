"""Pictures in, labels out: files are decoded and made to inputs by a pool, beside the event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from repr_runtime import Prediction, errors
from repr_runtime.batching.deadlines import missed, seconds_to
from repr_runtime.machine import usable_cores
from repr_serve.errors import EncodingError, RequestError
from repr_serve.model import Model
from repr_serve.pictures.files import decode
from repr_serve.service import Service

MOST_PICTURES = 64
"""In one request."""

_ANY_BYTES = (b"application/octet-stream", b"application/x-www-form-urlencoded")
"""The second is what curl says of all that it sends."""

_PER_CORE = 16  # requests that may wait for their pictures to be decoded


class Labeller:
    """The pool that decodes, and a bound on what waits for it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        cores = usable_cores()
        self._pool = ThreadPoolExecutor(cores, "repr-decode")
        self._limit, self._jobs = cores * _PER_CORE, set[Future[NDArray[Any]]]()

    async def pictures(self, content_type: bytes, body: bytes) -> Sequence[bytes]:
        """The files in the body: one as it is, or the parts of a form.

        Raises :class:`RequestError`, and :class:`EncodingError` for what is neither.
        """
        kind = content_type.partition(b";")[0].strip().lower()
        if kind == b"multipart/form-data":
            return await _parts(content_type, body)
        if kind and not kind.startswith(b"image/") and kind not in _ANY_BYTES:
            raise EncodingError(
                f"content-type {kind!r:.60}: send a picture, image/jpeg, image/png or image/webp, or "
                f"several as multipart/form-data"
            )
        if not body:
            raise RequestError("the request has no body: send a picture, JPEG, PNG or WebP")
        return (body,)

    async def label(
        self, model: Model, pictures: Sequence[bytes], top: int, deadline: float
    ) -> tuple[Model, list[Prediction]]:
        """The ``top`` labels of each picture, and the model that gave them.

        Raises :class:`ImageError`, :class:`QueueFullError`, :class:`DeadlineExceededError` and
        what ``Session.preprocess``, ``Service.infer`` and ``Session.predictions`` raise.
        """
        inputs = await self._inputs(model, pictures, deadline)
        size = model.max_batch or len(inputs)
        name, first = model.inputs[0].name, model.outputs[0].name
        logits = []
        for begin in range(0, len(inputs), size):
            part = {name: inputs[begin : begin + size]}
            model, outputs = await self._service.infer(model, part, deadline)
            logits.append(outputs[first])
        return model, model.session.label(np.concatenate(logits), len(inputs), top)

    async def _inputs(
        self, model: Model, pictures: Sequence[bytes], deadline: float
    ) -> NDArray[Any]:
        if len(self._jobs) >= self._limit:
            raise errors.QueueFullError(
                f"the pictures of {len(self._jobs)} requests wait to be decoded; try again later"
            )
        began = time.monotonic()
        job = self._pool.submit(_prepare, model, pictures, began, deadline)
        self._jobs.add(job)  # as long as it takes, whoever still waits for it
        job.add_done_callback(self._jobs.discard)
        try:
            async with asyncio.timeout(seconds_to(deadline)):
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            if isinstance(error, errors.DeadlineExceededError):
                raise
            raise missed(deadline - began) from None


def _prepare(
    model: Model, pictures: Sequence[bytes], began: float, deadline: float
) -> NDArray[Any]:
    """One after the other, so that no more than one is there in its full size."""
    made = []
    for picture in pictures:
        if time.monotonic() > deadline:
            raise missed(deadline - began)
        made.append(model.session.preprocess(decode(picture)))
    return np.concatenate(made)


async def _parts(content_type: bytes, body: bytes) -> list[bytes]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers(raw=[(b"content-type", content_type)]),
        whole(),
        max_files=MOST_PICTURES,
        max_fields=MOST_PICTURES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, LookupError) as error:
        why = getattr(error, "message", error)
        raise RequestError(f"the form cannot be read: {why!s:.100}") from error
    try:
        files = [await f.read() for _, f in form.multi_items() if isinstance(f, UploadFile)]
    finally:
        for begun in parser._files_to_close_on_error:  # also a part that had no end
            begun.close()
    if not files:
        raise RequestError("the form has no files: each picture is a part with a filename")
    return files
