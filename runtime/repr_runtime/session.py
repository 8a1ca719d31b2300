"""`load` an artifact and run it: checked inputs in, arrays or labelled predictions out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repr_runtime import errors
from repr_runtime.artifact.limits import Limits
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.base import Backend, Timings
from repr_runtime.backends.tensorrt.backend import TensorRTOptions
from repr_runtime.backends.tuning import Setting
from repr_runtime.cuda.arrays import DeviceArray, is_device_array, stand_in
from repr_runtime.inputs import InputChecker, all_finite, nonfinite_error, plain
from repr_runtime.loading import LoadOptions, Opened, open_backend
from repr_runtime.options import require_path, require_whole
from repr_runtime.predictions import Prediction, as_logits, predictions_of
from repr_runtime.preprocess import Images, preprocess
from repr_runtime.process.lifetime import closed, leak, register
from repr_runtime.self_test import SelfTestReport, cast, read_golden


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    instances: int | None = None,
    nonfinite: str = "error",
    options: TensorRTOptions | None = None,
    engine: str | os.PathLike[str] | None = None,
    trust: bool = False,
    tuned: str | Setting | None = None,
    batch: int | None = None,
    limits: Limits | None = None,
) -> Session:
    """Open the artifact in folder ``path`` and make it ready to run.

    ``device`` is ``"auto"`` (the best that works here; ``Session.choice`` says which and
    why), ``"tensorrt"`` (the artifact's engines), ``"cuda"``, ``"onnxruntime-tensorrt"`` or
    ``"cpu"`` (its graphs, through ONNX Runtime), or ``"openvino"`` (on the CPU, through OpenVINO,
    an extra): a device asked for by name and not there is an error. ``precision`` names one of the
    artifact's graphs. ``threads`` are the CPU threads of an instance (None: one a core, shared out
    to the instances; a batch of so little work that one alone is faster runs on the calling
    thread), and ``instances`` how many runs go on side by side, further ones wait (None: one, which
    all callers share; an engine's are ``options.contexts``). A run is never cut over instances.
    ``nonfinite`` is ``"error"`` (NaN or infinity in an input or output raises; arrays on a GPU are
    not looked at) or ``"allow"``. ``options`` say which GPU, and how engines are run on it.

    ``engine`` is an engine file to run instead of the artifact's own. An engine is executable
    code: one that the manifest does not list is refused, unless ``trust`` says that you know
    who made it.

    ``tuned`` is ``"latency"`` or ``"throughput"``: the settings that ``repr-bench --tune`` found
    for this graph on this CPU, with as many instances as it found. Where there are none, or they
    are another machine's, ``Session.choice`` says so, and the usual ones are used. A
    :class:`~repr_runtime.backends.tuning.Setting` of one's own will do, too. On a CPU ``"auto"``
    uses unasked what was tuned for latency, or for throughput with several ``instances``.
    ``batch`` is the batch size to be fastest at; others are run as well.

    ``limits`` bound what a graph may cost that a stranger made
    (:class:`~repr_runtime.artifact.limits.Limits`; None: the usual ones, which no real network
    meets). Engines are not held to them.

    An artifact that is replaced by a new export meanwhile is read again, so that it is one of
    the two. Raises :class:`OptionError` for an argument that none may be, :class:`ArtifactError`
    if the artifact is not whole, is altered, or has no such precision, and
    :class:`BackendError` if it cannot run here; :class:`LimitError` is one of these.
    """
    require_path(path=path)
    root = Path(path)
    asked = LoadOptions(
        device=device,
        precision=precision,
        threads=threads,
        instances=instances,
        nonfinite=nonfinite,
        tensorrt=TensorRTOptions() if options is None else options,
        engine=engine,
        trust=trust,
        tuned=tuned,
        batch=batch,
        limits=Limits() if limits is None else limits,
    )
    opened = open_backend(root, asked)
    try:
        return Session(root, opened, asked)
    except BaseException:
        opened.backend.close()
        raise


class Session:
    """A loaded artifact. Safe to use from any number of threads at once.

    The arrays that ``run`` returns belong to the caller; inputs are only read, and only
    until ``run`` returns. Made by :func:`load`; a context manager. ``graph`` is the path in the
    artifact of the graph that runs, or that the engine was built from.
    """

    def __init__(self, path: Path, opened: Opened, options: LoadOptions) -> None:
        manifest, backend = opened.manifest, opened.backend
        self.path = path
        self.manifest = manifest
        self.precision = options.precision
        self.choice = opened.choice
        self.nonfinite = options.nonfinite
        self.device = backend.device
        self.inputs = backend.inputs
        self.outputs = backend.outputs
        self.graph = opened.graph.path
        for what, listed, real in (
            ("inputs", manifest.inputs, backend.inputs),
            ("outputs", manifest.outputs, backend.outputs),
        ):
            if len(listed) != len(real) or not all(
                _agree(a, b, self.precision) for a, b in zip(listed, real, strict=True)
            ):
                raise errors.ArtifactError(
                    f"{path}: the graph's {what} are {', '.join(map(str, real))}, the manifest says "
                    f"{', '.join(map(str, listed))}; export it again"
                )
        self._backend: Backend | None = backend
        self._gone = "is closed; load it again"
        self._refuse_nonfinite = self.nonfinite == "error"
        self._on_gpu = backend.device != "cpu"
        images = manifest.preprocessing is not None
        self._checker = InputChecker(backend.inputs, self._refuse_nonfinite, images)
        self._output_names = tuple(spec.name for spec in backend.outputs)
        register(self, runs=True)

    @property
    def backend(self) -> Backend:
        """The backend underneath; raises :class:`SessionClosedError` after ``close``."""
        if self._backend is None:
            raise closed(errors.SessionClosedError(f"the session of {self.path} {self._gone}"))
        return self._backend

    @property
    def batch_size(self) -> int | None:
        """The batch size that the graph is fixed to; None if it takes any."""
        first = self.inputs[0].shape[0] if self.inputs[0].shape else None
        return first if isinstance(first, int) else None

    @property
    def inseparable(self) -> str:
        """As the manifest's: why requests must not be joined to a batch; "" where they may."""
        return self.manifest.inseparable

    @property
    def instances(self) -> int:
        """How many runs go on side by side at best."""
        return self.backend.instances

    def runnable_batch(self, count: int) -> int:
        """The batch size to run ``count`` samples at: more is padding, less cuts them up."""
        return self.batch_size or self.backend.chunk(count) or count

    def run(self, /, *arrays: Any, **named: Any) -> dict[str, NDArray[Any]]:
        """Run one batch: arrays in the order of ``inputs``, or by name, or one mapping of names.

        Returns a new array for each output, by name. On a GPU, CUDA arrays (torch, CuPy, all
        with DLPack or ``__cuda_array_interface__``) are taken as well, and then the outputs are
        :class:`~repr_runtime.cuda.arrays.DeviceArray`, complete and the caller's own; nothing
        goes through the host. Raises the subclass of :class:`InputError` that says what is
        wrong with an input, or :class:`NonFiniteOutputError`.
        """
        backend = self._backend or self.backend  # which says that it is closed
        if self._on_gpu and arrays and is_device_array(arrays[0]):
            return self._run_on_device(backend, arrays, named)
        try:
            feed = self._checker(arrays, named, leave_large=self._on_gpu)
        except errors.InputTypeError as error:
            return self._run_on_device(backend, arrays, named, error)
        run, beside = backend.run, self._checker.run_beside
        outputs = beside(run, feed) if self._on_gpu else run(feed)
        if self._refuse_nonfinite and not all(map(all_finite, outputs)):
            raise self._nonfinite(outputs)
        return dict(zip(self._output_names, outputs))  # noqa: B905  checked by __init__

    def _run_on_device(
        self,
        backend: Backend,
        arrays: tuple[Any, ...],
        named: Mapping[str, Any],
        refusal: errors.InputTypeError | None = None,
    ) -> dict[str, Any]:
        """What none but a backend on a GPU can run; raises ``refusal`` if nothing lies on one."""
        given = self._checker.bind(arrays, named)
        for name, value in given.items():
            if isinstance(value, np.ndarray):  # beside one that lies on the device
                given[name] = plain(f"input {name!r}", value)
        if refusal is not None and not any(map(is_device_array, given.values())):
            raise refusal

        def check(views: Mapping[str, Any]) -> None:
            for name, value in views.items():
                looked_at = self._refuse_nonfinite and isinstance(value, np.ndarray)
                if looked_at and not all_finite(value):
                    raise nonfinite_error(name, value)
            seen = {name: stand_in(value) for name, value in views.items()}
            self._checker.check_arrays(seen)
            self._checker.check_shapes(seen)

        outputs: list[DeviceArray] = backend.run_on_device(given, check)
        return dict(zip(self._output_names, outputs, strict=True))

    @property
    def timings(self) -> Timings | None:
        """Where the time of this thread's last run went, on the GPU.

        None unless an engine runs that was loaded with ``TensorRTOptions(timed=True)``.
        """
        return self.backend.timings

    def _nonfinite(self, outputs: list[NDArray[Any]]) -> errors.NonFiniteOutputError:
        pairs = zip(self._output_names, outputs, strict=True)
        broken = ", ".join(repr(name) for name, values in pairs if not all_finite(values))
        full = self.precision == "fp32"
        cause = "" if full else f": the {self.precision} graph overflows on them"
        way = "if it should," if full else "use another precision, or"
        return errors.NonFiniteOutputError(
            f"output {broken} holds NaN or infinity for finite inputs{cause}; {way} load with "
            f"nonfinite='allow'"
        )

    def preprocess(self, images: Images) -> NDArray[Any]:
        """uint8 RGB images of any size as the network's input (N, 3, H, W).

        float32, or float16 where the graph takes that.
        Raises :class:`ImageError`, and :class:`PreprocessingMissingError` if the artifact
        does not say how.
        """
        if self.manifest.preprocessing is None:
            raise errors.PreprocessingMissingError(
                f"{self.path} does not say how images become inputs; use run(), or export it again with "
                f"--mean and --std"
            )
        return cast(preprocess(images, self.manifest.preprocessing), self.inputs[0])

    def classify(self, images: Images, *, top: int = 5) -> list[Prediction]:
        """Label images: one (H, W, 3), a batch (N, H, W, 3) or a sequence, uint8 RGB, any size.

        Returns one :class:`Prediction` an image with the ``top`` most probable classes, those
        that :meth:`predictions` makes of the first output. Raises what :meth:`preprocess`,
        :meth:`run` and :meth:`predictions` raise, and :class:`ArtifactError` if that output is
        no logits (N, classes).
        """
        require_whole(1, top=top)
        inputs = self.preprocess(images)
        outputs = self.run_all({self.inputs[0].name: inputs})
        return self.label(outputs[self._output_names[0]], len(inputs), top)

    def label(self, output: NDArray[Any], count: int, top: int) -> list[Prediction]:
        """:meth:`predictions` of the first output for ``count`` images, as the network gave it.

        Raises :class:`ArtifactError` if it is no logits (``count``, classes).
        """
        if output.ndim != 2 or len(output) != count or not output.shape[1]:
            rows = "N" if output.ndim != 2 else count
            raise errors.ArtifactError(
                f"output {self._output_names[0]!r} has shape {output.shape}, expected ({rows}, classes); "
                f"use run()"
            )
        return self.predictions(output, top=top)

    def predictions(self, logits: ArrayLike, *, top: int = 5) -> list[Prediction]:
        """What logits (N, classes) of the first output say, or (classes,) those of one sample.

        Returns one :class:`Prediction` a row with the ``top`` most probable classes.
        Probabilities are the soft-max of the row, in float64. Raises :class:`InputError` for
        what is no such array, and :class:`ArtifactError` if the labels are not as many as its
        classes.
        """
        require_whole(1, top=top)
        scores = as_logits(logits, self.outputs[0], top)
        classes = scores.shape[1]
        labels = self.manifest.labels
        if labels is not None and len(labels) != classes:
            raise errors.ArtifactError(
                f"{self.path} has {len(labels)} labels for {classes} classes; use run(), or export "
                f"it again with labels that fit"
            )
        return predictions_of(scores, labels, top, self._refuse_nonfinite)

    def self_test(self) -> SelfTestReport:
        """Run the golden samples and compare with what the original network said of them.

        Raises :class:`SelfTestError` if they differ by more than the export allowed, or
        :class:`ArtifactError` if the samples are missing, altered or another network's.
        """
        golden = read_golden(self.path, self.manifest, self.graph, self.inputs, self.outputs)
        try:
            actual = self.run(golden.inputs) if golden.whole else self.run_all(golden.inputs)
        except errors.InputError as error:
            raise errors.ArtifactError(
                f"the golden samples of {self.path} do not fit its graph ({error}); export it again"
            ) from error
        return golden.compare(actual, self.choice)

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``run`` on any number of samples, where only some batch sizes can be run too.

        ``inputs`` have the samples along their first axis. They are run at once where that can
        be, else in batches of :meth:`runnable_batch`, the last of which is filled up; the
        outputs of what it was filled with are cut off. Raises what :meth:`run` raises, and
        :class:`NotBatchableError` where samples must stay together.
        """
        feed = self._checker.bind((inputs,), {})
        for name, value in feed.items():
            if isinstance(value, np.ndarray):
                feed[name] = plain(f"input {name!r}", value)
        counts = {len(v) if isinstance(v, np.ndarray) and v.ndim else 0 for v in feed.values()}
        count = counts.pop()
        # What has not as many samples in each input is for run to take as it is, or to refuse.
        size = count if counts or not count else self.runnable_batch(count)
        if size == count:
            return self.run(feed)
        # What is wrong with all of them is so with the first, and found before any is run.
        self._checker.check_arrays(feed)
        first = np.zeros(size, np.intp)
        self._checker.check_shapes({name: values[first] for name, values in feed.items()})
        self._checker.check_sizes(feed)
        if self.inseparable:
            raise errors.NotBatchableError(
                f"{self.path} runs {size} samples at a time, and {count} cannot be cut up or filled up: "
                f"{self.inseparable}; use run() with whole batches"
            )
        parts = []
        for begin in range(0, count, size):
            # A last batch that is not full is filled up with its last sample.
            rows = np.minimum(np.arange(begin, begin + size), count - 1)
            parts.append(self.run({name: values[rows] for name, values in feed.items()}))
        return {
            name: np.concatenate([part[name] for part in parts])[:count]
            for name in self._output_names
        }

    def close(self) -> None:
        """Give back the model; the session cannot be used afterwards. Twice does no harm."""
        self.end()

    def end(self) -> Backend | None:
        """As ``close``, which an exit of the process calls; returns what was closed."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()
        return backend

    def forked(self, reason: str) -> None:
        """Called in a forked child: a session that cannot run there is closed, and says why."""
        if self._backend is not None and (reason := reason or self._backend.after_fork()):
            leak(self._backend)
            self._gone = f"cannot be used in this process: {reason}; load it after the fork"
            self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.manifest.name} {self.precision}: {self.choice}>"


def _agree(listed: TensorSpec, real: TensorSpec, precision: str) -> bool:
    """Whether two accounts of a tensor can both be true: a size that either leaves free fits any.

    The manifest speaks of the fp32 graph; an fp16 graph may take and give float16.
    """
    same_dtype = listed.dtype == real.dtype or (
        precision == "fp16" and (listed.dtype, real.dtype) == ("float32", "float16")
    )
    return (
        same_dtype
        and (listed.name, len(listed.shape)) == (real.name, len(real.shape))
        and all(
            a == b or isinstance(a, str) or isinstance(b, str)
            for a, b in zip(listed.shape, real.shape, strict=True)
        )
    )
