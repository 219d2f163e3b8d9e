"""`report.html`: one page that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from trpo_cli.report.content import Content
from trpo_cli.report.figures import embed
from trpo_cli.report.tables import format_cell

FEW = 6  # notices that stand at the top
TEMPLATE = "page.html"
GENERATOR = '<meta name="generator" content="trpo-report">'


def render_page(content: Content, made: str) -> str:
    """The page as text; `made` says of what, and when. What came from a run is escaped: it could be a stranger's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(content=content, made=made, few=FEW, format_cell=format_cell, embed=embed)
