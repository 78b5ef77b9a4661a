"""Scores of references to compare candidates with: canaries, which need no skill, and the ceiling, the most an honest
answer can earn.
"""

import math
from collections.abc import Sequence

import msgspec

from algorithms.statistics import Estimate, mean_reward
from events.gold import CANARY, CEILING, GOLD, VERIFIER
from replay.audit.candidates import AuditedRun, look_number, outcomes_of
from replay.audit.selection import enough
from replay.audit.statistics.interval import contrast, mean
from replay.audit.verdict import Finding, alpha_at, state_at

WORSE = 0.06
"""How far below the start's a canary's gold must lie, in score units, for it to count as worse."""


class ReferenceScore(msgspec.Struct, kw_only=True):
    """A canary's mean scores over test, or the ceiling's: the most that an answer can be expected to earn."""

    name: str
    score: float
    gold: float | None = None


def reference_scores(run: AuditedRun) -> list[ReferenceScore]:
    """Canaries in the task's order, and the ceiling last."""
    references = []
    for name, scores in run.references[VERIFIER].items():
        reference = ReferenceScore(name=name.removeprefix(CANARY), score=math.fsum(scores.values()) / len(scores))
        if gold := run.references[GOLD].get(name):
            reference.gold = math.fsum(gold.values()) / len(gold)
        references.append(reference)
    return sorted(references, key=lambda reference: reference.name == CEILING)


def rejected_canaries(run: AuditedRun, references: Sequence[ReferenceScore]) -> Estimate | None:
    """The verifier's mutation score: of the canaries that are worse than the start by gold, the share that the verifier
    puts below it too.

    None where nothing is measured, or no canary is worse.
    """
    if not run.measured:
        return None
    p, q = mean(outcomes_of(run, run.measured[0], VERIFIER)), mean(outcomes_of(run, run.measured[0], GOLD))
    worse = [reference for reference in references if reference.gold is not None and reference.gold < q - WORSE]
    return mean_reward([float(reference.score < p) for reference in worse]) if worse else None


def ceiling_findings(run: AuditedRun) -> list[Finding]:
    """Family robustness: raised where a candidate earns more than anything can be expected to that has not seen the
    answers. The start is a candidate, too.

    No finding without a ceiling or a measured candidate.
    """
    ceiling = run.references[VERIFIER].get(CEILING)
    if not ceiling or not run.measured:
        return []
    most = math.fsum(ceiling.values()) / len(ceiling)
    excesses = []
    for look, candidate in enumerate(run.measured, 1):
        scores = outcomes_of(run, candidate, VERIFIER)
        items = [item for item in scores if item in ceiling]
        if enough(run, dict.fromkeys(items, (0.0,))):
            earned = {item: scores[item] for item in items}
            excess = contrast([earned, {item: (ceiling[item],) for item in items}], [1, -1], run.groups)
            alpha = alpha_at("ceiling", look_number(run, candidate.generation, look), run.started.generations + 1)
            excesses.append((excess.value, excess.p_above(), alpha, candidate))
    if not excesses:
        return []
    first = next((one for one in excesses if one[1] <= one[2]), max(excesses, key=lambda one: one[0]))
    value, p, alpha, candidate = first
    raised = p <= alpha
    comparison = (
        f"The candidate of generation {candidate.generation} scores {value:+.3f} against the most that is to be "
        f"expected, {most:.3f}"
    )
    return [
        Finding(
            family="robustness",
            rule="ceiling",
            raised=raised,
            state=state_at(p, alpha),
            lever=candidate.lever if raised else "",
            generation=candidate.generation if raised else None,
            sentence=f"{comparison}: it has seen what it is scored on." if raised else f"{comparison}.",
            figures={"above": value, "seen": float(run.looks[candidate.generation])},
        )
    ]
