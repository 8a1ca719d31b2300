"""Artifacts in a cluster of Ray: a deployment for Ray Serve, and a predictor for Ray Data."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime import Batcher, Prediction, errors, load
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.batching.deadlines import missed, seconds_to
from repr_runtime.batching.queue import Answer
from repr_runtime.inputs import plain
from repr_runtime.machine import usable_cores
from repr_runtime.options import require_seconds, require_whole
from repr_runtime.preprocess import Images

try:
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    from repr_serve.asgi import Receive, Scope, Send
    from repr_serve.errors import ModelNotFoundError
    from repr_serve.http import HttpApp, HttpOptions
    from repr_serve.model import Model, ModelOptions
    from repr_serve.mounting import Artifacts, app, sources_of
    from repr_serve.pictures.files import decode
except ModuleNotFoundError as error:
    raise errors.MissingExtraError("repr_serve.ray", "ray", error.name) from error

Asked = tuple[Model, Mapping[str, NDArray[Any]], float]
"""A model, what it is asked, and until when."""
_BATCHES = 16  # that a replica's queue holds, as a Batcher's by default


# Ray Serve


def deployment(
    artifacts: Artifacts,
    *,
    models: ModelOptions | None = None,
    http: HttpOptions | None = None,
    **options: Any,
) -> Any:
    """The artifacts as an application for ``ray.serve.run``.

    ``artifacts`` are those of :func:`repr_serve.app`, at paths that each node of the cluster has.
    Over HTTP it speaks what ``repr-serve`` does; who has its handle calls :meth:`Replica.infer`
    and :meth:`Replica.classify`. ``options`` are those of ``ray.serve.deployment``:
    ``num_replicas=2``, ``autoscaling_config``, ``ray_actor_options`` … On a CPU each replica runs
    as many batches side by side as it was given CPUs, one by default. 16 full batches may be in a
    replica, and as many wait before it; who comes then is refused at once, by 503 and Ray's
    ``BackPressureError``. Raises :class:`OptionError`.
    """
    sources_of(artifacts)  # a name that none may have is told here, not by each replica
    models = ModelOptions() if models is None else models
    most = models.queue_limit or _BATCHES * models.max_batch
    chosen = {
        "name": "repr-serve",
        "max_ongoing_requests": most,
        "max_queued_requests": most,
        **options,
    }
    return serve.deployment(**chosen)(Replica).bind(artifacts, models, http)


class Replica:
    """One process of the deployment. Its methods are what a handle's ``remote`` calls."""

    def __init__(
        self, artifacts: Artifacts, models: ModelOptions, http: HttpOptions | None
    ) -> None:
        """Loads them and runs their golden samples: where those fail there is no replica."""
        alike = max(1, usable_cores() // assigned_cpus())
        self._http = app(artifacts, models=replace(models, processes=alike), http=http)
        self._together.set_max_batch_size(models.max_batch)

    async def __call__(self, asked: Any, **options: Any) -> Any:
        """A request over HTTP, which the application reads and answers itself; else :meth:`infer`."""
        if isinstance(asked, Request):
            return _Answered(self._http)
        return await self.infer(asked, **options)

    async def infer(
        self,
        inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> Answer:
        """The outputs for ``inputs``, by name: of one sample, or of several with a batch dimension.

        ``inputs`` is an array where the network has one input, else arrays by name. ``model`` is
        needed where several are served. ``timeout`` is in seconds, from when the replica has it,
        and at most the deployment's. Raises the subclass of :class:`InputError` that says what
        is wrong, :class:`DeadlineExceededError`, :class:`QueueFullError` and
        :class:`ModelNotFoundError`; Ray tries none of them again.
        """
        if timeout is not None:
            require_seconds(0, math.inf, timeout=timeout)
        began, deadline = time.monotonic(), self._http.service.deadline(timeout)
        asked = self._model(model)
        asked.require_room(deadline)
        named = inputs if isinstance(inputs, Mapping) else {asked.inputs[0].name: inputs}
        arrays = {name: _array(name, given) for name, given in named.items()}
        try:
            async with asyncio.timeout(seconds_to(deadline)):
                answer: Answer | BaseException = await self._together((asked, arrays, deadline))
        except TimeoutError:
            raise missed(deadline - began) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @serve.batch(max_concurrent_batches=_BATCHES)  # type: ignore[untyped-decorator]
    async def _together(self, asked: Sequence[Asked]) -> list[Answer | BaseException]:
        """What handles asked at once; a ``Batcher`` joins it with what came over HTTP."""
        answers = (self._http.service.infer(*each) for each in asked)
        found = await asyncio.gather(*answers, return_exceptions=True)
        return [one if isinstance(one, BaseException) else one[1] for one in found]

    async def classify(
        self, images: Images, *, top: int = 5, model: str = "", timeout: float | None = None
    ) -> list[Prediction]:
        """As :meth:`Session.classify`; raises what that and :meth:`infer` do."""
        require_whole(1, top=top)
        asked = self._model(model)
        inputs = await asyncio.to_thread(asked.session.preprocess, images)
        size = asked.max_batch or len(inputs)
        parts = [inputs[begin : begin + size] for begin in range(0, len(inputs), size)]
        answers = [await self.infer(part, model=model, timeout=timeout) for part in parts]
        first = asked.outputs[0].name
        return asked.session.label(np.concatenate([a[first] for a in answers]), len(inputs), top)

    def _model(self, name: str) -> Model:
        models = self._http.service.models
        if not name and len(models) > 1:
            raise ModelNotFoundError(
                f"several models are served, {', '.join(m.name for m in models)}; say which: model=…"
            )
        return self._http.service.model(name) if name else models[0]

    async def check_health(self) -> None:
        """Ray asks now and then, and starts a replica anew that raises: the golden samples run."""
        for model in self._http.service.models:
            await asyncio.to_thread(model.session.self_test)


def _array(name: str, given: Any) -> NDArray[Any]:
    if isinstance(given, np.ndarray):
        return plain(f"input {name!r}", given)
    try:
        return np.asarray(given)
    except Exception as error:  # whatever an object raises that is asked for its array
        raise errors.InputTypeError(
            f"input {name!r} is no array: {errors.words_of(error)}"
        ) from error


class _Answered(Response):
    """Whatever the application answers: Ray lets a response speak to the client itself."""

    def __init__(self, http: HttpApp) -> None:
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._http(scope, receive, send)


def assigned_cpus() -> int:
    """How many CPUs Ray gave to this actor, one or more; outside of one, as when it is tried, all."""
    if ray.is_initialized():  # else to ask would start a cluster
        with suppress(AssertionError):
            given = ray.get_runtime_context().get_assigned_resources()
            return max(1, int(given.get("CPU", 1)))
    return usable_cores()


# Ray Data


class Predictor:
    """For ``Dataset.map_batches``: each row gets a label, or an error, and the run goes on.

    >>> rows = ray.data.read_binary_files("pictures", include_paths=True)
    >>> rows = rows.map_batches(
    ...     Predictor, fn_constructor_kwargs={"artifact": "artifacts/resnet20"}, concurrency=2
    ... )

    It reads the columns that are called as the network's inputs, or else ``bytes`` or ``image``,
    and leaves them out; all others stay. A value is a sample, as an array or lists of numbers, or
    a picture: the bytes of a file (JPEG, PNG, WebP) or a uint8 RGB array (H, W, 3).

    A network with labels gives the columns ``label``, ``index`` (-1 where there is none) and
    ``probability`` (NaN), and with ``top`` of 2 or more ``labels`` and ``probabilities``, the most
    probable first. Others give a column for each output, NaN or 0 where there is none. ``error``
    says what is wrong with the row, and is "" where nothing is.
    """

    def __init__(
        self,
        artifact: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: str = "fp32",
        max_batch: int = 32,
        top: int = 1,
        prefix: str = "",
    ) -> None:
        """Loads it and runs its golden samples. On a CPU it uses as many threads as Ray gave CPUs.

        What the new columns are called begins with ``prefix``.
        Raises :class:`OptionError`, :class:`NotBatchableError` and what
        :func:`repr_runtime.load` and ``self_test`` raise.
        """
        require_whole(1, top=top)
        self._session = load(artifact, device=device, precision=precision, threads=assigned_cpus())
        self._session.self_test()
        self._batcher = Batcher(self._session, max_batch=max_batch, queue_limit=2**31)
        self._top, self._prefix = top, prefix

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The rows of ``batch`` with what the network says of them.

        Raises :class:`InputNameError` if it has no column that the network takes, or one that is
        called as a new one, and :class:`PreprocessingMissingError` for pictures where the
        artifact knows of none.
        """
        used = self._used(batch)
        asked = [
            _tried(self._ask, *values) for values in zip(*(batch[n] for n in used), strict=True)
        ]
        found = [one if isinstance(one, Exception) else _tried(one.result) for one in asked]
        columns = {name: values for name, values in batch.items() if name not in used}
        labelled = self._session.manifest.labels and len(self._session.outputs[0].shape) == 2
        said = self._labels(found) if labelled else self._outputs(found)
        said["error"] = [str(one) if isinstance(one, Exception) else "" for one in found]
        new = {self._prefix + name: values for name, values in said.items()}
        if twice := new.keys() & columns.keys():
            raise errors.InputNameError(
                f"there is a column {min(twice)!r} already; give the new ones a prefix: prefix='said_'"
            )
        return columns | new

    def _used(self, batch: Mapping[str, Any]) -> list[str]:
        names = [spec.name for spec in self._session.inputs]
        choices = [names, ["bytes"], ["image"]] if len(names) == 1 else [names]
        for columns in choices:
            if batch.keys() >= set(columns):
                return columns
        wanted = " or ".join(", ".join(map(repr, columns)) for columns in choices)
        raise errors.InputNameError(
            f"there is no column {wanted} among {', '.join(map(repr, batch))}; call it so by "
            f"Dataset.rename_columns"
        )

    def _ask(self, *values: Any) -> Future[Answer]:
        specs = self._session.inputs
        if _is_picture(values[0], specs[0]):
            return self._batcher.submit(self._session.preprocess(_picture(values[0]))[0])
        pairs = zip(specs, values, strict=True)
        return self._batcher.submit({spec.name: _sample(spec, value) for spec, value in pairs})

    def _labels(self, found: Sequence[Answer | Exception]) -> dict[str, Any]:
        first = self._session.outputs[0].name
        logits = [one[first] for one in found if not isinstance(one, Exception)]
        said = iter(self._session.predictions(np.stack(logits), top=self._top) if logits else ())
        most = min(self._top, len(self._session.manifest.labels or ()))
        none = Prediction(-1, "", math.nan, ((-1, "", math.nan),) * most)
        rows = [none if isinstance(one, Exception) else next(said) for one in found]
        columns: dict[str, Any] = {
            "label": [row.label for row in rows],
            "index": [row.index for row in rows],
            "probability": [row.probability for row in rows],
        }
        if self._top > 1:
            columns["labels"] = [[label for _, label, _ in row.top] for row in rows]
            columns["probabilities"] = [[p for *_, p in row.top] for row in rows]
        return columns

    def _outputs(self, found: Sequence[Answer | Exception]) -> dict[str, Any]:
        columns = {}
        for spec in self._session.outputs:
            known = [one[spec.name] for one in found if not isinstance(one, Exception)]
            shape = (
                known[0].shape
                if known
                else [n if isinstance(n, int) else 0 for n in spec.shape[1:]]
            )
            none = np.zeros(shape, spec.dtype)
            if none.dtype.kind == "f":
                none.fill(math.nan)
            rows = [none if isinstance(one, Exception) else one[spec.name] for one in found]
            columns[spec.name] = [row[()] for row in rows]  # a number, where it is but one
        return columns


def _tried(work: Callable[..., Any], *given: Any) -> Any:
    """What it gives, or the error that is one row's own: any other ends the run."""
    try:
        return work(*given)
    except (errors.InputError, errors.NonFiniteOutputError) as error:
        return error


def _is_picture(value: Any, spec: TensorSpec) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3 and spec.dtype != "uint8"
    return value is None or isinstance(value, bytes | Mapping)


def _picture(value: Any) -> NDArray[np.uint8]:
    """Its pixels; a mapping, as data sets of pictures have it, holds the file as ``bytes``."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if content is None:
        raise errors.ImageError("there is nothing in this row")
    return decode(content) if isinstance(content, bytes) else content


def _sample(spec: TensorSpec, value: Any) -> NDArray[Any]:
    """One sample of an input; numbers of another type or in one long row are made to fit."""
    shape = spec.shape[1:]
    if isinstance(value, np.ndarray):
        value = plain(repr(spec.name), value)
    try:
        array = np.asarray(_plain(value)).astype(spec.dtype, casting="same_kind")
        if array.ndim == 1 and array.ndim != len(shape) and all(isinstance(n, int) for n in shape):
            array = array.reshape([int(n) for n in shape])
    except Exception as error:  # whatever an object raises that is asked for its array
        raise errors.InputTypeError(
            f"{spec.name!r} is no sample of {spec}: {errors.words_of(error)}"
        ) from error
    if array.ndim != len(shape):
        raise errors.InputShapeError(
            f"{spec.name!r} has shape {array.shape}, expected a sample of {spec}, without its first "
            f"dimension"
        )
    return array


def _plain(value: Any) -> Any:
    """Arrays of arrays, as Parquet gives lists of lists, as lists."""
    nested = isinstance(value, np.ndarray) and value.dtype == object
    return [_plain(one) for one in value] if nested else value
