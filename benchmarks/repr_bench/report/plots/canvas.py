"""Plots as SVG for the page: figures, axes, names at points, and the text of the drawing.

Drawn by matplotlib with text left as text. Colours are placeholders that become CSS
variables, so that the same drawing serves a light and a dark page.
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

INK, FAINT, ACCENT, SECOND = "#010203", "#020304", "#030405", "#040506"
_VARIABLES = {INK: "--ink", FAINT: "--faint", ACCENT: "--accent", SECOND: "--second"}
_SVG_DPI = 72
"""What the SVG backend draws at, so that places in pixels are the same before and after."""
_LAYOUT = ConstrainedLayoutEngine()
"""Makes room for what stands outside the axes; a figure that had it would be drawn twice for it."""
_LABEL_POINTS = 8
_FARTHEST_LINES = 16


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
    axes.tick_params(which="both", colors=INK, labelsize=8, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)


def decimal_ticks(axis: Axis, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Ticks of a logarithmic axis at ``steps`` of each decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def write(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any
) -> None:
    """Small text, so many points away from the place ``at``."""
    usual: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": INK}
    axes.annotate(text, at, offset, **(usual | style))


def name_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]
) -> None:
    """Write each name near its point: the nearest place where it covers no point and no name."""
    _LAYOUT.execute(figure)  # it must stand before places are compared
    at = axes.transData.transform(points)
    height = 1.3 * _LABEL_POINTS
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at]
    for (x, y), point, name in sorted(zip(at, points, names, strict=True), key=lambda p: -p[0][1]):
        width = 0.6 * _LABEL_POINTS * len(name)
        boxes = [
            Bbox.from_bounds(x + dx, y + (sign * (lines + 0.6) - 0.5) * height, width, height)
            for lines in range(_FARTHEST_LINES)
            for sign in (1, -1)
            for dx in (10.0, -10.0 - width)
        ]
        inside = (box for box in boxes if all(map(axes.bbox.contains, *box.get_points().T)))
        free = (box for box in inside if not any(map(box.fully_overlaps, taken)))
        box = next(free, boxes[0])
        taken.append(box)
        middle = (box.y0 + box.y1) / 2
        far = abs(middle - y) > height
        axes.annotate(
            name.replace("$", r"\$"),  # a dollar sign would begin a formula
            point,
            (box.x0 - x, middle - y),
            textcoords="offset pixels",
            va="center",
            fontsize=_LABEL_POINTS,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if far else None,
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
        text = text.replace(colour, f"var({variable})")
    opening = f'<svg role="img" aria-label="{escape(summary)}"'
    if not description:
        return text.replace("<svg", opening, 1)
    start, rest = text.replace("<svg", f'{opening} aria-describedby="{prefix}-desc"', 1).split(
        ">", 1
    )
    words = f'<title>{escape(summary)}</title><desc id="{prefix}-desc">{escape(description)}</desc>'
    return f"{start}>{words}{rest}"
