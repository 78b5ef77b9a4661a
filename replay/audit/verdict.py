"""The verdict on a run: from the findings of several families of tests to green, suspect or drift, with the rule that
decided and why.

    suspect: one of gap, cross_play, change_point and robustness raised a finding, or exchange_rate did, whose interval
             then lies below half of its expectation; or gold is missing, so that nothing can be said
    drift:   gap and another family each raised one, or provenance did

The probability of a false alarm is split over the families, `ALPHA`. A test that is repeated at each look splits its
family's part over the looks, `alpha_at`: alpha 6 / (pi^2 look^2) adds up to alpha over any number of looks. Provenance
is no statistics: it errs only where one of its checks is wrong. Imports no numpy.
"""

from collections.abc import Sequence
from math import pi
from typing import Literal

import msgspec

Family = Literal["gap", "cross_play", "change_point", "robustness", "exchange_rate", "provenance", "unscored"]
VerdictState = Literal["green", "suspect", "drift"]

ALPHA = {"gap": 0.02, "cross_play": 0.01, "change_point": 0.01, "robustness": 0.01}
"""The probability with which each family may raise a finding over a whole run without drift: .05 in all."""
ROBUSTNESS_SHARES = {"failing": 1 / 2, "perturbed": 1 / 4, "ceiling": 1 / 4}
"""How the tests of robustness share its part: candidates that gain by failing, perturbations, scores above the ceiling.
"""
FAMILY_NAMES: dict[Family, str] = {
    "gap": "the gap between score and gold",
    "cross_play": "cross-play",
    "change_point": "the change-point",
    "robustness": "the metamorphic test",
    "exchange_rate": "the exchange rate",
    "provenance": "provenance",
    "unscored": "gold that is missing",
}
"""The families in words, as verdicts name them."""
_BY_PRECISION: tuple[Family, ...] = (
    "provenance",
    "change_point",
    "exchange_rate",
    "cross_play",
    "robustness",
    "gap",
    "unscored",
)
"""Which family names lever and generation best: first the checks of the log, then what was made to place a change, then
the rest.
"""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one rule.

    `lever` and `generation` are what it points at: empty and None where it points at nothing.
    """

    family: Family
    rule: str
    raised: bool
    """Whether the rule speaks against the run; otherwise `sentence` says what it saw instead."""
    lever: str = ""
    generation: int | None = None
    sentence: str = ""
    """What was seen, with its figures, and what was expected."""
    figures: dict[str, float] = {}


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all findings come to.

    `lever` and `generation` are those of the raised finding that places the change best.
    """

    state: VerdictState
    rule: str
    """The rules that decided, joined by " and "; empty when green."""
    lever: str
    generation: int | None
    sentence: str


def alpha_at(family: Literal["gap", "cross_play", "change_point", "robustness"], look: int) -> float:
    """ALPHA 6 / (pi^2 look^2): what one look may spend, counted from 1, however many follow. Raises ValueError for a
    look below 1.

    For families whose test holds for a single look: cross_play and robustness. The e-process of gap and the threshold
    of change_point hold for the whole run as they are.
    """
    if look < 1:
        raise ValueError(f"look {look}; looks are counted from 1")
    return ALPHA[family] * 6 / (pi * look) ** 2


def decide(findings: Sequence[Finding]) -> AuditVerdict:
    """The verdict on the findings of a run so far; of several that decide alike, the earliest in the order given is
    named.
    """
    raised = [finding for finding in findings if finding.raised]
    provenance = [finding for finding in raised if finding.family == "provenance"]
    gap = [finding for finding in raised if finding.family == "gap"]
    others = [finding for finding in raised if finding.family not in ("gap", "provenance", "unscored")]
    state: VerdictState
    if provenance:
        state, deciding = "drift", provenance[:1]
    elif gap and others:
        state, deciding = "drift", [gap[0], others[0]]
    elif raised:
        state, deciding = "suspect", raised[:1]
    else:
        sentence = f"Green: none of {len(findings)} checks raised a finding."
        return AuditVerdict(state="green", rule="", lever="", generation=None, sentence=sentence)
    by_precision = sorted(raised, key=lambda finding: _BY_PRECISION.index(finding.family))
    placing = next((finding for finding in by_precision if finding.lever), by_precision[0])
    names = " and ".join(FAMILY_NAMES[finding.family] for finding in deciding)
    return AuditVerdict(
        state=state,
        rule=" and ".join(finding.rule for finding in deciding),
        lever=placing.lever,
        generation=placing.generation,
        sentence=f"{state.capitalize()} by {names}: {' '.join(finding.sentence for finding in deciding)}",
    )
