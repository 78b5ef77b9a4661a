"""An audit in words: the headline, sentences, tables and lists that `evolog audit` prints and its page shows."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from events.gold import CEILING, GOLD, VERIFIER, DriftFlagged
from replay.audit.audit import Audit, AuditReport
from replay.audit.statistics.interval import Interval
from replay.audit.verdict import FamilyVerdict
from services.views.replayed import closing_lines

WORDS = frozenset({"lever", "accepted", "on", "perturbation", "answer", "part", "change"})
"""Columns that hold words and begin at the left; the others hold numbers."""
_FIRST_TO_GO = ("gap growth", "lever", "accepted")
FINAL_LOOK = -1
"""The number of the look at a finished run."""


class AuditTable(NamedTuple):
    """Rows of text under a title; `notes` are sentences below the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def headline(audit: Audit) -> str:
    """The state of the run, with the rule, the generation and the lever that decided it, and that of each family."""
    by = f" by {audit.rule}" if audit.rule else ""
    lever = {"": "", "both": ", by both levers"}.get(audit.lever, f", by the {audit.lever} lever")
    since = "" if audit.generation is None else f", from generation {audit.generation} on"
    families = "; ".join(map(_family, audit.families))
    return f"{audit.run}: {audit.state.upper()}{by}{since}{lever}: {families}"


def _family(verdict: FamilyVerdict) -> str:
    """A family's state, and why it is unknown, or what of it is."""
    reason = f" ({verdict.reason})" if verdict.state == "unknown" else ""
    unmeasured = f" (in part unknown: {verdict.unmeasured})" if verdict.unmeasured else ""
    return f"{verdict.family} {verdict.state}{reason}{unmeasured}"


def opening(report: AuditReport) -> list[str]:
    """The sentences below the headline."""
    audit = report.audit
    sentences = (audit.sentence, looks(report.flags), luck(audit), smallest(audit))
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


def luck(audit: Audit) -> str:
    """The score that the run stands on, with the difference to test and what luck alone would make of it."""
    if audit.luck is None:
        return "No candidate has been accepted yet, so there is no score to doubt."
    score, tried, items, expected, observed = audit.luck
    on_test = "" if observed is None else f" It is {observed:+.4f} above test."
    if tried < 2:
        chosen = "nothing was chosen among, so no luck in choosing is in it"
        return f"The score: dev {score:.4f} on {items} items: {chosen}.{on_test}"
    return (
        f"The score: dev {score:.4f}, of {tried} candidates on {items} items.{on_test} The best of {tried} that are "
        f"equally good is expected {expected:.4f} too high, by luck alone."
    )


def smallest(audit: Audit) -> str:
    """The smallest differences that these items could show; empty where that is not known."""
    sizes = {one.family: one.smallest for one in audit.families if one.smallest is not None and one.state != "unknown"}
    words = {"selection": "between dev and test", "misspecification": "between score and gold"}
    parts = [f"{sizes[family]:.3f} {words[family]}" for family in words if family in sizes]
    return f"Smallest difference that would be found 4 times in 5: {', '.join(parts)}." if parts else ""


def looks(flags: Sequence[DriftFlagged]) -> str:
    """When the auditor first raised a finding while the run went on; empty if it gave no verdict then."""
    if not flags:
        return ""
    first: dict[str, DriftFlagged] = {}
    for flag in flags:
        first.setdefault(flag.state, flag)
    verdicts = [
        f"{state} {_moment(first[state])} ({first[state].rule})"
        for state in ("attenuated", "suspect", "drift")
        if state in first
    ]
    quiet = " or ".join(state for state in ("green", "unknown") if state in first)
    return (
        f"The auditor looked {len(flags)} times as the run went: "
        f"{'first ' + ', '.join(verdicts) if verdicts else f'{quiet} each time'}."
    )


def drop(column: str, at: int) -> int:
    """When the column at this place is left out where there is no room, as `Column.drop`: the first never, of others
    what is said elsewhere first, and then the last.
    """
    return 99 - _FIRST_TO_GO.index(column) if at and column in _FIRST_TO_GO else at


def tables(audit: Audit) -> list[AuditTable]:
    """The tables that have rows."""
    makers = (
        generations,
        own_answers,
        gap_parts,
        extra_metrics,
        references,
        cross_play,
        additive,
        levers,
        perturbations,
        changes,
    )
    return [table for make in makers if (table := make(audit)).rows]


def generations(audit: Audit) -> AuditTable:
    """One row a candidate; with what each was made from, where that is not always what was accepted before it."""
    rows, branched = [], _branched(audit)
    for row in audit.rows:
        p_new, gold, growth = _value(row.p_new), _value(row.gold), signed(row.growth)
        accepted = "yes" if row.accepted else "kept" if row.kept else "no"
        parent = ["" if row.parent is None else str(row.parent)] if branched else []
        rows.append((str(row.generation), *parent, row.lever, accepted, f"{row.score:.4f}", p_new, gold, growth))
    notes = [
        "P_sel: dev, by which candidates are chosen. P_new: the same verifier on test. Q: gold on the same answers. "
        "Gap growth: P_new - Q less that of the start. 95 % intervals over items."
    ]
    columns = ("gen", *["from"] * branched, "lever", "accepted", "P_sel", "P_new", "Q", "gap growth")
    return AuditTable("Score and gold of each generation", columns, rows, notes)


def own_answers(audit: Audit) -> AuditTable:
    """One row for each candidate whose answers to dev gold has scored, accepted or not."""
    rows = [
        (str(row.generation), f"{row.score:.4f}", _value(row.dev_gold), signed(row.dev_gap))
        for row in audit.rows
        if row.dev_gold
    ]
    notes = [
        "Q_sel: gold on the very answers to dev that the loop was rewarded for. The gap is over those that both scored."
    ]
    return AuditTable("Gold of the loop's own answers", ("gen", "P_sel", "Q_sel", "P_sel - Q_sel"), rows, notes)


def _branched(audit: Audit) -> bool:
    """Whether a candidate was made from another than the one that was accepted last before it."""
    before = None
    for row in audit.rows:
        if row.parent not in (None, before):
            return True
        before = row.generation if row.accepted else before
    return False


def gap_parts(audit: Audit) -> AuditTable:
    """One row for each measured candidate: the gap with its parts."""
    rows = [
        (str(row.generation), *(signed(part) for part in (row.gap, row.selection, row.misspecification)))
        for row in audit.rows
        if row.p_new
    ]
    notes = [
        "Gap: P_sel - Q = selection (P_sel - P_new, luck and other items) + misspecification (P_new - Q), what did "
        "not run counting as 0."
    ]
    return AuditTable("The gap and its parts", ("gen", "gap", "selection", "misspecification"), rows, notes)


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
    """How much gold each lever's gains on the score bring."""
    rows, notes = [], []
    for lever, rate in sorted(audit.exchange.items()):
        rows.append((lever, signed(rate.kappa) or "-", _number(rate.expected)))
        notes += [f"{lever}: {rate.reason}." for _ in [0] if rate.reason]
    return AuditTable("Exchange rate of each lever", ("lever", "gold per score", "expected"), rows, notes)


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
    for one in audit.findings:
        # the table of levers shows exchange rates
        if one.raised or one.rule.startswith("exchange rate") or one.rule in unchecked:
            continue
        if one.sentence:
            yield f"{one.rule}: {one.sentence}"
        else:
            rest.append(one.rule)
    if rest:
        yield f"nothing found by {', '.join(rest)}"


def _moment(flag: DriftFlagged) -> str:
    return "at the end" if flag.look == FINAL_LOOK else f"at generation {flag.look}"


def _value(interval: Interval | None) -> str:
    if interval is None or interval.low >= interval.high:  # an interval of width 0 says nothing
        return "" if interval is None else f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def signed(interval: Interval | None) -> str:
    """A difference with its interval, as text; empty for none. An interval of width 0 says nothing, and is left out."""
    if interval is None:
        return ""
    value, low, high = (round(number, 3) + 0.0 for number in interval[:3])  # without the sign of a zero
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" if interval.low < interval.high else f"{value:+.3f}"


def _score(score: float) -> str:
    return f"{score:.3f}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}" if abs(number) < 1000 else f"{number:.1e}"
