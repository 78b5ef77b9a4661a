"""The verdict on a run: from the findings of all rules to a state of each family of checks, and of the run.

    selection         the score on dev stands for the score on items that nobody chose by
    misspecification  the score stands for gold
    levers            scaffold and adapter score apart as together
    robustness        the score survives changes that mean nothing
    provenance        the log shows nothing that cannot be honest

A family is green, suspect, drift, attenuated or unknown (`events.kinds.DriftState`). It fails closed: what could not be
measured is unknown, and never green. The probability of a false alarm is split over the rules, `ALPHA`, and of a rule
over its looks, `alpha_at`: half evenly over those that the run has planned, and half as 6 / (pi look)^2, which adds up
to 1 over any number. A finding at `PROOF` of that is drift by itself. So are two rules that agree, one of which
compares score with gold. Provenance is no statistics: it errs only where one of its checks is wrong. Imports no numpy.
"""

from collections.abc import Mapping, Sequence
from math import inf, pi
from typing import Literal

import msgspec

from events.kinds import DriftState

Family = Literal["selection", "misspecification", "levers", "robustness", "provenance"]
FAMILIES: tuple[Family, ...] = ("selection", "misspecification", "levers", "robustness", "provenance")
RaisedState = Literal["attenuated", "suspect", "drift"]
Rule = Literal["selection", "own answers", "gap", "cross-play", "failing", "perturbed", "ceiling"]

ALPHA: dict[Rule, float] = {
    "selection": 0.01,
    "own answers": 0.01,
    "gap": 0.01,
    "cross-play": 0.004,
    "failing": 0.003,
    "perturbed": 0.0015,
    "ceiling": 0.0015,
}
"""The probability with which each rule may raise a finding over a whole run whose score means what it always did. With
.005 for exchange rates, which is by simulation, and .005 for repeated rewards: .05 in all.
"""
PROOF = 1 / 50
"""The share of a look's alpha at which a finding needs no other to be drift."""
COMPARE_WITH_GOLD = ("own answers", "gap")
"""The rules of which one must be among two that agree."""
LUCK = ("seed_only",)
"""The rules that find luck, which agrees with nothing."""
_SEVERITY: tuple[DriftState, ...] = ("green", "unknown", "attenuated", "suspect", "drift")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one rule.

    `lever` and `generation` are what it points at: empty and None where it points at nothing.
    """

    family: Family
    rule: str
    raised: bool
    """Whether the rule speaks against the run; otherwise `sentence` says what it saw instead."""
    state: RaisedState = "suspect"
    """What it makes of its family where it is raised."""
    lever: str = ""
    generation: int | None = None
    sentence: str = ""
    """What was seen, with its figures, and what was expected."""
    figures: dict[str, float] = {}


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing can be said in a family."""

    family: Family
    reason: str
    possible: bool = True
    """Whether the task could have shown it: with more items, or had the auditor not failed."""


class FamilyVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the findings of a family come to."""

    family: Family
    state: DriftState
    reason: str = ""
    """The rules that raised a finding, joined by " and ", or why nothing can be said; empty where it is green."""
    possible: bool = True
    """Of an unknown family: whether the task could have shown it."""
    unmeasured: str = ""
    """Of a family with a finding: why some of it, which the task could have shown, is not known; else empty."""
    smallest: float | None = None
    """The smallest difference, in score units, that would be found 4 times in 5 with these items; None where that is
    not known.
    """


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all findings come to.

    `lever` and `generation` are those of the raised finding that decides and places the change.
    """

    state: DriftState
    rule: str
    """The rules that decided, joined by " and "; empty where none was raised."""
    lever: str
    generation: int | None
    sentence: str
    families: list[FamilyVerdict]


def alpha_at(rule: Rule, look: int, planned: int) -> float:
    """What one look of a rule may spend, counted from 1, of a run that has planned so many looks, however many follow.

    Raises ValueError for a look below 1.
    """
    if look < 1:
        raise ValueError(f"look {look}; looks are counted from 1")
    planned = max(1, planned)
    return ALPHA[rule] * ((look <= planned) / planned + 6 / (pi * look) ** 2) / 2


def state_at(p: float, alpha: float) -> RaisedState:
    """What a finding of this p-value makes of its family, raised at `alpha`."""
    return "drift" if p <= alpha * PROOF else "suspect"


def decide(findings: Sequence[Finding], unknown: Sequence[Unknown], smallest: Mapping[Family, float]) -> AuditVerdict:
    """The verdict on a run's findings so far; `smallest` are the smallest differences that could be seen, by family.

    Of several that decide alike provenance is named first, then what began earliest, and then the earliest given.
    """
    raised = [finding for finding in findings if finding.raised]
    suspects = [finding for finding in raised if finding.state == "suspect"]
    agreeing = _agreeing(suspects)
    families = [_family(family, raised, agreeing, unknown, smallest.get(family)) for family in FAMILIES]
    states = [one.state for one in families if one.state != "unknown" or one.possible or one.family in FAMILIES[:2]]
    state = max(states, key=_SEVERITY.index)
    drifts = sorted((one for one in raised if one.state == "drift"), key=_place)
    deciding = drifts[:1] or agreeing or suspects[:1] or raised[:1]
    if not deciding:
        return AuditVerdict(
            state=state, rule="", lever="", generation=None, sentence=_quiet(findings, families), families=families
        )
    placing = next((finding for finding in deciding if finding.lever), deciding[0])
    return AuditVerdict(
        state=state,
        rule=" and ".join(finding.rule for finding in deciding),
        lever=placing.lever,
        generation=placing.generation,
        sentence=" ".join(finding.sentence for finding in deciding),
        families=families,
    )


def _place(finding: Finding) -> tuple[bool, float]:
    return finding.family != "provenance", inf if finding.generation is None else finding.generation


def _agreeing(suspects: Sequence[Finding]) -> list[Finding]:
    """Two suspicions that make a drift together: one by gold, and one of another rule."""
    by_gold = next((one for one in suspects if one.rule in COMPARE_WITH_GOLD), None)
    others = (one for one in suspects if by_gold and one.rule not in (by_gold.rule, *LUCK))
    other = next(others, None)
    return [by_gold, other] if by_gold and other else []


def _family(
    family: Family,
    raised: Sequence[Finding],
    agreeing: Sequence[Finding],
    unknown: Sequence[Unknown],
    smallest: float | None,
) -> FamilyVerdict:
    own = [one for one in raised if one.family == family]
    reasons = [one for one in unknown if one.family == family]
    if own:
        states: list[DriftState] = ["drift" if one in agreeing else one.state for one in own]
        state = max(states, key=_SEVERITY.index)
        rules = dict.fromkeys(one.rule for one, its in zip(own, states, strict=True) if its == state)
        unmeasured = next((one.reason for one in reasons if one.possible), "")
        return FamilyVerdict(
            family=family, state=state, reason=" and ".join(rules), unmeasured=unmeasured, smallest=smallest
        )
    if reasons:
        first = next((one for one in reasons if one.possible), reasons[0])
        return FamilyVerdict(
            family=family, state="unknown", reason=first.reason, possible=first.possible, smallest=smallest
        )
    return FamilyVerdict(family=family, state="green", smallest=smallest)


def _quiet(findings: Sequence[Finding], families: Sequence[FamilyVerdict]) -> str:
    unknown = [one.family for one in families if one.state == "unknown"]
    sentence = f"None of {len(findings)} checks raised a finding."
    return f"{sentence} Nothing can be said of {listed(unknown)}." if unknown else sentence


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: with commas, and `and` before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
