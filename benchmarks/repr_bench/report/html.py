"""The document as a page: one file that needs no network, for screen, print and keyboard."""

from collections.abc import Iterable, Iterator
from importlib import resources

import jinja2

from repr_bench.report.dates import span
from repr_bench.report.document import Section
from repr_bench.report.headline import headline
from repr_bench.report.latency_bars import bar_keys, beside, panels
from repr_bench.report.plots.drawn import drawn
from repr_bench.report.sections.order import sections
from repr_bench.results.results import Results


def render_page(results: Results) -> str:
    """The whole page as HTML text. All that comes from results is escaped."""
    folder = resources.files("repr_bench.report")
    when = f"{span(results.started, results.finished)}{', interrupted' * results.interrupted}"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(folder.joinpath("page.html.jinja").read_text("utf-8"))
    found = sections(results, page=True)
    page = template.render(
        headline=headline(results),
        when=f"Measured {when}, on {results.environment.cpu}",
        style=folder.joinpath("page.css").read_text("utf-8"),
        sections=found,
        plots=drawn(results),
        panels=panels(results),
        bar_keys=bar_keys(results),
        beside=beside(results),
        asides=list(_asides(found)),
    )
    return f"{page}\n"


def _asides(found: Iterable[Section]) -> Iterator[tuple[str, str, str]]:
    """Every caution and remark, the gravest first, with the section that it is of."""
    pairs = [(section, note) for section in found for note in section.all_notes()]
    for kind in ("caution", "remark"):
        for section, note in pairs:
            if note.kind == kind:
                yield kind, section.title, note.text
