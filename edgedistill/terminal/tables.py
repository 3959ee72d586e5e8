"""How every table of the command line looks, and how a figure is written with its unit."""

from __future__ import annotations

from rich import box
from rich.table import Table


def table_of(title: str | None, *columns: str) -> Table:
    """An empty table; its first column is never broken."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    return table


def value_of(value: float, unit: str) -> str:
    """A figure with its unit, in three digits or as many as it has before the point."""
    if unit == "bytes":
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "times":
        return f"{value:.1f} ×"
    return f"{value:.3g} {unit}".strip() if value < 1000 else f"{value:,.0f} {unit}".strip()
