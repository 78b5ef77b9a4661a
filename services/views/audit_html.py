"""An audit as one self-contained HTML page: verdict, pictures, tables and findings."""

import base64
from collections.abc import Collection, Sequence
from html import escape

from replay.audit.audit import AuditReport
from services.host.visible import visible
from services.views import audit as words
from services.views.audit import AuditTable
from services.views.audit_pictures import Picture

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --green: #15803d; --suspect: #b45309; --drift: #b91c1c;
  --unknown: #1d4ed8; --attenuated: #0e7490 }
@media (prefers-color-scheme: dark) { :root { --green: #4ade80; --suspect: #fbbf24; --drift: #f87171;
  --unknown: #93c5fd; --attenuated: #67e8f9 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; border-left: .4rem solid; padding-left: .7rem; overflow-wrap: anywhere }
h1.green { color: var(--green) } h1.suspect { color: var(--suspect) } h1.drift { color: var(--drift) }
h1.unknown { color: var(--unknown) } h1.attenuated { color: var(--attenuated) }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
figure { margin: 1rem 0 } img { width: 100%; height: auto; background: #fff; border-radius: .5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { background: var(--soft) } .words { text-align: left } .note { font-size: .85rem; opacity: .8 }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing from anywhere."""


def page(report: AuditReport, pictures: Sequence[Picture]) -> str:
    """The page: the pictures, and the sentences and tables that the terminal shows."""
    audit = report.audit
    title = words.headline(audit)
    parts = [
        f'<h1 class="{audit.state}">{escape(title)}</h1>',
        *(f"<p>{escape(line)}</p>" for line in words.opening(report)),
        *map(figure_html, pictures),
        *map(table_html, words.tables(audit)),
        *(list_html(heading, lines) for heading, lines in words.closing(report)),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return visible(
        "<!doctype html>\n<html "
        f'lang="en"><head>{head}</head>\n<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n'
    )


def figure_html(picture: Picture) -> str:
    """A picture under its title, with its bytes inside."""
    data = base64.b64encode(picture.png).decode()
    image = f'<img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
    return f"<h2>{escape(picture.title)}</h2>\n<figure>{image}</figure>"


def table_html(table: AuditTable, left: Collection[str] = words.WORDS) -> str:
    """A table under its title, with its notes below; the columns in `left` begin at the left."""
    kinds = [' class="words"' if column in left else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>' for column, kind in zip(table.columns, kinds, strict=True)
    )
    rows = [
        "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in table.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    notes = "\n".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    grid = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<h2>{escape(table.title)}</h2>\n<div class="wide">{grid}</div>\n{notes}'


def list_html(heading: str, lines: Sequence[str]) -> str:
    """Lines as a list under a heading."""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(heading.removesuffix(':'))}</h2>\n<ul>\n{items}\n</ul>"
