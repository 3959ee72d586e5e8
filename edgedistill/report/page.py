"""A page as one HTML file that loads nothing: styles and charts are inside it, scripts there are none."""

from __future__ import annotations

from pathlib import Path

import jinja2

from edgedistill.report import canvas
from edgedistill.report.blocks import Page

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def html(page: Page) -> str:
    """The page as HTML; whatever comes from outside is shown as text and never run."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, colors=canvas.THEME)
