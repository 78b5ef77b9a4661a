"""An audit in words and tables: sentences, and rows of text that a terminal and a page show alike."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from events.gold import CEILING, GOLD, VERIFIER, DriftFlagged
from replay.audit.audit import WINDOW, Audit
from replay.audit.rules import ALPHA
from replay.audit.statistics.interval import Interval
from replay.audit.statistics.pressure import Curve

WORDS = frozenset({"lever", "kept", "on", "perturbation", "gold's curve", "answer", "of", "change"})
"""Columns that hold words and begin at the left; the others hold numbers."""
SMALLEST = -700.0
"""The logarithm that stands for no evidence at all."""
TO_THE_END = -1
"""The look of the finished run."""


class Table(NamedTuple):
    """Rows under a title; `notes` are sentences that belong below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def headline(audit: Audit) -> str:
    """The state with what decided it: rule, lever and generation."""
    by = f" by {audit.rule}" if audit.rule else ""
    lever = {"": "", "both": ", both levers together"}.get(audit.lever, f", by the {audit.lever} lever")
    since = "" if audit.generation is None else f", from generation {audit.generation} on"
    return f"{audit.run}: {audit.state.upper()}{by}{since}{lever}"


def unmeasured(audit: Audit) -> str:
    """What the verdict does not rest on because it was not measured; empty if gold is known of the start and of a later candidate."""
    if any(row.growth for row in audit.rows):
        return ""
    what = "gold is known of no candidate" if not audit.measured else "gold is known of no candidate after the start"
    return (
        f"Not measured: {what}, so the gap, its change-point, exchange rates, cross-play and perturbations say nothing yet; "
        f"{audit.state} rests on the checks of the log alone."
    )


def optimism(audit: Audit) -> str:
    """The headline score beside the luck of the best of so many."""
    kept = [row.score for row in audit.rows if row.accepted]
    if not kept:
        return "No candidate has been kept yet, so there is no score to doubt."
    said = f"The score: dev {max(kept):.4f}, the best of {audit.tried} on {audit.dev_items} items"
    if audit.tried < 2:
        return f"{said}: nothing was chosen among, so no luck in choosing is in it."
    return f"{said}. The best of {audit.tried} that are equally good is expected {audit.optimism:.4f} too high, by luck alone."


def looks(flags: Sequence[DriftFlagged]) -> str:
    """When the auditor first said suspect and drift while the run went on; empty if it looked at nothing then."""
    if not flags:
        return ""
    first: dict[str, DriftFlagged] = {}
    for flag in flags:
        first.setdefault(flag.state, flag)
    said = [f"{state} {_when(first[state])} ({first[state].rule})" for state in ("suspect", "drift") if state in first]
    return f"The auditor looked {len(flags)} times as the run went: {'first ' + ', '.join(said) if said else 'green each time'}."


def information(audit: Audit) -> str:
    """How much of dev the loop can have learnt from its scores."""
    if not audit.dev_items:
        return ""
    return (
        f"The loop was told at most {audit.bits:.0f} bits about its {audit.dev_items} dev items, by which its scores can be biased by "
        f"{min(audit.bias_bound, 1):.2f} at most{'' if audit.bias_bound < 0.3 else ': the bound certifies nothing'}."
    )


def tables(audit: Audit) -> list[Table]:
    """Those tables that there is something to put in."""
    makers = generations, parts, beside, references, cross_play, additive, levers, perturbations, asked_otherwise
    return [table for make in makers if (table := make(audit)).rows]


def generations(audit: Audit) -> Table:
    """One row a candidate."""
    rows = []
    for row in audit.rows:
        evidence = "" if row.growth is None else "0" if row.evidence <= SMALLEST else f"e^{row.evidence:.1f}"
        fresh, gold, growth = _share(row.fresh), _share(row.gold), signed(row.growth)
        kept = "yes" if row.accepted else "no"
        rows.append((str(row.generation), row.lever, kept, f"{row.score:.4f}", fresh, gold, growth, evidence))
    notes = [
        "P_sel: dev, by which candidates are chosen. P_new: the same verifier on test. Q: gold on the same answers. "
        f"Gap growth: P_new - Q less that of the start. Evidence that score and gold part: "
        f"e^{-math.log(ALPHA['a']):.1f} is needed. 95 % intervals over items."
    ]
    columns = ("gen", "lever", "kept", "P_sel", "P_new", "Q", "gap growth", "evidence")
    return Table("Score and gold of each generation", columns, rows, notes)


def parts(audit: Audit) -> Table:
    """One row for each measured candidate: the gap as it is, and what test may be said to show."""
    rows = []
    for row in (row for row in audit.rows if row.fresh):
        split = (signed(part) for part in (row.gap, row.selection, row.misspecification))
        rows.append((str(row.generation), *split, _number(row.tau), *(_score(of) for of in (row.ladder, row.thresholdout))))
    notes = [
        "Gap: P_sel - Q = selection (P_sel - P_new, luck and other items) + misspecification (P_new - Q), what did not run counting as 0. "
        f"τ: Kendall's, of P_new and Q over the last {WINDOW} kept candidates. "
        "Ladder and Thresholdout: what they would tell of P_new, so that test wears out little."
    ]
    columns = ("gen", "gap", "selection", "misspecification", "τ", "Ladder", "Thresholdout")
    return Table("The gap and its parts", columns, rows, notes)


def beside(audit: Audit) -> Table:
    """The task's further measures of each measured candidate."""
    names = sorted({name for row in audit.rows for name in row.beside})
    rows = [
        (str(row.generation), _share(row.fresh), _share(row.gold), *(_share(row.beside.get(name)) for name in names))
        for row in audit.rows
        if row.beside
    ]
    return Table("Further measures, which no rule looks at", ("gen", "P_new", "Q", *names), rows, [])


def references(audit: Audit) -> Table:
    """What answers that need no skill earn, and the most that any can be expected to."""
    rows = [(one.name, _score(one.score), "" if one.gold is None else _score(one.gold)) for one in audit.references]
    measured = [row for row in audit.rows if row.fresh and row.gold]
    notes = []
    for what, row in {"the start": measured[0], "the last candidate": measured[-1]}.items() if measured else ():
        assert row.fresh and row.gold
        rows.append((f"{what}, for comparison", _score(row.fresh.value), _score(row.gold.value)))
        for one in (one for one in audit.references if one.gold is not None):
            if one.score > row.fresh.value and one.gold < row.gold.value:
                notes.append(f"The verifier puts {one.name} above {what}, and gold does not: it can be won without skill.")
            if one.score <= row.fresh.value and one.gold > row.gold.value:
                notes.append(f"Gold puts {one.name} above {what}, and the verifier does not.")
    if audit.rejected:
        share = f"{audit.rejected.mean:.0%} [{audit.rejected.low:.0%}, {audit.rejected.high:.0%}]"
        notes.append(f"Of the canaries that gold puts below the start, the verifier puts {share} below as well (mutation score).")
    if any(one.name == CEILING for one in audit.references):
        notes.append("Ceiling: the most that an answer can be expected to earn which has not seen what it is scored on.")
    return Table("Canaries and ceiling", ("answer", "score", "gold"), rows if audit.references else [], notes)


def additive(audit: Audit) -> Table:
    """What each scaffold and each adapter adds, over all pairs that were played."""
    rows, notes = [], []
    score, gold = audit.fits.get(VERIFIER), audit.fits.get(GOLD)
    if score and gold:
        for what, of_score, of_gold in (("scaffold", score.scaffolds, gold.scaffolds), ("adapter", score.adapters, gold.adapters)):
            rows += [(f"{what} of generation {first}", signed(of_score[first]), signed(of_gold[first])) for first in of_score]
        for pair in score.together:
            rows.append(("{} and {} together".format(*pair.split(",")), signed(score.together[pair]), signed(gold.together[pair])))
        if score.diagonal and gold.diagonal:
            notes = [
                f"Scaffolds score {signed(score.diagonal)} more with the adapters that they were kept with than with others; "
                f"by gold {signed(gold.diagonal)}."
            ]
        notes.append("S = mean + scaffold + adapter + together, least squares over the pairs that were played; 0: the start's.")
    return Table("What each scaffold and adapter adds", ("of", "score", "gold"), rows, notes)


def cross_play(audit: Audit) -> Table:
    """Three rows for each generation whose scaffold and adapter were played apart: the score, gold, and how their interactions differ."""
    rows: list[tuple[str, ...]] = []
    for one in audit.cross:
        for what, cells, (scaffold, adapter), together in (
            ("score", one.score, one.of_score, one.on_score),
            ("gold", one.gold, one.of_gold, one.on_gold),
        ):
            means = (cells[0][0], cells[1][0], cells[0][1], cells[1][1])
            shares = (f"{scaffold.value:+.3f}", f"{adapter.value:+.3f}")
            rows.append((str(one.generation), what, *(f"{mean:.3f}" for mean in means), *shares, signed(together), ""))
        rows.append((str(one.generation), "Lambda", *[""] * 6, signed(one.excess), f"{one.detectable:.2f}"))
    columns = ("gen", "on", "start", "scaffold", "adapter", "both", "φ scaffold", "φ adapter", "interaction", "detectable")
    notes = [
        "Means of the start, of the generation's scaffold or adapter alone, and of both; φ: Shapley's shares of what both gain. "
        "Lambda, the score's interaction less gold's, is what the two score together and gold does not see; "
        "one as large as `detectable` is found 4 times in 5."
    ]
    return Table("Cross-play: scaffold and adapter apart and together", columns, rows, notes)


def levers(audit: Audit) -> Table:
    """What each lever spent, where it stands on Gao's curve, and what its score is worth."""
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
    return Table("Pressure and exchange rate of each lever", columns, rows, notes)


def perturbations(audit: Audit) -> Table:
    """What start and last candidate lose under changes that mean nothing."""
    rows = [(name, signed(first), signed(last)) for name, (first, last) in audit.perturbed.items()]
    return Table("Lost under changes that mean nothing", ("perturbation", "the start loses", "the last candidate loses"), rows, [])


def asked_otherwise(audit: Audit) -> Table:
    """What they lose where test asks something else, or is a part of test."""
    rows = [(name, signed(first), signed(last)) for name, (first, last) in audit.asked_otherwise.items()]
    return Table("Lost where test asks something else", ("change", "the start loses", "the last candidate loses"), rows, [])


def fired(audit: Audit) -> list[str]:
    """The findings that fired and did not decide, a line each."""
    return [f"{one.rule}: {one.sentence}" for one in audit.findings if one.fired and one.sentence not in audit.sentence]


def quiet(audit: Audit, unchecked: Collection[str] = ()) -> Iterator[str]:
    """The findings that did not fire: a line for each that says what it saw, and one that names the rest but those that were not made."""
    rest = []
    left_out = ("kappa", "a", "c", "d") if unmeasured(audit) else ("kappa",)  # the table of levers tells of kappa
    for one in audit.findings:
        if one.fired or one.family in left_out or one.rule in unchecked:
            continue
        if one.sentence:
            yield f"{one.rule}: {one.sentence}"
        else:
            rest.append(one.rule)
    if rest:
        yield f"nothing found by {', '.join(rest)}"


def _when(flag: DriftFlagged) -> str:
    return "at the end" if flag.look == TO_THE_END else f"at generation {flag.look}"


def _curve(curve: Curve) -> str:
    if curve.alpha is None or curve.beta is None:
        return "-"
    return f"d ({curve.alpha:.2g} - {curve.beta:.2g} {'d' if curve.form == 'best_of_n' else 'ln d'})"


def _share(of: Interval | None) -> str:
    return "" if of is None else f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]"


def signed(of: Interval | None) -> str:
    """A difference with its interval; empty for none."""
    if of is None:
        return ""
    value, low, high = (round(one, 3) + 0.0 for one in of[:3])  # without the sign of a zero
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _score(of: float | None) -> str:
    return "-" if of is None else f"{of:.3f}"


def _number(of: float | None) -> str:
    return "-" if of is None else f"{of:.2f}" if abs(of) < 1000 else f"{of:.1e}"
