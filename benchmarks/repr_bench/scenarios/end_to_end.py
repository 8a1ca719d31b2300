"""From the bytes of a JPEG to a label, stage by stage, and the network alone beside it."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import UsageError
from repr_bench.measuring.measure import Call, Clock, Plan
from repr_bench.results.scenarios import StageRow
from repr_bench.results.trials import Windows
from repr_bench.scenarios.system import SystemUnderTest
from repr_runtime.predictions import softmax
from repr_runtime.preprocess import channels_first, normalise, resize_and_crop

if TYPE_CHECKING:
    from repr_models.data.images import Images
    from repr_runtime import Session
    from repr_runtime.artifact.manifest import PreprocessingInfo

QUALITY = 95
PHOTOGRAPH = (375, 500)
"""Height and width of a common photograph in ImageNet's validation set."""

SMALL_CROP = 64
"""Networks with a crop up to this are fed images as they are, larger ones photographs."""

PICTURES = 32
WARMUP_CALLS = 3

Stage = tuple[str, Callable[[Any], Any]]
"""A name, and what makes the next stage's input of its own."""


def encode_jpegs(
    images: Sequence[NDArray[np.uint8]], name: str, *, info: PreprocessingInfo
) -> tuple[list[bytes], str]:
    """``images``, each (H, W, 3), as JPEG files in memory, and the words that say what these are.

    Upscaled to the size of a photograph where the network's crop asks for more pixels than the
    images have, so that decoding and resizing cost what they do in a service.
    """
    from PIL import Image

    sizes = {image.shape[:2] for image in images}
    size = "{}×{}".format(*sizes.pop()) if len(sizes) == 1 else "of several sizes"
    what = f"{name} as JPEG of quality {QUALITY}, {size}"
    fewest = min(min(image.shape[:2]) for image in images)
    large = max(info.crop) > SMALL_CROP and fewest < max(info.crop)
    if large:
        what += " upscaled to {}×{}".format(*PHOTOGRAPH)
    found = []
    for pixels in images:
        image = Image.fromarray(pixels)
        if large:
            image = image.resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        found.append(stream.getvalue())
    kilobytes = round(np.mean([*map(len, found)]) / 1e3, 1)
    return found, f"{what}, {kilobytes:g} kB on average"


def stages_of(session: Session) -> tuple[Stage, ...]:
    """The way from a list of JPEG files to a (label, probability) for each, as `classify` goes it.

    decode (Pillow), resize (and the crop), normalise (uint8 to float32), copy (channels first,
    in the type of the graph), infer (``Session.run``; on a GPU with both transfers), softmax
    (and the label). Raises :class:`UsageError` if the network takes no images, or gives no
    logits.
    """
    info = session.manifest.preprocessing
    if info is None:
        raise UsageError("the artifact does not say how images become inputs")
    if len(session.inputs) != 1 or len(session.outputs[0].shape) != 2:
        raise UsageError("the network does not take one image and give logits")
    dtype = np.dtype(session.inputs[0].dtype)
    output = session.outputs[0].name
    labels = session.manifest.labels

    def copy(images: NDArray[np.float32]) -> NDArray[Any]:
        return channels_first(images).astype(dtype, copy=False)

    def infer(batch: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = session.run(batch)[output]
        return logits

    def soft_max(logits: NDArray[Any]) -> list[tuple[str, float]]:
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=1)
        return [
            (labels[index] if labels else str(index), float(row[index]))
            for row, index in zip(probabilities, best.tolist(), strict=True)
        ]

    return (
        ("decode", lambda files: [*map(decode_jpeg, files)]),
        ("resize", lambda images: np.stack([resize_and_crop(image, info) for image in images])),
        ("normalise", lambda images: normalise(images, info)),
        ("copy", copy),
        ("infer", infer),
        ("softmax", soft_max),
    )


def decode_jpeg(file: bytes) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 RGB of a JPEG file."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def measure_stages(
    stages: Sequence[Stage],
    inputs: Sequence[Any],
    bare: Call,
    plan: Plan,
    *,
    clock: Clock = time.perf_counter_ns,
    report: Callable[[float, float], None] = lambda _done, _total: None,
) -> tuple[tuple[Windows, ...], Windows, bool]:
    """Time each stage on ``inputs`` in turn, alternating with ``bare``, in the plan's rounds.

    Samples in ns, by round, for each stage, and for the network alone, and whether Ctrl-C ended
    it, which keeps what was measured. Half of the plan's seconds go to each of the two at best.
    """
    stages_ns = [list[tuple[int, ...]]() for _ in stages]
    bare_ns, interrupted = list[tuple[int, ...]](), False
    try:
        for number in range(WARMUP_CALLS):
            _through(stages, inputs[number % len(inputs)], clock)
            bare()
        call = 0
        for number in range(plan.rounds):
            calls: list[list[int]] = []
            bare_calls: list[int] = []
            spent = 0
            while spent < plan.slice_ns or len(bare_calls) < plan.slice_calls:
                moments = _through(stages, inputs[call % len(inputs)], clock)
                bare()
                after = clock()
                calls.append([b - a for a, b in itertools.pairwise(moments)])
                bare_calls.append(after - moments[-1])
                spent += after - moments[0]
                call += 1
            for rounds, samples in zip(stages_ns, zip(*calls, strict=True), strict=True):
                rounds.append(samples)
            bare_ns.append(tuple(bare_calls))
            report(number + 1, plan.rounds)
    except KeyboardInterrupt:
        interrupted = True
    return tuple(map(tuple, stages_ns)), tuple(bare_ns), interrupted


def _through(stages: Sequence[Stage], value: Any, clock: Clock) -> list[int]:
    """Moments before the first stage, and after each."""
    moments = [clock()]
    for _, stage in stages:
        value = stage(value)
        moments.append(clock())
    return moments


def measure_from_jpeg(system: SystemUnderTest, row: StageRow) -> StageRow:
    """``row`` with the way from JPEG to label, its batch at a time.

    Raises what :func:`stages_of` raises.
    """
    session, batch = system.session, row.batch or 1
    stages = stages_of(session)
    info = session.manifest.preprocessing
    assert info is not None, "or there were no stages"
    files, what = encode_jpegs(*_pictures(system.images), info=info)
    inputs = [
        [files[(begin + index) % len(files)] for index in range(batch)]
        for begin in range(0, len(files), batch)
    ]
    (_, decode), (_, resize), (_, normalise), (_, copy), (_, infer), _ = stages
    ready = copy(normalise(resize(decode(inputs[0]))))
    stages_ns, bare_ns, interrupted = measure_stages(
        stages,
        inputs,
        partial(infer, ready),
        system.request.plan,
        report=partial(system.listener.advance, f"{row.label} from JPEG, batch {batch}"),
    )
    row = replace(
        row,
        images=what,
        stages=tuple(name for name, _ in stages),
        stages_ns=stages_ns,
        bare_ns=bare_ns,
    )
    return row if interrupted else replace(row, status="measured", reason="")


def _pictures(images: Images | None) -> tuple[Sequence[NDArray[np.uint8]], str]:
    """A few images to encode: bundled ones where there are none of the network's own data."""
    if images is not None:
        return [*next(iter(images.batches(PICTURES))).images], "evaluation images"
    from repr_models.data.cifar10 import bundled_subset

    return [*bundled_subset().images[:PICTURES]], "bundled CIFAR-10 images"
