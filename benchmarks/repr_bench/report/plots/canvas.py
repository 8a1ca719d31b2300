"""Plots as SVG for the page: figures, axes, names at points, and the text of the drawing.

Drawn by matplotlib with text left as text. Colours are placeholders that become CSS
variables, so that the same drawing serves a light and a dark page. All are about as wide as a
telephone, so that their text can be read there; what marks mean stands in a legend below.
"""

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

INK, FAINT, ACCENT, SECOND = "#010203", "#020304", "#030405", "#040506"
THIRD, FOURTH = "#050607", "#060708"
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    ACCENT: "accent",
    SECOND: "second",
    THIRD: "third",
    FOURTH: "fourth",
}
_PRECISIONS = {"fp32": ACCENT, "int8": SECOND, "fp16": THIRD, "bf16": FOURTH}
WIDTH, HEIGHT = 5.2, 3.4
"""Inches, of 72 CSS pixels each where a drawing is not scaled."""
_SVG_DPI = 72
"""What the SVG backend draws at, so that places in pixels are the same before and after."""
_LAYOUT = ConstrainedLayoutEngine()
"""Makes room for what stands outside the axes; a figure that had it would be drawn twice for it."""
_LABEL_POINTS = 10
_FARTHEST_LINES = 12
_GAP = 9.0
"""Pixels between a point and its name beside it."""
_LONGEST_NAME = 24
_STEP = 3.0
"""Pixels between the places of a line that a name must keep clear of."""

Mark = Literal["dot", "ring", "square", "diamond", "line", "dash", "dots", "whisker", "bar"]


class Key(NamedTuple):
    """What a mark of a drawing means; ``colour`` is a variable of the style sheet."""

    mark: Mark
    colour: str
    text: str


def key(mark: Mark, colour: str, text: str) -> Key:
    """The legend of what is drawn in one of the colours above."""
    return Key(mark, _VARIABLES[colour], text)


def colour_of(precision: str | None) -> str:
    """The colour of a precision in every drawing."""
    return _PRECISIONS.get(precision or "", ACCENT)


def precision_keys(precisions: Iterable[str | None], mark: Mark = "dot") -> list[Key]:
    """The legend of the precisions that are drawn, each once."""
    return [key(mark, colour_of(one), one) for one in dict.fromkeys(precisions) if one]


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, on which text is measured as the SVG backend will set it."""
    figure = Figure(figsize=(width, height), dpi=_SVG_DPI)
    FigureCanvasSVG(figure)
    return figure


def one_axes(
    size: tuple[float, float], across: str, up: str = "", *, log: str, grid: str = "both"
) -> tuple[Figure, Axes]:
    """A figure, in inches, with a single plot in it, logarithmic in each axis of ``log``."""
    figure = empty_figure(*size)
    axes = figure.subplots()
    dress(axes)
    axes.set(xlabel=across, ylabel=up, **{f"{axis}scale": "log" for axis in log})
    for axis in log:
        decimal_ticks(getattr(axes, f"{axis}axis"))
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.5, axis=grid)  # type: ignore[arg-type]
    return figure, axes


def dress(axes: Axes) -> None:
    """Lines at the left and below alone, small text, the page's colours."""
    axes.tick_params(which="both", colors=INK, labelsize=_LABEL_POINTS, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=10)


def decimal_ticks(axis: Axis, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Ticks of a logarithmic axis at ``steps`` of each decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def name_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    lines: Iterable[Sequence[tuple[float, float]]] = (),
) -> None:
    """Write each name near its point, where it covers no point, no name and none of ``lines``.

    Of such places it is the nearest. All points are kept clear, also those whose name is empty.
    """
    _LAYOUT.execute(figure)  # it must stand before places are compared
    axes.autoscale(enable=False)
    to_pixels = axes.transData.transform
    at = to_pixels(points)
    solid = _squares(at, 4)  # points, names and lines to names, which do not cross
    written = np.empty((0, 4))
    thin = np.concatenate(
        [np.empty((0, 4)), *(_squares(_places(to_pixels(line)), 1) for line in lines)]
    )
    for place, point, name in sorted(zip(at, points, names, strict=True), key=lambda p: -p[0][1]):
        if not name:
            continue
        text = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        boxes = _boxes(place, 0.6 * _LABEL_POINTS * len(text))
        inside = boxes[_within(boxes, axes.bbox)]
        chosen = min(  # the first that covers nothing, or what covers least
            inside if len(inside) else boxes[:1],
            key=lambda box: (
                _overlaps(box[None], written),  # two names in one place are no names
                _overlaps(np.concatenate((box[None], _leader(place, box))), solid)
                + _overlaps(box[None], thin),
            ),
        )
        leader = _leader(place, chosen)
        written = np.concatenate((written, chosen[None]))
        solid = np.concatenate((solid, chosen[None], leader))
        axes.annotate(
            text.replace("$", r"\$"),  # a dollar sign would begin a formula
            point,
            (chosen[0] - place[0], (chosen[1] + chosen[3]) / 2 - place[1]),
            textcoords="offset pixels",
            va="center",
            fontsize=_LABEL_POINTS,
            color=INK,
        )
        if len(leader):
            ends = axes.transData.inverted().transform((place, _nearest(place, chosen)))
            axes.plot(*ends.T, color=FAINT, linewidth=0.8, zorder=1)


Boxes = NDArray[np.float64]
"""``(n, 4)``, or one of them: left, lower, right and upper edge in pixels."""


def _boxes(place: NDArray[np.float64], width: float) -> Boxes:
    """Where a name may stand, the nearest first: beside its point, above and below, farther away."""
    sides = [side for gap in (1, 3, 6) for side in (gap * _GAP, -gap * _GAP - width)]
    near = [(up, dx) for up in (0, 0.6, -0.6) for dx in sides[:2]]
    near += [(up, -width / 2) for up in (1.1, -1.1)]
    far = [
        (sign * (line + 1.1), dx)
        for line in range(_FARTHEST_LINES)
        for sign in (1, -1)
        for dx in sides
    ]
    height = 1.3 * _LABEL_POINTS
    x, y = place
    return np.array(
        [
            (x + dx, y + (up - 0.5) * height, x + dx + width, y + (up + 0.5) * height)
            for up, dx in near + far
        ]
    )


def _within(boxes: Boxes, frame: Bbox) -> NDArray[np.bool_]:
    inside = (boxes[:, :2] >= frame.min) & (boxes[:, 2:] <= frame.max)
    return np.asarray(inside.all(1))


def _overlaps(some: Boxes, others: Boxes) -> int:
    """How many pairs of one and another overlap."""
    a, b = some[:, None], others[None]
    return int(((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1).sum())


def _leader(place: NDArray[np.float64], box: Boxes) -> Boxes:
    """What a line from a point to its name covers, less both ends; nothing if they are close."""
    line = np.array((place, _nearest(place, box)))
    if np.hypot(*(line[1] - line[0])) < 1.5 * _GAP:
        return np.empty((0, 4))
    places = _places(line)
    clear = places[np.hypot(*(places - place).T) > _GAP]
    return _squares(clear[:-1], 1)


def _nearest(place: NDArray[np.float64], box: Boxes) -> NDArray[np.float64]:
    return np.clip(place, box[:2], box[2:])


def _squares(places: NDArray[np.float64], half: float) -> Boxes:
    return np.concatenate((places - half, places + half), axis=1)


def _places(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places along a line ``(n, 2)`` in pixels, close enough that no name fits between two."""
    return np.concatenate(
        [
            np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / _STEP))
            for start, end in pairwise(line)
        ]
        or [line]
    )


def to_svg(figure: Figure, prefix: str, summary: str, description: str = "") -> str:
    """The figure as an element for a page: no addresses, ids of its own, colours by CSS.

    ``summary`` is read aloud; with a ``description`` it is the title, and that the details.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    style = {"svg.fonttype": "none", "font.family": ["sans-serif"], "svg.hashsalt": prefix}
    with mpl.rc_context(style):  # type: ignore[arg-type]
        _LAYOUT.execute(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    opening = f'<svg role="img" aria-label="{escape(summary)}"'
    if not description:
        return text.replace("<svg", opening, 1)
    start, rest = text.replace("<svg", f'{opening} aria-describedby="{prefix}-desc"', 1).split(
        ">", 1
    )
    words = f'<title>{escape(summary)}</title><desc id="{prefix}-desc">{escape(description)}</desc>'
    return f"{start}>{words}{rest}"
