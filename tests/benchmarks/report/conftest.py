"""One page with everything on it, rendered once: it takes seconds."""

from collections import Counter
from typing import Any, NamedTuple

import pytest
from matplotlib.figure import Figure
from page_results import everything

from repr_bench.report.html import render_page
from repr_bench.results import trials
from repr_bench.statistics.intervals import percentile_interval


class Rendered(NamedTuple):
    """The page, how often each interval was found for it, and how often each plot was drawn."""

    text: str
    intervals: Counter[str]
    drawings: Counter[int]


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    intervals: Counter[str] = Counter()
    figures: list[Figure] = []  # kept, so that no two have one id
    draw = Figure.draw

    def counted(rounds: Any, percent: int) -> Any:
        intervals[f"{percent} of {rounds!r}"] += 1
        return percentile_interval(rounds, percent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "percentile_interval", counted)
        patch.setattr(Figure, "draw", lambda one, on: (figures.append(one), draw(one, on)))
        text = render_page(everything())
    return Rendered(text, intervals, Counter(map(id, figures)))


@pytest.fixture(scope="session")
def page(rendered: Rendered) -> str:
    return rendered.text
