"""The document on a terminal: its tables, and what one must know; plain in a pipe."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from repr_bench.report.document import KINDS, NOTHING, Note, Section, Table
from repr_bench.report.sections.figures import problems
from repr_bench.report.sections.order import sections
from repr_bench.results.results import Results

MOST_NOTES = 3
"""Below the tables of a section: the gravest, but every problem; all of them stand on the page."""
_TONES = {"": "", "bad": "red", "good": "green", "warning": "yellow", "heading": "bold"}


def print_report(
    results: Results, console: Console, *, saved: Path | None = None, page: Path | None = None
) -> None:
    """Print every table, the gravest notes below it, and where the rest is to be read.

    Of a run that measured nothing the reasons alone.
    ``saved`` is the JSON file that has these results, ``page`` the file with all notes, if any.
    """
    if not results.has_figures:
        for note in problems(results):
            _print_note(note, console)
        return
    left: dict[str, None] = {}
    more = 0
    for section in sections(results):
        if section.name != "figures":
            _line(console, f"\n{section.title}", "bold")
        more += print_section(section, console, left)
    rest = [f"No room for {', '.join(left)} (--json and a wider terminal have it)"] if left else []
    if more:
        tables = f"repr-bench --from {saved or 'FILE of --json'} --html PAGE, or --markdown -"
        rest.append(f"{more} more note{'s' * (more > 1)}: {page or tables}")
    if rest:
        _line(console, f"{'. '.join(rest)}.", "dim")


def print_section(section: Section, console: Console, left: dict[str, None]) -> int:
    """Print its tables and ``MOST_NOTES`` notes; how many more there are.

    ``left`` gets the titles of columns that found no room.
    """
    if section.text:
        _line(console, section.text, "")
    for table in section.tables:
        print_table(table, console, left)
    for part in section.parts:
        _line(console, part.title, "bold")
        print_section(part, console, left)
    grave = sorted(
        (note for note in section.notes if note.kind != "meaning"),
        key=lambda note: KINDS.index(note.kind),
    )
    told = max(MOST_NOTES, sum(note.kind == "problem" for note in grave))
    for note in grave[:told]:
        _print_note(note, console)
    return len(section.notes) - len(grave[:told])


def _print_note(note: Note, console: Console) -> None:
    # The reason of a row without figures stands whole; of a list of rows the beginning will do.
    whole = note.kind in ("problem", "finding") or not console.is_terminal
    style = "" if note.kind == "finding" else "yellow"
    text = Text(str(note), style=style)
    if whole:
        console.print(text, soft_wrap=not console.is_terminal)
    else:
        console.print(text, no_wrap=True, overflow="ellipsis", crop=False)


def print_table(table: Table, console: Console, left: dict[str, None]) -> None:
    """Print it; ``left`` gets the titles of columns that found no room."""
    shown, gone = _fitting(table, console)
    left.update(dict.fromkeys(table.titles[index] for index in gone))
    if shown:
        console.print(_rich(table, shown, plain=table.plain or not console.is_terminal))
        return
    for line in table.rows:
        _line(console, line.cells[0], "bold")
        for title, cell in zip(table.titles[1:], line.cells[1:], strict=True):
            if cell not in ("", NOTHING):
                _line(console, f"  {title}: {cell}", "")


def _fitting(table: Table, console: Console) -> tuple[list[int], list[int]]:
    """The columns that fit, none if too few do, and those that had to leave."""
    shown, gone = [*range(len(table.titles))], list[int]()
    while table.spare and not fits(table, console, shown):
        least = max(shown, key=lambda index: table.spare.get(index, 0))
        if not table.spare.get(least):
            return [], []
        shown.remove(least)
        gone.insert(0, least)
    return shown, gone


def fits(table: Table, console: Console, shown: Sequence[int] | None = None) -> bool:
    """Whether those columns of it, by default all, have room side by side; a pipe has any room."""
    if not console.is_terminal:
        return True
    shown = range(len(table.titles)) if shown is None else shown
    options = console.options.update(max_width=10_000)
    needed = Measurement.get(console, options, _rich(table, shown, plain=table.plain)).maximum
    return needed <= console.width


def _rich(table: Table, shown: Sequence[int], *, plain: bool) -> RichTable:
    found = RichTable(
        box=None if plain else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0) if plain else (0, 1),
        collapse_padding=not plain,
    )
    for index in shown:
        right = index in table.numeric
        found.add_column(
            # As Text, since names and paths are no markup.
            Text(table.titles[index]),
            justify="right" if right else "left",
            no_wrap=plain or right or bool(table.spare),
            overflow="fold",
        )
    for line in table.rows:
        found.add_row(*(Text(line.cells[index]) for index in shown), style=_TONES[line.tone])
    return found


def _line(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)
