"""A finished run as one page for a paper's appendix, in HTML or Markdown: task, scores, pictures, levers, audit, cost,
digests, and how to replay it.

What a model, a task or another program wrote is escaped, and the page loads nothing from anywhere.
"""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from events.gold import GoldScored
from events.run import RunStarted
from replay.audit.audit import AuditReport
from replay.report import Report, cell_label, sort_cells
from services.host.visible import one_line, visible
from services.views import audit as audit_words
from services.views.audit import AuditTable
from services.views.audit_html import POLICY, STYLE, figure_html, table_html
from services.views.audit_pictures import Picture
from services.views.run import confinement, more_attempts, rollouts_spent, verdict_on_the_model

LEFT = audit_words.WORDS | {"what", "value", "change", "why", "verdict", "action"}
"""Columns that hold words."""
REPORT_STYLE = (
    STYLE
    + """
pre { overflow-x: auto; background: var(--soft); padding: .7rem 1rem; border-radius: .5rem; font-size: .85rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
td.words { white-space: normal; min-width: 6rem; overflow-wrap: anywhere }
p, li { overflow-wrap: anywhere } @media print { body { max-width: none; margin: 0 } figure { break-inside: avoid } }
"""
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#!|~$])")
_GENERATED = "This page was made from the run's log by `evolog report`."


class ReportSubject(NamedTuple):
    """What a page is made of."""

    report: Report
    started: RunStarted
    description: str
    """What the task is, in a sentence; empty where its folder is not read."""
    began: str
    """When the run began, RFC 3339 in UTC."""
    audit: AuditReport
    pictures: Sequence[Picture]
    version: str
    """Of evolog."""


class ReportSection(NamedTuple):
    """A part of the page: sentences, then tables, pictures, titled lists, and a block of commands."""

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[AuditTable] = ()
    pictures: Sequence[Picture] = ()
    lists: Sequence[tuple[str, Sequence[str]]] = ()
    commands: Sequence[str] = ()


def report_html(subject: ReportSubject) -> str:
    """The page in HTML, with its pictures inside."""
    title = f"evolog run {subject.report.run}"
    parts = [f'<h1 class="{subject.audit.audit.state}">{escape(title)}</h1>']
    for section in sections(subject):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
        parts += [_below(table_html(table, LEFT)) for table in section.tables]
        parts += [_below(figure_html(picture)) for picture in section.pictures]
        for heading, lines in section.lists:
            items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
            parts.append(f"<h3>{escape(heading)}</h3>\n<ul>\n{items}\n</ul>")
        if section.commands:
            parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    parts.append(f'<p class="note">{escape(_GENERATED)}</p>')
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{REPORT_STYLE}</style>"
    )
    body = "\n".join(parts)
    return visible(
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )


def report_markdown(subject: ReportSubject, pictures: str) -> str:
    """The page in Markdown; its pictures are files beside it, whose names begin with `pictures` and end with their own
    names and `.png`.
    """
    lines = [f"# evolog run {_md(subject.report.run)}", ""]
    for section in sections(subject):
        lines += [f"## {_md(section.title)}", ""]
        for sentence in section.sentences:
            lines += [_md(sentence), ""]
        for table in section.tables:
            lines += [f"### {_md(table.title)}", "", _md_row(table.columns)]
            lines.append(_row(["---" if column in LEFT else "---:" for column in table.columns]))
            lines += [*map(_md_row, table.rows), ""]
            for note in table.notes:
                lines += [_md(note), ""]
        for picture in section.pictures:
            lines += [f"### {_md(picture.title)}", "", f"![{_md(picture.alt)}]({pictures}{picture.name}.png)", ""]
        for heading, items in section.lists:
            lines += [f"### {_md(heading)}", "", *(f"- {_md(item)}" for item in items), ""]
        if section.commands:
            lines += ["```sh", *(one_line(command).replace("```", "'''") for command in section.commands), "```", ""]
    return visible("\n".join([*lines, _md(_GENERATED)])) + "\n"


def sections(subject: ReportSubject) -> list[ReportSection]:
    """The parts of the page, in order."""
    makers = (_task, _result, _generations, _pictures, _levers, _audit, _cost, _replay)
    return [make(subject) for make in makers]


def _task(subject: ReportSubject) -> ReportSection:
    report, started = subject.report, subject.started
    train = sum(map(len, started.items.folds))
    budget = ", ".join(f"{name} {getattr(started.budget, name):,}" for name in _limits(started)) or "no limit"
    search = started.strategy if started.width == 1 else f"{started.strategy}, {started.width} at once"
    rows = [
        ("task", Path(started.task).name),
        ("seed", str(started.seed)),
        ("items", f"{train:,} of train, {len(started.items.dev):,} of dev"),
        ("verifier", started.verifier),
        ("policy", started.policy),
        ("base model", f"SHA-256 {started.base_model}"),
        ("agent", started.agent),
        ("levers", f"{' and '.join(started.levers)}, chosen by {_chosen_by(started)}"),
        ("search", search),
        ("budget", budget),
        ("scaffolds", f"ran {confinement(report.sandbox)}"),
        ("began", subject.began),
        ("took", f"{report.seconds:,.0f} s"),
        ("ended", report.reason),
        ("evolog", subject.version),
    ]
    rows += [(f"split {name}", f"SHA-256 {digest}") for name, digest in sorted(started.splits.items())]
    rows += [("forked from", report.parent)] if report.parent else []
    rows += [("belongs to", report.owner)] if report.owner else []
    return ReportSection(
        "Task and settings",
        [subject.description] * bool(subject.description),
        [_grid("Settings", ("what", "value"), rows)],
    )


def _limits(started: RunStarted) -> list[str]:
    names = ("rollouts", "tokens", "micro_usd", "seconds")
    return [name for name in names if getattr(started.budget, name) is not None]


def _chosen_by(started: RunStarted) -> str:
    return "the agent" if started.schedule == "agent" else f"the schedule {started.schedule}"


def _result(subject: ReportSubject) -> ReportSection:
    report = subject.report
    if report.score is None:
        return ReportSection("Result", [f"No candidate was accepted: {report.reason}."])
    sentences = [f"The run ended with {report.score:.4f} on dev, by its own verifier."]
    cells: dict[str, dict[str, GoldScored]] = {}
    for cell in sort_cells(report.cells):
        cells.setdefault(cell.cell, {})[cell.split] = cell
    spent, rows = rollouts_spent(report), []
    for name, splits in cells.items():
        row = [cell_label(name, report)]
        for split in ("dev", "test"):
            scored = splits.get(split)
            row += [f"{scored.score:.4f}", f"[{scored.low:.4f}, {scored.high:.4f}]"] if scored else ["-", "-"]
        rows.append((*row, f"{spent[name]:,}" if name in spent else "-"))
    notes = ["Mean reward by the run's verifier, with 95 % intervals over items."]
    notes += [verdict_on_the_model(report), more_attempts(report)] if rows else []
    notes += [f"{cell_label(one.cell, report)} on {one.split}: {one.reason}" for one in report.cells_failed]
    columns = ("what", "dev", "dev 95 %", "test", "test 95 %", "rollouts")
    if not rows:
        sentences.append("The auditor has not scored its final table.")
    return ReportSection(
        "Result", sentences, [_grid("Final table", columns, rows, filter(None, notes))] if rows else []
    )


def _generations(subject: ReportSubject) -> ReportSection:
    rows = []
    for row in subject.report.generations:
        score = ("", "") if row.score is None else (f"{row.score:.4f}", f"[{row.low:.4f}, {row.high:.4f}]")
        parents = "+".join(map(str, row.parents))
        verdict = row.standing if row.accepted else f"{row.standing}: {row.verdict}" if row.verdict else row.standing
        rows.append((str(row.generation), parents, row.lever, row.change, row.reason, *score, verdict))
    columns = ("gen", "from", "lever", "change", "why", "dev", "dev 95 %", "verdict")
    notes = ["dev: mean reward by the run's verifier on the items by which candidates are chosen."]
    return ReportSection("Generations", (), [_grid("Each change", columns, rows, notes)])


def _pictures(subject: ReportSubject) -> ReportSection:
    return ReportSection("Pictures", (), (), subject.pictures)


def _levers(subject: ReportSubject) -> ReportSection:
    report = subject.report
    scores = {row.generation: row.score for row in report.generations}
    rows = []
    for lever in dict.fromkeys(row.lever for row in report.generations):
        own = [row for row in report.generations if row.lever == lever]
        gains = [
            row.score - before
            for row in own
            if row.accepted
            and row.score is not None
            and row.parents
            and (before := scores.get(row.parents[0])) is not None
        ]
        accepted = sum(row.accepted for row in own)
        cost = (f"{sum(row.rollouts for row in own):,}", f"{sum(row.seconds for row in own):,.0f}")
        rows.append((lever, str(len(own)), str(accepted), f"{sum(gains):+.4f}" if gains else "", *cost))
    columns = ("lever", "tried", "accepted", "gain on dev", "rollouts", "seconds")
    note = "Gain: the dev score of each accepted candidate less that of its parent, summed up."
    return ReportSection("Levers", (), [_grid("What each lever did", columns, rows, [note])])


def _audit(subject: ReportSubject) -> ReportSection:
    report = subject.audit
    sentences = [audit_words.headline(report.audit), *audit_words.opening(report)]
    lists = [
        (heading.removesuffix(":"), lines)
        for heading, lines in audit_words.closing(report)
        if not heading.startswith("What was audited")
    ]
    return ReportSection("Audit", sentences, audit_words.tables(report.audit), lists=lists)


def _cost(subject: ReportSubject) -> ReportSection:
    report = subject.report
    rows = [
        (
            str(row.generation),
            row.lever,
            f"{row.rollouts:,}",
            f"{row.failed:,}",
            f"{row.tokens:,}",
            f"{row.micro_usd / 1e6:.4f}",
            f"{row.seconds:,.1f}",
        )
        for row in report.generations
    ]
    audit = sum(cell.rollouts for cell in report.cells)
    sentence = (
        f"{report.rollouts:,} rollouts, {report.tokens:,} tokens, ${report.micro_usd / 1e6:.2f} and "
        f"{report.seconds:,.0f} s in all; the auditor's table took {audit:,} rollouts more."
    )
    columns = ("gen", "lever", "rollouts", "failed", "tokens", "US dollars", "seconds")
    return ReportSection("Cost", [sentence], [_grid("Cost of each generation", columns, rows)])


def _replay(subject: ReportSubject) -> ReportSection:
    report, closing = subject.report, subject.report.closing
    sentences = ["The run is decided again from its log, byte for byte, by any host that has it."]
    lists, expect = [], ""
    if closing:
        digests = [f"EVOLOG: {closing.log} ({closing.events:,} events, to sequence {closing.sequence})"]
        lists = [("Digests that close the run", [*digests, f"GOLD: {closing.gold}"])]
        expect = f" --expect {closing.log}"
    commands = [
        f"evolog export {report.run} --output exported  # where it was run",
        f"evolog replay ./exported{expect}  # anywhere",
        "evolog audit ./exported",
        "evolog export ./exported --to inspect  # its attempts, for inspect view",
    ]
    return ReportSection("Replay", sentences, lists=lists, commands=commands)


def _grid(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: "Sequence[str] | filter[str]" = ()
) -> AuditTable:
    return AuditTable(title, columns, rows, list(notes))


def _below(text: str) -> str:
    """A part of an audit's page, whose heading stands below a section's here."""
    return text.replace("<h2>", "<h3>").replace("</h2>", "</h3>")


def _md(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def _md_row(cells: Sequence[str]) -> str:
    return _row([_md(cell) for cell in cells])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
