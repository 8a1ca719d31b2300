"""A whole run as the sections of a report, in the order of every renderer."""

from collections.abc import Iterator
from dataclasses import replace

from repr_bench.report.document import Section
from repr_bench.report.frontier import plotted
from repr_bench.report.sections.agreement import agreement_section
from repr_bench.report.sections.comparison import comparison_section
from repr_bench.report.sections.figures import figures_section, formulae_section
from repr_bench.report.sections.machine import environment_section
from repr_bench.report.sections.peers import peers_section
from repr_bench.report.sections.profiles import profiles_section
from repr_bench.report.sections.roofline import roofline_section
from repr_bench.report.sections.scenarios import scenarios_section
from repr_bench.report.sections.servers import servers_section
from repr_bench.results.peers import among
from repr_bench.results.results import Results


def sections(results: Results, *, page: bool = False) -> list[Section]:
    """What there is to say; with ``page``, what needs a plot or much room too."""
    return [found for found in _all(results, page=page) if page or not found.page_only]


def _all(results: Results, *, page: bool) -> Iterator[Section]:
    if page and not results.has_figures:  # the reasons alone
        yield replace(figures_section(results, page=page), tables=())
        yield environment_section(results)
        return
    scenarios = bool(results.scenarios or results.end_to_end)
    figures = bool(results.rows or results.others or not scenarios)
    if figures:
        yield figures_section(results, page=page)
    if results.comparison:
        yield comparison_section(results.comparison)
    if figures:
        if plotted(results.rows):
            yield Section("pareto", "Latency and accuracy", page_only=True)
        yield agreement_section(results)
    if results.roofline:
        yield roofline_section(results, results.roofline)
    if results.profiles:
        yield profiles_section(results)
    if scenarios:
        yield scenarios_section(results)
    if servers := among(results.peers, servers=True):
        yield servers_section(servers)
    if libraries := among(results.peers, servers=False):
        yield peers_section(libraries)
    if figures:
        yield Section("distributions", "Samples", page_only=True, folded=True)
        yield formulae_section(results)
    yield environment_section(results)
