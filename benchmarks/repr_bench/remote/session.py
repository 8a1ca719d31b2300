"""A server's model in the place of a session: the same inputs, answered elsewhere, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from repr_bench.accuracy.evaluate import FP32, Report, evaluate_artifact
from repr_bench.accuracy.golden import compare_golden
from repr_bench.errors import sentence
from repr_bench.remote.protocol import (
    Client,
    Metadata,
    NoModelError,
    OpenLoop,
    RemoteError,
    Tensor,
    datatype_of,
    needs,
)
from repr_bench.request import Request, Server
from repr_bench.results.graph import Graph

if TYPE_CHECKING:
    from repr_runtime import Manifest, Session
    from repr_runtime.artifact.manifest import TensorSpec


class RemoteSession:
    """``session`` says what is fed; ``server`` answers. Any thread may ask it.

    What is not about running is the session's own: its specs, manifest, preprocessing.
    """

    def __init__(self, session: Session, label: str, server: Server, request: Request) -> None:
        """``label`` is what the model is called, unless the server's URL says it.

        Raises :class:`RemoteError` if the server does not answer, or its model is another.
        """
        self.own, self.server, self.callers = session, server, request.remote.callers
        self._client = client_for(server, label, session.manifest, request)
        self._batches: dict[int, bool] = {}
        try:
            found = checked_metadata(self._client, session.manifest, server)
            self._probe(session.batch_size or 1)
        except BaseException:
            self._client.close()
            raise
        version = f" version {found.version}" if found.version else ""
        many = f"{self.callers} callers" if self.callers > 1 else "1 caller"
        self.choice = f"model {server.model or label}{version} by {self._client.how}, {many}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    @property
    def instances(self) -> int:
        """How many ask at once."""
        return self.callers

    def runnable_batch(self, count: int) -> int:
        """The largest number of samples up to ``count`` that the server takes, by halves."""
        fixed = self.own.batch_size
        while fixed is None and count > 1 and not self._takes(count):
            count //= 2
        return fixed or count

    def run(self, *arrays: Any) -> dict[str, NDArray[Any]]:
        """As the session's: arrays in the order of the inputs, or one mapping of names.

        Raises :class:`RemoteError` for an answer that is not of the artifact's outputs.
        """
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            inputs = dict(arrays[0])
        else:
            inputs = {s.name: a for s, a in zip(self.own.inputs, arrays, strict=True)}
        outputs = self._client.infer(inputs)
        sizes = {spec.shape[0]: len(inputs[spec.name]) for spec in self.own.inputs if spec.shape}
        for spec in self.own.outputs:
            self._check(spec, outputs.get(spec.name), sizes)
        return outputs

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Any number of samples, in batches that the server takes, the last one filled up."""
        count = len(next(iter(inputs.values())))
        size = self.runnable_batch(count)
        parts = []
        for begin in range(0, count, size):
            rows = np.minimum(np.arange(begin, begin + size), count - 1)
            parts.append(self.run({name: values[rows] for name, values in inputs.items()}))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    def open_loop(self, samples: Sequence[Any], seconds: float | None = None) -> OpenLoop:
        """To be sent ``samples`` one by one; an answer is of use for ``seconds``."""
        names = [spec.name for spec in self.own.inputs]
        ready = {
            id(sample): {
                name: np.asarray(sample[name] if isinstance(sample, Mapping) else sample)[None]
                for name in names
            }
            for sample in samples
        }
        return self._client.open_loop(ready, seconds)

    def close(self) -> None:
        """Leave the connections; the session stays open."""
        self._client.close()

    def answers(self, graph: Graph, request: Request, report: Report) -> Graph:
        """``graph`` with what the server gets right, on the images that the artifact's row has.

        And how far its golden samples are from the original network's. Raises what asking raises.
        """

        def ours(_: Manifest) -> Any:
            if request.images.label_free is None:
                return None
            return lambda inputs: next(iter(self.own.run_all({name: inputs}).values())), "ours"

        name = self.own.inputs[0].name
        remote = cast("Session", self)
        difference, agreement = compare_golden(remote, request.tolerance)
        _, evaluations = evaluate_artifact(
            {FP32: remote}, request.images, lambda: remote, ours, report
        )
        found = evaluations[FP32]
        return replace(
            graph,
            choice=self.choice,
            accuracy=found.accuracy,
            accuracy_note=sentence(found.error) if found.error is not None else found.note,
            agreement=found.agreement or (None if found.accuracy else agreement),
            flips=None,
            skipped=found.skipped,
            skip_reason=found.skip_reason,
            difference=difference,
        )

    def _takes(self, count: int) -> bool:
        if count not in self._batches:
            try:
                self._probe(count)
                self._batches[count] = True
            except RemoteError:
                self._batches[count] = False
        return self._batches[count]

    def _probe(self, count: int) -> None:
        self.run(
            {
                spec.name: np.zeros(
                    [count if isinstance(size, str) else size for size in spec.shape], spec.dtype
                )
                for spec in self.own.inputs
            }
        )

    def _check(
        self, spec: TensorSpec, array: NDArray[Any] | None, sizes: Mapping[int | str, int]
    ) -> None:
        wanted = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
        if array is None:
            raise RemoteError(f"{self.server.name} does not answer output {spec.name!r}")
        fits = len(wanted) == array.ndim and all(
            size in (-1, given) for size, given in zip(wanted, array.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            given = Tensor(spec.name, datatype_of(array.dtype), array.shape)
            expected = f"{datatype_of(np.dtype(spec.dtype))} {wanted}"
            raise RemoteError(f"{self.server.name} answers {given}, expected {expected}")


def client_for(server: Server, label: str, manifest: Manifest | None, request: Request) -> Client:
    """Who asks ``server``. Raises :class:`UsageError` if what that takes is not installed."""
    outputs = [spec.name for spec in manifest.outputs] if manifest else []
    how: Any = (server, server.model or label, outputs, request.remote.key)
    try:
        if server.scheme.startswith("grpc"):
            from repr_bench.remote.grpc import GrpcClient

            return GrpcClient(*how)
        from repr_bench.remote.rest import RestClient

        return RestClient(*how)
    except ModuleNotFoundError as error:
        raise needs(error, f"{server.scheme}://") from error


def checked_metadata(client: Client, manifest: Manifest, server: Server) -> Metadata:
    """What the server says of its model, if that is the artifact's. Raises :class:`RemoteError`."""
    try:
        found = client.metadata()
    except NoModelError as error:
        names = ", ".join(client.models())
        has = f"; it has {names}" if names else ""
        url = server.name if "://" in server.name else f"{server.name}=URL"
        raise NoModelError(f"{error}{has}; name the model: --url {url}/v2/models/MODEL") from error
    for what, specs, tensors in (
        ("input", manifest.inputs, found.inputs),
        ("output", manifest.outputs, found.outputs),
    ):
        there = {tensor.name: tensor for tensor in tensors}
        more = set(there) - {spec.name for spec in specs} if what == "input" else set()
        for spec in specs if tensors else ():
            wanted = _tensor(spec)
            given = there.get(spec.name)
            if given is None or more or not _same(wanted, given):
                takes = ", ".join(map(str, tensors))
                raise RemoteError(
                    f"{server.name} has another model: its {what}s are {takes}; the artifact's "
                    f"{what} is {wanted}"
                )
    return found


def _tensor(spec: TensorSpec) -> Tensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in spec.shape)
    return Tensor(spec.name, datatype_of(np.dtype(spec.dtype)), shape)


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        one.datatype == other.datatype
        and len(one.shape) == len(other.shape)
        and all(
            -1 in pair or pair[0] == pair[1] for pair in zip(one.shape, other.shape, strict=True)
        )
    )
