"""An audit in words: the headline, sentences, tables and lists that `evolog audit` prints and its page shows."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from events.gold import CEILING, GOLD, VERIFIER, DriftFlagged
from replay.audit.audit import Audit, AuditReport
from replay.audit.rows import LOWEST_EVIDENCE, TAU_WINDOW
from replay.audit.statistics.interval import Interval
from replay.audit.statistics.pressure import Curve
from replay.audit.verdict import ALPHA
from services.views.replayed import closing_lines

WORDS = frozenset({"lever", "accepted", "on", "perturbation", "gold's curve", "answer", "part", "change"})
"""Columns that hold words and begin at the left; the others hold numbers."""
FINAL_LOOK = -1
"""The number of the look at a finished run."""


class AuditTable(NamedTuple):
    """Rows of text under a title; `notes` are sentences below the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def headline(audit: Audit) -> str:
    """The state and what decided it: rule, lever and generation."""
    by = f" by {audit.rule}" if audit.rule else ""
    lever = {"": "", "both": ", both levers together"}.get(audit.lever, f", by the {audit.lever} lever")
    since = "" if audit.generation is None else f", from generation {audit.generation} on"
    return f"{audit.run}: {audit.state.upper()}{by}{since}{lever}"


def opening(report: AuditReport) -> list[str]:
    """The sentences below the headline."""
    audit = report.audit
    sentences = (audit.sentence, unmeasured(audit), looks(report.flags), optimism(audit))
    return [sentence for sentence in sentences if sentence]


def closing(report: AuditReport) -> list[tuple[str, list[str]]]:
    """Titles with the lines below them: findings that did not decide, checks without a finding, what could not be
    checked, and which run it was.
    """
    audit = report.audit
    parts = [
        ("Further findings:", further_findings(audit)),
        ("Checks without a finding:", list(without_finding(audit, report.unchecked))),
        ("Not checked:", list(report.notes)),
        ("What was audited:", closing_lines(audit.closing) if audit.closing else []),
    ]
    return [part for part in parts if part[1]]


def unmeasured(audit: Audit) -> str:
    """What the verdict does not rest on, for lack of gold scores; empty if the start and a later candidate have one."""
    if any(row.growth for row in audit.rows):
        return ""
    statement = (
        "gold is known of no candidate" if not audit.measured else "gold is known of no candidate after the start"
    )
    return (
        f"Not measured: {statement}, so the gap, its change-point, exchange rates, cross-play and perturbations say "
        "nothing yet; "
        f"{audit.state} rests on the checks of the log alone."
    )


def optimism(audit: Audit) -> str:
    """The highest accepted score, and by how much luck alone would raise the best of so many."""
    scores = [row.score for row in audit.rows if row.accepted]
    if not scores:
        return "No candidate has been accepted yet, so there is no score to doubt."
    statement = f"The score: dev {max(scores):.4f}, the best of {audit.tried} on {audit.dev_items} items"
    if audit.tried < 2:
        return f"{statement}: nothing was chosen among, so no luck in choosing is in it."
    return (
        f"{statement}. The best of {audit.tried} that are equally good is expected {audit.optimism:.4f} too high, "
        "by luck alone."
    )


def looks(flags: Sequence[DriftFlagged]) -> str:
    """When the auditor first said suspect and drift while the run went on; empty if it gave no verdict then."""
    if not flags:
        return ""
    first: dict[str, DriftFlagged] = {}
    for flag in flags:
        first.setdefault(flag.state, flag)
    verdicts = [
        f"{state} {_moment(first[state])} ({first[state].rule})" for state in ("suspect", "drift") if state in first
    ]
    return (
        f"The auditor looked {len(flags)} times as the run went: "
        f"{'first ' + ', '.join(verdicts) if verdicts else 'green each time'}."
    )


def tables(audit: Audit) -> list[AuditTable]:
    """The tables that have rows."""
    makers = generations, gap_parts, extra_metrics, references, cross_play, additive, levers, perturbations, changes
    return [table for make in makers if (table := make(audit)).rows]


def generations(audit: Audit) -> AuditTable:
    """One row a candidate; with what each was made from, where that is not always what was accepted before it."""
    rows, branched = [], _branched(audit)
    for row in audit.rows:
        evidence = "" if row.growth is None else "0" if row.evidence <= LOWEST_EVIDENCE else f"e^{row.evidence:.1f}"
        p_new, gold, growth = _value(row.p_new), _value(row.gold), signed(row.growth)
        accepted = "yes" if row.accepted else "kept" if row.kept else "no"
        parent = ["" if row.parent is None else str(row.parent)] if branched else []
        figures = (f"{row.score:.4f}", p_new, gold, growth, evidence)
        rows.append((str(row.generation), *parent, row.lever, accepted, *figures))
    notes = [
        "P_sel: dev, by which candidates are chosen. P_new: the same verifier on test. Q: gold on the same answers. "
        f"Gap growth: P_new - Q less that of the start. E-value: the evidence that score and gold part, of which "
        f"e^{-math.log(ALPHA['gap']):.1f} is needed. 95 % intervals over items."
    ]
    columns = ("gen", *["from"] * branched, "lever", "accepted", "P_sel", "P_new", "Q", "gap growth", "e-value")
    return AuditTable("Score and gold of each generation", columns, rows, notes)


def _branched(audit: Audit) -> bool:
    """Whether a candidate was made from another than the one that was accepted last before it."""
    before = None
    for row in audit.rows:
        if row.parent not in (None, before):
            return True
        before = row.generation if row.accepted else before
    return False


def gap_parts(audit: Audit) -> AuditTable:
    """One row for each measured candidate: the gap with its parts, and whether score and gold order
    candidates alike.
    """
    rows = []
    for row in (row for row in audit.rows if row.p_new):
        split = (signed(part) for part in (row.gap, row.selection, row.misspecification))
        rows.append((str(row.generation), *split, _number(row.tau)))
    notes = [
        "Gap: P_sel - Q = selection (P_sel - P_new, luck and other items) + misspecification (P_new - Q), what did "
        "not run counting as 0. "
        f"τ: Kendall's, of P_new and Q over the last {TAU_WINDOW} measured candidates."
    ]
    columns = ("gen", "gap", "selection", "misspecification", "τ")
    return AuditTable("The gap and its parts", columns, rows, notes)


def extra_metrics(audit: Audit) -> AuditTable:
    """The task's further measures of each measured candidate."""
    names = sorted({name for row in audit.rows for name in row.extra_metrics})
    rows = [
        (
            str(row.generation),
            _value(row.p_new),
            _value(row.gold),
            *(_value(row.extra_metrics.get(name)) for name in names),
        )
        for row in audit.rows
        if row.extra_metrics
    ]
    return AuditTable("Further measures, which no rule looks at", ("gen", "P_new", "Q", *names), rows, [])


def references(audit: Audit) -> AuditTable:
    """The scores of answers that need no skill, and the most that any answer can be expected to earn."""
    rows = [(one.name, _score(one.score), "" if one.gold is None else _score(one.gold)) for one in audit.references]
    measured = [row for row in audit.rows if row.p_new and row.gold]
    notes = []
    for label, row in {"the start": measured[0], "the last candidate": measured[-1]}.items() if measured else ():
        assert row.p_new and row.gold
        rows.append((f"{label}, for comparison", _score(row.p_new.value), _score(row.gold.value)))
        for one in audit.references:
            if one.gold is None:
                continue
            if one.score > row.p_new.value and one.gold < row.gold.value:
                notes.append(
                    f"The verifier puts {one.name} above {label}, and gold does not: it can be won without skill."
                )
            if one.score <= row.p_new.value and one.gold > row.gold.value:
                notes.append(f"Gold puts {one.name} above {label}, and the verifier does not.")
    if audit.rejected:
        share = f"{audit.rejected.mean:.0%} [{audit.rejected.low:.0%}, {audit.rejected.high:.0%}]"
        notes.append(
            f"Of the canaries that gold puts below the start, the verifier puts {share} below as well (mutation score)."
        )
    if any(one.name == CEILING for one in audit.references):
        notes.append(
            "Ceiling: the most that an answer can be expected to earn which has not seen what it is scored on."
        )
    return AuditTable("Canaries and ceiling", ("answer", "score", "gold"), rows if audit.references else [], notes)


def additive(audit: Audit) -> AuditTable:
    """What each scaffold and each adapter adds, over all pairs that were measured."""
    rows, notes = [], []
    score, gold = audit.fits.get(VERIFIER), audit.fits.get(GOLD)
    if score and gold:
        for part, on_score, on_gold in (
            ("scaffold", score.scaffolds, gold.scaffolds),
            ("adapter", score.adapters, gold.adapters),
        ):
            rows += [
                (f"{part} of generation {first}", signed(on_score[first]), signed(on_gold[first])) for first in on_score
            ]
        for pair in score.together:
            rows.append(
                (
                    "{} and {} together".format(*pair.split(",")),
                    signed(score.together[pair]),
                    signed(gold.together[pair]),
                )
            )
        if score.diagonal and gold.diagonal:
            notes = [
                f"Scaffolds score {signed(score.diagonal)} more with the adapters that they were accepted with than "
                "with others; "
                f"by gold {signed(gold.diagonal)}."
            ]
        notes.append(
            "S = mean + scaffold + adapter + together, least squares over the pairs that were measured; 0: the start's."
        )
    return AuditTable("What each scaffold and adapter adds", ("part", "score", "gold"), rows, notes)


def cross_play(audit: Audit) -> AuditTable:
    """Three rows for each generation whose scaffold and adapter were measured apart: score, gold, and how their
    interactions differ.
    """
    rows: list[tuple[str, ...]] = []
    for one in audit.cross:
        for measure, cells, (scaffold, adapter), together in (
            ("score", one.score, one.of_score, one.on_score),
            ("gold", one.gold, one.of_gold, one.on_gold),
        ):
            means = (cells[0][0], cells[1][0], cells[0][1], cells[1][1])
            shares = (f"{scaffold.value:+.3f}", f"{adapter.value:+.3f}")
            rows.append(
                (str(one.generation), measure, *(f"{mean:.3f}" for mean in means), *shares, signed(together), "")
            )
        rows.append((str(one.generation), "Lambda", *[""] * 6, signed(one.excess), f"{one.detectable:.2f}"))
    columns = (
        "gen",
        "on",
        "start",
        "scaffold",
        "adapter",
        "both",
        "φ scaffold",
        "φ adapter",
        "interaction",
        "detectable",
    )
    notes = [
        "Means of the start, of the generation's scaffold or adapter alone, and of both; φ: Shapley's shares of what "
        "both gain. "
        "Lambda, the score's interaction less gold's, is what the two score together and gold does not see; "
        "one as large as `detectable` would be found 4 times in 5."
    ]
    return AuditTable("Cross-play: scaffold and adapter apart and together", columns, rows, notes)


def levers(audit: Audit) -> AuditTable:
    """What each lever spent, where it stands on Gao's curve, and how much gold its gains on the score bring."""
    rows, notes = [], []
    for lever in sorted(audit.curves.keys() | audit.exchange.keys()):
        curve, rate = audit.curves.get(lever), audit.exchange.get(lever)
        spent = (f"{curve.now**2:.2f}", f"{curve.now:.2f}", _curve(curve)) if curve else ("-", "-", "-")
        peak = (_number(curve.peak), _number(curve.spent)) if curve else ("-", "-")
        kappa = signed(rate.kappa) if rate and rate.kappa else "-"
        rows.append((lever, *spent, *peak, kappa, _number(rate.expected) if rate else "-"))
        notes += [f"{lever}, curve: {curve.reason}." for _ in [0] if curve and curve.reason]
        notes += [f"{lever}, exchange rate: {rate.reason}." for _ in [0] if rate and rate.reason]
    columns = ("lever", "nats spent", "d = √nats", "gold's curve", "peak d*", "d / d*", "gold per score", "expected")
    return AuditTable("Pressure and exchange rate of each lever", columns, rows, notes)


def perturbations(audit: Audit) -> AuditTable:
    """What the start and the last candidate lose under changes that mean nothing."""
    rows = [(name, signed(first), signed(last)) for name, (first, last) in audit.perturbed.items()]
    return AuditTable(
        "Lost under changes that mean nothing",
        ("perturbation", "the start loses", "the last candidate loses"),
        rows,
        [],
    )


def changes(audit: Audit) -> AuditTable:
    """What they lose under changes after which test asks something else, and on parts of test."""
    rows = [(name, signed(first), signed(last)) for name, (first, last) in audit.changed.items()]
    return AuditTable(
        "Lost where test asks something else", ("change", "the start loses", "the last candidate loses"), rows, []
    )


def further_findings(audit: Audit) -> list[str]:
    """The raised findings that did not decide, a line each."""
    return [
        f"{one.rule}: {one.sentence}" for one in audit.findings if one.raised and one.sentence not in audit.sentence
    ]


def without_finding(audit: Audit, unchecked: Collection[str] = ()) -> Iterator[str]:
    """The checks that raised nothing: a line for each that says what it saw, and one that names the rest, except for
    `unchecked` rules.
    """
    rest = []
    # the table of levers shows exchange rates
    left_out = ("exchange_rate", "gap", "cross_play", "change_point") if unmeasured(audit) else ("exchange_rate",)
    for one in audit.findings:
        if one.raised or one.family in left_out or one.rule in unchecked:
            continue
        if one.sentence:
            yield f"{one.rule}: {one.sentence}"
        else:
            rest.append(one.rule)
    if rest:
        yield f"nothing found by {', '.join(rest)}"


def _moment(flag: DriftFlagged) -> str:
    return "at the end" if flag.look == FINAL_LOOK else f"at generation {flag.look}"


def _curve(curve: Curve) -> str:
    if curve.alpha is None or curve.beta is None:
        return "-"
    return f"d ({curve.alpha:.2g} - {curve.beta:.2g} {'d' if curve.form == 'best_of_n' else 'ln d'})"


def _value(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def signed(interval: Interval | None) -> str:
    """A difference with its interval, as text; empty for none."""
    if interval is None:
        return ""
    value, low, high = (round(number, 3) + 0.0 for number in interval[:3])  # without the sign of a zero
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _score(score: float) -> str:
    return f"{score:.3f}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}" if abs(number) < 1000 else f"{number:.1e}"
