"""What a page is made of: headings, lines and tables of plain text, and charts; the template only draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgedistill.types import Kind, NotMeasured

KINDS: tuple[Kind, ...] = ("measured", "emulated", "predicted")
MISSING = "not measured"

NAMES = {
    "latency": "Latency",
    "cold_start": "Cold start",
    "first_answer": "First answer",
    "throughput": "Throughput",
    "memory_model": "Memory for the model",
    "memory_process": "Memory of the process",
    "memory": "Memory",
    "size": "Size of the file",
    "model_size": "Size of the model",
    "answers_equal": "Answers equal to the host's",
    "tokens_equal": "Tokens equal up to where two answers part",
    "parts_at_token": "Token at which two answers part, counted from 0",
    "logits_apart_where_parted": "Logits by which the build machine preferred its token there",
    "memory_model_anonymous": "Memory for the model, anonymous",
    "memory_model_file": "Memory for the model, file-backed",
    "memory_model_swap": "Memory for the model, swapped out",
    "memory_peak": "Memory of the process at its peak",
    "load": "Load",
    "ram_bytes": "Memory of the device",
    "batch_rows": "Texts in a batch",
    "limit_s": "Limit, seconds",
    "energy": "Energy for one answer",
    "first_token": "Time to the first token",
    "prefill": "Tokens read a second",
    "decode": "Tokens written a second",
    "inter_token": "Time between two tokens",
    "kl": "KL divergence",
    "top1_agreement": "Same best label",
    "macro_f1": "Macro F1",
    "token_f1": "Token F1",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "cross_entropy": "Cross-entropy",
    "ce": "Cross-entropy",
    "kd": "Distance to the teacher's answers",
    "hidden": "Distance to its hidden states",
    "score": "Score on validation rows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: a figure or a few words, a smaller line under it, and how it should strike the eye.

    `marks` are words that are set off: in a head, the kind of every figure of the column.
    """

    text: str
    note: str = ""
    tone: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A captioned table.

    A column whose head has the tone "figure" is aligned to the right; one with the tone "kind" repeats what the title
    says, and gives way where there is little room. `notes` are what cells refer to by their number.
    """

    title: str
    columns: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page: lines of text first, then tables, then a list."""

    id: str
    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart, drawn when the page is written.

    Attributes:
        words: its content for those who do not see it.
        legend: pairs a color with what it stands for.
        plain: the chart drawn with letters, where words alone would not show its shape.
    """

    title: str
    drawings: tuple[Callable[[], str], ...]
    words: tuple[str, ...]
    note: str
    legend: tuple[tuple[str, str], ...] = ()
    plain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that is to be seen first: what it is, how much, and how sure that is."""

    title: str
    value: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The content of a page, whatever it is written as.

    Attributes:
        name: of what the page is about; `about` goes on from there.
        standing: short remarks under the verdict, each with a tone.
        clock: where the figures of the verdict come from.
        made: what made the page.
        figures: stand under the verdict, below the line `place`: where they were taken.
        first: sections that stand before the charts.
    """

    name: str
    about: str
    verdict: str
    standing: tuple[tuple[str, str], ...]
    clock: str
    made: str
    panels: tuple[Panel, ...]
    sections: tuple[Section, ...]
    first: tuple[Section, ...] = ()
    figures: tuple[Figure, ...] = ()
    place: Cell | None = None


def table(
    title: str,
    columns: str,
    *rows: tuple[str | Cell, ...],
    heads: tuple[Cell, ...] = (),
    note: str = "",
    notes: tuple[str, ...] = (),
) -> Table:
    """A table from plain strings.

    Args:
        title: the caption.
        columns: titles separated by "|"; those of figures end in "#", that of the kind in "!".
        rows: one cell a column, the first one names the row.
        heads: further columns, for titles that come from outside.
        note: a line under the table.
        notes: what cells refer to by their number.
    """
    names = [name.strip() for name in columns.split("|")]
    tones = {"#": "figure", "!": "kind"}
    fixed = tuple(Cell(text=name.rstrip("#!"), tone=tones.get(name[-1:], "")) for name in names)
    cells = tuple(tuple(Cell(text=cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Table(title=title, columns=fixed + heads, rows=cells, note=note, notes=notes)


def label(name: str) -> str:
    """The name of a metric, a measurement or a field as people write it."""
    text = name.replace("_", " ").strip()
    return NAMES.get(name, text[:1].upper() + text[1:])


def within(name: str) -> str:
    """The same in the middle of a sentence: names that are written with capitals keep them."""
    text = label(name)
    return text if any(letter.isupper() for letter in text[1:]) else text.lower()


def missing(found: NotMeasured) -> str:
    """Why a number is not there, and what would bring it."""
    return f"{MISSING}: {found.reason}" + (f"; {found.remedy}" if found.remedy else "")
