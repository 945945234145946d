"""A report as data, and the same as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files

from msgspec import Struct


class Cells(Struct, frozen=True):
    """A table; the first column is text, the others are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Exhibit(Struct, frozen=True):
    """Something to look at: pictures (data URIs) and lines about them."""

    title: str
    pictures: tuple[str, ...]
    lines: tuple[str, ...]


class Section(Struct, frozen=True):
    """A part of a report under its own heading."""

    title: str
    text: tuple[str, ...] = ()
    table: Cells | None = None
    picture: str = ""
    """File name beside the report."""
    about: str = ""
    """What the picture shows, for those who do not see it."""
    exhibits: tuple[Exhibit, ...] = ()
    """On the page instead of the picture, which shows the same."""


def as_markdown(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The report as GitHub-flavoured Markdown, pictures by file name."""
    lines = [f"# {title}", "", *(f"- {line}" for line in lead)]
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        for text in section.text:
            lines += [text, ""]
        if section.table is not None:
            lines += _table(section.table)
        if section.picture:
            lines += ["", f"![{section.about}]({section.picture})"]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(table: Cells) -> list[str]:
    rows = [table.columns, *table.rows]
    written = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [written[0], "| --- |" + " ---: |" * (len(table.columns) - 1), *written[1:]]


def as_html(title: str, lead: Sequence[str], sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """The report as one page: no links, no scripts, pictures (PNG, by file name) inside; all text is escaped."""
    from jinja2 import Environment, StrictUndefined

    template = files("build_engines.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    inside = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template)
    return page.render(title=title, lead=lead, sections=sections, pictures=inside)
