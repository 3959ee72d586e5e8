"""A page as plain Markdown: GitHub's tables, lined up so that they can be read in a terminal as well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgedistill.report.blocks import Cell, Page, Panel, Section, Table
from edgedistill.report.figures import SPACE

LONGEST_PADDED = 44
"""Cells are lined up to this width; a longer one stands out of its column, so that the others need not be as long."""
TONES = {"good": "✓ ", "bad": "✗ "}

_ANYWHERE = re.compile(r"[\\`\[\]|]|(?<!\w)[*_~]|[*_~](?!\w)|<|&(?=#?\w+;)")
_IN_FRONT = re.compile(r"^(?:>|=+$|-+$|[#+-]+(?=\s|$)|\d+(?=[.)](?:\s|$)))")
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def text(page: Page) -> str:
    """The same content as the page, for reading, sending and comparing as text."""
    return "\n".join(_lines(page)).rstrip() + "\n"


def escaped(words: str) -> str:
    """Words from outside as Markdown that shows them: no markup, no HTML, no line or column of their own."""
    flat = " ".join(words.replace(SPACE, " ").split())
    safe = _ANYWHERE.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), flat)
    return _IN_FRONT.sub(lambda found: f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}", safe)


def _lines(page: Page) -> Iterator[str]:
    yield from (f"# {escaped(page.name)} {escaped(page.about)}", "", f"**{escaped(page.verdict)}**", "")
    if page.standing:
        yield from (f"- {TONES.get(tone, '')}{escaped(said)}" for tone, said in page.standing)
        yield ""
    if page.place:
        yield from (_cell(page.place), "")
    if page.figures:
        cells = [(Cell(text=figure.title), figure.value) for figure in page.figures]
        yield from _table((Cell(text="What"), Cell(text="Figure", tone="figure")), cells)
    yield from (escaped(page.clock), "")
    for section in page.first:
        yield from _section(section)
    if page.panels:
        yield from ("## At a glance", "")
    for panel in page.panels:
        yield from _panel(panel)
    for section in page.sections:
        yield from _section(section)
    yield from ("---", "", f"{escaped(page.made)}.")


def _section(section: Section) -> Iterator[str]:
    yield from (f"## {escaped(section.title)}", "")
    for line in section.lines:
        yield from (escaped(line), "")
    for table in section.tables:
        yield from (f"**{escaped(table.title)}**", "")
        yield from _table(table.columns, table.rows)
        yield from _notes(table)
    if section.items:
        yield from (f"- {escaped(item)}" for item in section.items)
        yield ""


def _notes(table: Table) -> Iterator[str]:
    if table.note:
        yield from (escaped(table.note), "")
    if table.notes:
        yield from (f"- {escaped(note)}" for note in table.notes)
        yield ""


def _panel(panel: Panel) -> Iterator[str]:
    yield from (f"### {escaped(panel.title)}", "")
    if panel.plain:
        drawn = "\n".join(" ".join(line.replace("`", "'").splitlines()) for line in panel.plain)
        yield from ("```text", drawn, "```", "")
    if panel.words:
        yield from (f"- {escaped(part)}" for part in panel.words)
        yield ""
    yield from (escaped(panel.note), "")


def _table(columns: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    grid = [[_cell(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(min(len(row[place]), LONGEST_PADDED) for row in grid)) for place in range(len(columns))]
    right = [head.tone == "figure" for head in columns]
    for number, row in enumerate(grid):
        yield _row(row, widths, right)
        if number == 0:
            yield "| " + " | ".join("-" * (w - r) + ":" * r for w, r in zip(widths, right, strict=True)) + " |"
    yield ""


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        f"{cell:>{width}}" if figure else f"{cell:<{width}}"
        for cell, width, figure in zip(cells, widths, right, strict=True)
    )
    return "| " + " | ".join(padded) + " |"


def _cell(cell: Cell) -> str:
    said = TONES.get(cell.tone, "") + escaped(cell.text)
    said = ", ".join([said, *(f"*{escaped(mark)}*" for mark in cell.marks)])
    if cell.note:
        said += f" ({escaped(cell.note)})" if said else escaped(cell.note)
    return said + (" **unstable**" if cell.tone == "unstable" else "")
