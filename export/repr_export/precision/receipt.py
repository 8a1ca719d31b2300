"""Receipts of a lower precision: what a graph computes in, and what that costs in accuracy."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import PrecisionError
from repr_export.graph.multiply_adds import NodeMultiplyAdds, UncountableError, count_multiply_adds
from repr_export.graph.values import is_op, node_name
from repr_runtime.proportion import wilson_interval

MINIMUM_SHARE = 0.9
"""The share of multiply-adds that must be in the precision asked for."""

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_QUANTIZED = {
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
}
_LISTED = 100  # flips that a manifest holds
_NAMED = 5  # nodes that a message names


@dataclass(frozen=True)
class NodePrecision:
    """The precision in which one node multiplies, and its multiply-adds for one sample."""

    node: str
    op: str
    precision: str
    multiply_adds: int


@dataclass(frozen=True)
class PrecisionReceipt:
    """The precision of every multiply-add of a graph, node by node in the graph's order.

    ``uncounted`` says why there are none, where the graph does not say how many it takes.
    """

    nodes: tuple[NodePrecision, ...]
    uncounted: str = ""

    @property
    def total(self) -> int:
        """Multiply-adds for one sample."""
        return sum(node.multiply_adds for node in self.nodes)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the multiply-adds in each precision, the largest first; empty without any.

        Such as ``{"fp16": 0.98, "fp32": 0.02}``.
        """
        counts: Counter[str] = Counter()
        for node in self.nodes:
            counts[node.precision] += node.multiply_adds
        return {name: count / self.total for name, count in counts.most_common() if self.total}

    def __str__(self) -> str:
        if self.uncounted:
            return "multiply-adds not counted"
        parts = (f"{share:.1%} {name}" for name, share in self.shares.items())
        return f"multiply-adds {', '.join(parts) or 'none'}"

    def as_dict(self) -> dict[str, Any]:
        """The receipt as plain data that JSON can hold."""
        return {
            "multiply_adds": self.total,
            "shares": self.shares,
            "uncounted": self.uncounted,
            "nodes": [asdict(node) for node in self.nodes],
        }


def read_precision(model: ir.Model) -> PrecisionReceipt:
    """Read from the graph in which precision each Conv, ConvTranspose, Gemm and MatMul multiplies.

    That is the type of its operands; where both come from DequantizeLinear, the type which
    they were quantized to (``int8`` for int8 and uint8), since that is what a backend makes one
    integer kernel of. A weight alone that is quantized saves memory, not multiply-adds.
    What cannot be counted, as in a graph with free dimensions behind the batch, is left open.
    """
    try:
        counted = count_multiply_adds(model)
    except UncountableError as error:
        return PrecisionReceipt((), str(error))
    return PrecisionReceipt(
        tuple(
            NodePrecision(node_name(row.node), row.node.op_type, _precision(row), row.count)
            for row in counted
        )
    )


def _precision(share: NodeMultiplyAdds) -> str:
    data, weight = (_quantized(value) for value in share.node.inputs[:2])
    if data is not None and weight is not None:
        return data if data == weight else f"{data}/{weight}"
    return _SHORT.get(share.weight_dtype, share.weight_dtype)


def _quantized(value: ir.Value | None) -> str | None:
    """The type behind the DequantizeLinear that ``value`` comes from, None if from none."""
    producer = value.producer() if value is not None else None
    if producer is None or not is_op(producer, "DequantizeLinear"):
        return None
    zero_point = producer.inputs[2] if len(producer.inputs) > 2 else None
    for source in (producer.inputs[0], zero_point):
        dtype = source.dtype if source is not None else None
        if dtype is not None:
            return _QUANTIZED.get(dtype, dtype.name.lower())
    return "int8"  # QuantizeLinear without a zero point gives uint8


def require_precision(receipt: PrecisionReceipt, precision: str) -> None:
    """Raise :class:`PrecisionError` unless :data:`MINIMUM_SHARE` of them are in ``precision``.

    The message names the nodes that are not, those with the most multiply-adds first. A graph
    without multiply-adds is in no precision.
    """
    got = receipt.shares.get(precision, 0.0)
    if got >= MINIMUM_SHARE or receipt.uncounted:
        return
    if not receipt.total:
        raise PrecisionError(
            f"{precision} was asked for, and the graph has no multiply-adds to do in it; "
            f"leave --{precision} out"
        )
    others = [node for node in receipt.nodes if node.precision != precision]
    others.sort(key=lambda node: -node.multiply_adds)
    names = [
        f"{node.op} '{node.node}' ({node.precision}, {node.multiply_adds / receipt.total:.1%})"
        for node in others[:_NAMED]
    ]
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    raise PrecisionError(
        f"{precision} was asked for, but {got:.1%} of the multiply-adds came out in it, at least "
        f"{MINIMUM_SHARE:.0%} must; not in it: {', '.join(names)}{more}; leave --{precision} out"
    )


@dataclass(frozen=True)
class Flip:
    """An image whose top class changed.

    ``label`` is the right class, where it is known; ``margin`` is what the first of the two
    largest logits of the fp32 network is above the second: near 0, it was undecided before.
    """

    index: int
    label: int | None
    before: int
    after: int
    margin: float


@dataclass(frozen=True)
class AccuracyReceipt:
    """Top-1 of a graph beside that of the fp32 torch network, image by image on the same images.

    ``hits`` and ``reference_hits`` count the right ones, None where the labels are not known.
    ``flips`` are all images on which the two disagree, the widest margin first.
    """

    precision: str
    description: str
    images: int
    hits: int | None
    reference_hits: int | None
    max_abs: float
    flips: tuple[Flip, ...]

    @property
    def drop(self) -> float:
        """What was lost in top-1, in percentage points; negative for a gain.

        Without labels the share of flipped images, which the loss cannot exceed.
        """
        if self.hits is None or self.reference_hits is None:
            return 100 * len(self.flips) / self.images
        return 100 * (self.reference_hits - self.hits) / self.images

    def __str__(self) -> str:
        widest = f", the widest margin {self.flips[0].margin:.3g}" if self.flips else ""
        flips = f"{len(self.flips)} of {self.images:,} images flipped{widest}"
        if self.hits is None or self.reference_hits is None:
            return f"{self.precision}: {flips} ({self.description})"
        return (
            f"{self.precision}: top-1 {self.hits / self.images:.2%}, fp32 torch "
            f"{self.reference_hits / self.images:.2%}; {flips} ({self.description})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The receipt as plain data that JSON can hold, with the 100 flips of widest margin."""
        hits, theirs = self.hits, self.reference_hits
        known = hits is not None and theirs is not None
        return {
            **asdict(self),
            "top1": None if hits is None else hits / self.images,
            "top1_interval": None if hits is None else wilson_interval(hits, self.images),
            "reference_top1": None if theirs is None else theirs / self.images,
            "agreement": 1 - len(self.flips) / self.images,
            "drop_points": self.drop,
            "drop_is": "measured" if known else "an upper bound: the labels are not known",
            "flipped": len(self.flips),
            "flips": [asdict(flip) for flip in self.flips[:_LISTED]],
        }


def compare_accuracy(
    precision: str,
    logits: NDArray[Any],
    reference: NDArray[Any],
    labels: NDArray[np.integer[Any]] | None = None,
    *,
    description: str,
) -> AccuracyReceipt:
    """Compare ``logits`` (N, classes) with those of the fp32 torch network for the same images.

    ``labels`` (N,) are the right classes. The first of several equal largest logits wins.
    Raises :class:`PrecisionError` if ``logits`` are not all finite (an overflow), ValueError
    for shapes that do not fit or no images at all.
    """
    if logits.shape != reference.shape or logits.ndim != 2 or not logits.size:
        raise ValueError(
            f"expected two arrays (images, classes) of one shape, got {logits.shape} and "
            f"{reference.shape}"
        )
    if labels is not None and labels.shape != logits.shape[:1]:
        raise ValueError(f"expected one label an image, got {labels.shape} for {logits.shape}")
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    broken = ~np.isfinite(ours).all(axis=1)
    if broken.any():
        raise PrecisionError(
            f"the {precision} graph gives logits that are not finite for {int(broken.sum())} of "
            f"{len(ours)} images, the first being image {int(np.argmax(broken))}: a value "
            f"overflows; leave --{precision} out"
        )
    before, after = theirs.argmax(axis=1), ours.argmax(axis=1)
    top = np.sort(theirs, axis=1)[:, -2:]
    margins = top[:, -1] - top[:, 0]
    flips = [
        Flip(
            index,
            None if labels is None else int(labels[index]),
            *(int(before[index]), int(after[index]), float(margins[index])),
        )
        for index in np.flatnonzero(before != after).tolist()
    ]
    return AccuracyReceipt(
        precision,
        description,
        len(ours),
        int(np.count_nonzero(after == labels)) if labels is not None else None,
        int(np.count_nonzero(before == labels)) if labels is not None else None,
        float(np.abs(ours - theirs).max()),
        tuple(sorted(flips, key=lambda flip: (-flip.margin, flip.index))),
    )


def require_accuracy(receipt: AccuracyReceipt, max_drop: float) -> None:
    """Raise :class:`PrecisionError` if top-1 dropped by more than ``max_drop`` percentage points."""
    if receipt.drop <= max_drop:
        return
    at_most = "" if receipt.hits is not None else "up to "
    raise PrecisionError(
        f"{receipt.precision} loses {at_most}{receipt.drop:.2f} percentage points of top-1, allowed "
        f"are {max_drop:g}: {receipt}. Allow more with --max-drop, or keep more nodes in "
        "higher precision"
    )
