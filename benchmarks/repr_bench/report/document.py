"""What a report says, once: sections of tables and notes, for the terminal, the page and Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["problem", "finding", "caution", "remark", "meaning"]
"""What a note is, the gravest first: why figures are missing, what they come to, what speaks
against trusting them, what else should be known, and how they are to be read."""
KINDS: tuple[Kind, ...] = ("problem", "finding", "caution", "remark", "meaning")
Tone = Literal["", "good", "bad", "warning", "heading"]
NOTHING = "-"


class Note(NamedTuple):
    """A sentence below, or above, the tables."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"Careful: {self.text}" if self.kind == "caution" else self.text


def notes(kind: Kind, sentences: Iterable[str]) -> tuple[Note, ...]:
    """A note of that kind for each sentence."""
    return tuple(Note(kind, text) for text in sentences)


@dataclass(frozen=True)
class Line:
    """A row of a table. ``below`` has what a page sets below each cell, small.

    ``share`` is a percentage that a page draws as a bar beside the first cell.
    """

    cells: tuple[str, ...]
    tone: Tone = ""
    below: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of texts; ``numeric`` columns are set to the right.

    ``spare`` columns leave a terminal too narrow for all, the largest first; where not even the
    rest fits, each line becomes a block. A ``plain`` one has no rules.
    """

    label: str
    titles: tuple[str, ...]
    rows: tuple[Line, ...]
    numeric: Collection[int]
    spare: Mapping[int, int] = field(default_factory=dict)
    plain: bool = False


def table(
    label: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[str] | Line],
    words: Collection[str],
    spare: Sequence[str] = (),
) -> Table:
    """A table whose columns are of numbers, but for those whose titles are among ``words``.

    On a terminal too narrow for all, ``spare`` columns leave in that order.
    """
    return Table(
        label,
        tuple(titles),
        tuple(row if isinstance(row, Line) else Line(tuple(row)) for row in rows),
        [index for index, title in enumerate(titles) if title not in words],
        {
            titles.index(title): len(spare) - rank
            for rank, title in enumerate(spare)
            if title in titles
        },
    )


@dataclass(frozen=True)
class Section:
    """One subject: ``text`` introduces it, ``parts`` are its subsections.

    ``name`` is its anchor on the page; ``facts`` are pairs of a name and a text. One that is
    ``page_only`` has plots, or says at length what a table has no room for; a ``folded`` one is
    opened by who wants to know.
    """

    name: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    notes: tuple[Note, ...] = ()
    parts: tuple[Section, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    page_only: bool = False
    folded: bool = False

    def all_notes(self) -> Iterator[Note]:
        """Its notes, and those of its parts."""
        yield from self.notes
        for part in self.parts:
            yield from part.all_notes()

    def said(self, *kinds: Kind) -> list[str]:
        """The notes of these kinds, in their order."""
        return [str(note) for note in self.notes if note.kind in kinds]
