"""The document as a page: one file that needs no network, for screen, print and keyboard."""

from importlib import resources

import jinja2

from repr_bench.report.plots.drawn import drawn
from repr_bench.report.rows import AnyRow
from repr_bench.report.sections.order import sections
from repr_bench.results.results import Results


def render_page(results: Results) -> str:
    """The whole page as HTML text. All that comes from results is escaped."""
    folder = resources.files("repr_bench.report")
    rows: tuple[AnyRow, ...] = (*results.rows, *results.scenarios, *results.end_to_end)
    networks = len({row.label for row in rows})
    when = f"{results.started} to {results.finished}{', interrupted' * results.interrupted}"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(folder.joinpath("page.html.jinja").read_text("utf-8"))
    page = template.render(
        title=f"repr-bench: {networks} network{'s' if networks != 1 else ''}",
        when=f"{when} on {results.environment.cpu}",
        style=folder.joinpath("page.css").read_text("utf-8"),
        sections=sections(results, page=True),
        plots=drawn(results),
    )
    return f"{page}\n"
