"""What every page has: one file with its style in it, a header of facts, sections that can be linked to."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

from sbs_opt._version import __version__
from sbs_opt.reports.html.svg import element


def frame(title: str, body: str, *, rules: Iterable[str] = (), script: str = "") -> str:
    """Return a page that needs no other file and no network: head, style and `body`.

    Parameters
    ----------
    title
        Plain text.
    body
        HTML of the main part.
    rules
        Style beyond that of every page.
    script
        A script element, or nothing.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{asset('report.css')}{' '.join(rules)}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>{body}</main>{script}</body></html>\n'


def section(name: str, content: str, anchor: str) -> str:
    """Return a section under a heading."""
    return element("section", element("h2", escape(name), id=anchor) + content, aria_labelledby=anchor)


def lead(words: str) -> str:
    """Return the first paragraph of a section, of plain text."""
    return element("p", escape(words), class_="lead")


def bullets(notes: Iterable[str]) -> str:
    """Return notes of plain text as a list."""
    return element("ul", "".join(element("li", escape(note)) for note in notes), class_="notes")


def header(kicker: str, title: str, facts: Iterable[tuple[str, str]]) -> str:
    """Return the header of a page; what wrote it is added to its facts."""
    rows = (*facts, ("Written by", f"sbs-opt {__version__}"))
    listed = "".join(element("div", element("dt", escape(k)) + element("dd", escape(v))) for k, v in rows)
    return element(
        "header",
        element("p", kicker, class_="kicker") + element("h1", escape(title)) + element("dl", listed, class_="facts"),
    )


def asset(name: str) -> str:
    """Return the text of a file beside this one."""
    return resources.files("sbs_opt.reports.html").joinpath(name).read_text(encoding="utf-8")
