"""`report.html`: a page in a single file, which needs no other."""

from __future__ import annotations

from pathlib import Path

from trpo_cli.report.content import Content
from trpo_cli.report.figures import embed

FEW = 6  # notices at the top
TEMPLATE = "page.html"
GENERATOR = '<meta name="generator" content="trpo-report">'


def render_page(content: Content, made: str) -> str:
    """Return the page as text; `made` says from what and when.

    Text from runs is escaped, since a stranger may have written it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(content=content, made=made, few=FEW, embed=embed)
