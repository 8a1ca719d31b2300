"""The document as Markdown: every table of the terminal, all columns and notes of it."""

from collections.abc import Iterable, Iterator

from repr_bench.report.document import KINDS, Section, Table
from repr_bench.report.sections.order import sections
from repr_bench.results.results import Results


def to_markdown(results: Results) -> str:
    """The tables of the terminal, all columns of them, each followed by its notes."""
    blocks = [
        block
        for section in sections(results)
        for block in _section(section, "" if section.name == "figures" else "###")
    ]
    return "\n\n".join(blocks) + "\n"


def _section(section: Section, heading: str) -> Iterator[str]:
    """Its blocks, which stand apart, below a ``heading``."""
    if heading:
        yield f"{heading} {_cell(section.title)}"
    if section.text:
        yield _cell(section.text)
    for table in section.tables:
        if len(section.tables) > 1:
            yield f"{heading}# {_cell(table.label)}"
        yield "\n".join(_table(table))
    for part in section.parts:
        yield from _section(part, heading + "#" if heading else "####")
    if section.notes:
        yield "\n".join(f"- {_cell(text)}" for text in section.said(*KINDS))


def _table(table: Table) -> Iterator[str]:
    yield _line(table.titles)
    yield _line("---:" if index in table.numeric else "---" for index in range(len(table.titles)))
    yield from (_line(line.cells) for line in table.rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """``text`` as it reads: what Markdown or HTML would take for its own is escaped."""
    plain = " ".join(text.split())
    for sign in ("\\", "|", "*", "_", "`", "<", "[", "]", "#"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain
