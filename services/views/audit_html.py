"""An audit as one HTML page that needs nothing beside it: verdict, pictures, tables and findings."""

import base64
from collections.abc import Sequence
from html import escape

from replay.audit.audit import Audit
from services.views import audit
from services.views.audit import Table
from services.views.audit_pictures import Picture

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --green: #15803d; --suspect: #b45309; --drift: #b91c1c }
@media (prefers-color-scheme: dark) { :root { --green: #4ade80; --suspect: #fbbf24; --drift: #f87171 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; border-left: .4rem solid; padding-left: .7rem; overflow-wrap: anywhere }
h1.green { color: var(--green) } h1.suspect { color: var(--suspect) } h1.drift { color: var(--drift) }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
figure { margin: 1rem 0 } img { width: 100%; height: auto; background: #fff; border-radius: .5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { background: var(--soft) } .words { text-align: left } .note { font-size: .85rem; opacity: .8 }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing from anywhere."""


def page(audit: Audit, opening: Sequence[str], closing: Sequence[tuple[str, Sequence[str]]], pictures: Sequence[Picture]) -> str:
    """The page, of the same sentences and tables as the terminal's."""
    title = audit.headline(audit)
    parts = [
        f'<h1 class="{audit.state}">{escape(title)}</h1>',
        *(f"<p>{escape(line)}</p>" for line in opening),
        *map(_figure, pictures),
        *map(_table, audit.tables(audit)),
        *(_list(what, lines) for what, lines in closing),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    image = f'<img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
    return f"<h2>{escape(picture.title)}</h2>\n<figure>{image}</figure>"


def _table(table: Table) -> str:
    kinds = [' class="words"' if column in audit.WORDS else "" for column in table.columns]
    head = "".join(f'<th scope="col"{kind}>{escape(column)}</th>' for column, kind in zip(table.columns, kinds, strict=True))
    rows = ["".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in table.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    notes = "\n".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    grid = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<h2>{escape(table.title)}</h2>\n<div class="wide">{grid}</div>\n{notes}'


def _list(what: str, lines: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(what.removesuffix(':'))}</h2>\n<ul>\n{items}\n</ul>"
