"""Pages for MLflow's artifact pane: one HTML file with its charts inside, nothing from a network."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# The policy makes sure that a browser asks nobody for anything, whatever a page comes to hold.
_HEAD = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    "<title>{title}</title><style>"
    "body{{font:14px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:72rem;color:#222}}"
    "h1{{font-size:1.35rem;margin:0 0 .5rem}}h2{{font-size:1.1rem;margin:2rem 0 .3rem}}"
    "table{{border-collapse:collapse;margin:.5rem 0}}"
    "td,th{{padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd;text-align:left;"
    "vertical-align:top}}td.n,th.n{{text-align:right;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}}.note{{color:#555;max-width:50rem}}.better{{color:#1a7f37;font-weight:600}}"
    ".worse{{color:#b42318;font-weight:600}}summary{{cursor:pointer;margin:.4rem 0}}"
    "svg{{max-width:100%;height:auto}}</style></head><body>"
)
_NUMBER = re.compile(r"^[+−-]?\d[\d\s.,%–()+−-]*(to [+-]?[\d.]+\))?$")
_VERDICTS = ("better", "worse")


def page(title: str, *parts: str) -> str:
    """Return a whole page under one heading."""
    head = _HEAD.format(title=escape(title))
    return f"{head}<h1>{escape(title)}</h1>{''.join(parts)}</body></html>"


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """Return a paragraph that explains."""
    return f"<p class='note'>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; numbers stand to the right, verdicts have a colour."""
    texts = [[str(v) for v in row] for row in rows]
    columns = [[row[i] for row in texts] for i in range(len(head))]
    numeric = [any(c) and all(not v or _NUMBER.match(v) for v in c) for c in columns]
    top = "".join(
        f"<th{' class=n' if n else ''}>{escape(h)}</th>" for h, n in zip(head, numeric, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in texts
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, numeric: bool) -> str:
    kind = "n" if numeric else text if text in _VERDICTS else ""
    return f"<td{f' class={kind}' if kind else ''}>{escape(text)}</td>"


def folded(title: str, content: str, *, open_: bool = False) -> str:
    """Return content that is unfolded by a click on its title."""
    return (
        f"<details{' open' if open_ else ''}><summary>{escape(title)}</summary>{content}</details>"
    )


def picture(figure: Figure, name: str) -> str:
    """Return a figure as SVG with real text; `name` keeps its inner names apart from others'."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r' id="([\w.]+_\d+)"', rf' id="{name}-\1"', text)
