"""Whether the score on dev, by which candidates are chosen, stands for the score on items that nobody chose by (family
selection).

    the start:  P_sel - P_new > 0; nothing has been selected yet, so that dev and test are alike. Of a fork that starts
                anew, > the expected optimism of the best of those before it
    later:      (P_sel - P_new) - (P_sel - P_new of the start) > the expected optimism of the best of k
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from events.gold import VERIFIER
from replay.audit.candidates import MIN_GROUPS, MIN_ITEMS, AuditedCandidate, AuditedRun, look_number, outcomes_of
from replay.audit.placing import Compared, Placed, growth, placed
from replay.audit.statistics import winners
from replay.audit.statistics.interval import Contrast, Outcomes, contrast, count_groups
from replay.audit.verdict import Family, Finding, Unknown, alpha_at, state_at


class Luck(NamedTuple):
    """The score that a run stands on, beside the luck in it."""

    score: float
    """P_sel of the last accepted candidate."""
    tried: int
    """Candidates that dev chose among, whatever became of them."""
    items: int
    """Items of dev that its score counts."""
    expected: float
    """The winner's optimism, in score units."""
    observed: float | None
    """P_sel - P_new; None where it was not measured on test."""


def luck_of_run(run: AuditedRun) -> Luck | None:
    """The luck in the score of the last accepted candidate; None where none was accepted."""
    accepted = [one for one in run.candidates if one.accepted and one.generation in run.lineage]
    if not accepted:
        return None
    last = accepted[-1]
    gap = None
    if last in run.measured and count_groups(dev := run.dev.get(last.generation, {}), run.groups) >= MIN_ITEMS:
        gap = contrast([dev, outcomes_of(run, last, VERIFIER)], [1, -1], run.groups).value
    items = len(run.dev.get(last.generation, {}))
    tried = tried_by(run, max(run.candidates[-1].generation, *run.stopped, 0))
    return Luck(last.evaluated.score, tried, items, luck(run, last), gap)


def tried_by(run: AuditedRun, generation: int) -> int:
    """How many candidates dev had chosen among by a generation, with those before a fork's own start.

    Repeats are not among them: train chooses among those.
    """
    asked = (one for one in run.candidates if one.evaluated.lever != "repeat" and one.evaluated.items)
    own = sum(one.generation <= generation for one in asked) + sum(one <= generation for one in run.stopped)
    return own + run.inherited


def luck(run: AuditedRun, candidate: AuditedCandidate) -> float:
    """The winner's optimism: how much too high the best of the candidates that dev chose among up to this one is
    expected to score, were they equally good.
    """
    tried = tried_by(run, candidate.generation)
    outcomes = run.dev.get(candidate.generation, {})
    if tried < 2 or len(outcomes) < 2:
        return 0.0
    means = [math.fsum(attempts) / len(attempts) for attempts in outcomes.values()]
    items = count_groups(outcomes, run.groups)
    if all(reward in (0, 1) for attempts in outcomes.values() for reward in attempts):
        return winners.optimism_of_passes(tried, items, min(max(math.fsum(means) / len(means), 0.01), 0.99))
    return winners.optimism(tried, items, statistics.stdev(means))


def selection_gap(run: AuditedRun, candidate: AuditedCandidate) -> Contrast | None:
    """P_sel - P_new of a measured candidate; None where too few items were asked."""
    dev, new = run.dev.get(candidate.generation, {}), outcomes_of(run, candidate, VERIFIER)
    return contrast([dev, new], [1, -1], run.groups) if enough(run, dev, new) else None


def enough(run: AuditedRun, *outcomes: Outcomes) -> bool:
    """Whether there are items enough of each for a statistic to be asserted."""
    return all(count_groups(one, run.groups) >= MIN_GROUPS for one in outcomes)


def too_few(run: AuditedRun, family: Family) -> Unknown:
    """What is said of a family where `enough` is not the case."""
    scores = [outcomes_of(run, one, VERIFIER) for one in run.measured[:1]] + list(run.dev.values())[:1]
    fewest = min((count_groups(one, run.groups) for one in scores), default=0)
    return Unknown(
        family=family, reason=f"{fewest} independent items are too few; {MIN_GROUPS} are needed of dev and of test"
    )


def selection_unknown(run: AuditedRun) -> list[Unknown]:
    """Why nothing can be said of dev and test."""
    if run.measured and selection_gap(run, run.measured[0]) is None:
        return [too_few(run, "selection")]
    few = next((one for one in run.measured if selection_gap(run, one) is None), None)
    if few:
        count, at = count_groups(run.dev.get(few.generation, {}), run.groups), few.generation
        reason = f"{count} independent items of dev have a reward in generation {at}; {MIN_GROUPS} are needed"
        return [Unknown(family="selection", reason=reason)]
    return []


def selection_findings(run: AuditedRun) -> list[Finding]:
    """One for the start and one for what was selected since; none where nothing could be measured."""
    if not run.measured:
        return []
    start, findings = run.measured[0], list[Finding]()
    planned = run.started.generations + 1
    first = selection_gap(run, start)
    if first is None:
        return []
    p, alpha = first.p_above(luck(run, start)), alpha_at("selection", 1, planned)
    findings.append(
        Finding(
            family="selection",
            rule="start",
            raised=p <= alpha,
            state=state_at(p, alpha),
            lever="",
            generation=start.generation,
            sentence=f"The start scores {first.in_words()} more on dev than on test, before anything was selected: "
            + ("dev and test are not alike, or it knows dev." if p <= alpha else "luck explains it."),
            figures={"difference": first.value, "p": p, "seen": float(start.generation)},
        )
    )
    found = [
        (one, gap, luck(run, one), alpha_at("selection", look_number(run, one.generation, look), planned))
        for look, one in enumerate(run.measured[1:], 2)
        if (gap := _growth(run, start, one)) is not None
    ]
    if found:
        findings.append(_selected(run, found))
    return findings


def smallest_selection(run: AuditedRun) -> float | None:
    """The smallest excess over luck that the last measured candidate's items would show 4 times in 5."""
    if len(run.measured) < 2 or (gap := _growth(run, run.measured[0], run.measured[-1])) is None:
        first = selection_gap(run, run.measured[0]) if run.measured else None
        return first and first.detectable(alpha_at("selection", 1, run.started.generations + 1))
    look = look_number(run, run.measured[-1].generation, len(run.measured))
    return gap.detectable(alpha_at("selection", look, run.started.generations + 1))


def _growth(run: AuditedRun, start: AuditedCandidate, candidate: AuditedCandidate) -> Contrast | None:
    """P_sel - P_new of a candidate less that of the start."""
    before, now = (_dev_and_test(run, one) for one in (start, candidate))
    if not enough(run, before.score, before.gold, now.score, now.gold):
        return None
    return growth(before, now, run.groups)


def _dev_and_test(run: AuditedRun, candidate: AuditedCandidate) -> Compared:
    return Compared(candidate, run.dev.get(candidate.generation, {}), outcomes_of(run, candidate, VERIFIER))


def _selected(run: AuditedRun, found: Sequence[tuple[AuditedCandidate, Contrast, float, float]]) -> Finding:
    raised = [(one, gap.p_above(by_luck), gap, by_luck, alpha) for one, gap, by_luck, alpha in found]
    one, p, gap, by_luck, alpha = next(
        (each for each in raised if each[1] <= each[4]), max(raised, key=lambda each: each[2].value - each[3])
    )
    place = Placed(one.generation, "")
    if p <= alpha:
        place = placed(
            run, one, {each.id: _dev_and_test(run, each) for each in (run.measured[0], *(c for c, *_ in found))}
        )
    return Finding(
        family="selection",
        rule="selection",
        raised=p <= alpha,
        state="drift" if any(state_at(each[1], each[4]) == "drift" for each in raised) else "suspect",
        lever=place.lever,
        generation=place.generation if p <= alpha else None,
        sentence=f"The candidate of generation {one.generation} gains {gap.in_words()} more on dev than on test; "
        f"luck in choosing explains {by_luck:.3f}.",
        figures={"excess": gap.value - by_luck, "luck": by_luck, "p": p, "seen": float(run.looks[one.generation])},
    )
