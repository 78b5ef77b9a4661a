"""The auditor's decision: from findings of several families of tests to green, suspect or drift, with the rule that fired and why.

Families: a the gap (e-process), c cross-play, d the change-point, g metamorphic tests, kappa the exchange rate, h provenance.
    suspect: one of a, c, d, g fires, or kappa's interval lies below half of its expectation
    drift:   a fires and another does, or h does
The probability of a false alarm is spent over the families, `ALPHA`; what is tested again at each look spends its family's part over the
looks, `alpha_at` (alpha 6 / (pi^2 look^2) adds up to alpha over any number of looks). Provenance is no statistics: it errs with its checks.
Imports no numpy.
"""

from collections.abc import Sequence
from math import pi
from typing import Literal

import msgspec

Family = Literal["a", "c", "d", "g", "kappa", "h"]
State = Literal["green", "suspect", "drift"]

ALPHA = {"a": 0.02, "c": 0.01, "d": 0.01, "g": 0.01}
"""The probability with which each family may err over a whole run without drift: .05 in all."""
OF_G = {"failing": 1 / 2, "perturbed": 1 / 4, "ceiling": 1 / 4}
"""How the kinds of tests in g share its part: candidates that gain by failing, perturbations, scores above the ceiling."""
NAMES: dict[Family, str] = {
    "a": "the gap between score and gold",
    "c": "cross-play",
    "d": "the change-point",
    "g": "the metamorphic test",
    "kappa": "the exchange rate",
    "h": "provenance",
}
"""The families in words."""
_BY_PRECISION: tuple[Family, ...] = ("h", "d", "kappa", "c", "g", "a")
"""Whose word on lever and generation is taken first: the check, then what was made to place a change, then the rest."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule found. `lever` and `generation` are what it points at: empty and None where it points at none."""

    family: Family
    rule: str
    fired: bool
    lever: str = ""
    generation: int | None = None
    sentence: str = ""
    """What was seen, with its figures, and what was expected."""
    figures: dict[str, float] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all findings come to. `lever` and `generation` are the best-placed fired finding's that names one."""

    state: State
    rule: str
    """The rules that decided, joined by " and "; empty when green."""
    lever: str
    generation: int | None
    sentence: str


def alpha_at(family: Literal["a", "c", "d", "g"], look: int) -> float:
    """ALPHA 6 / (pi^2 look^2): what the look, counted from 1, may spend, however many follow. Raises ValueError for a look below 1.

    For families whose test holds for one look (c, g); a's e-process and d's threshold hold for the whole run as they are.
    """
    if look < 1:
        raise ValueError(f"look {look}; looks are counted from 1")
    return ALPHA[family] * 6 / (pi * look) ** 2


def decide(findings: Sequence[Finding]) -> Verdict:
    """The verdict on the findings of a run so far; of several that decide alike, the earliest in the order given is named."""
    fired = [finding for finding in findings if finding.fired]
    provenance = [finding for finding in fired if finding.family == "h"]
    gap = [finding for finding in fired if finding.family == "a"]
    others = [finding for finding in fired if finding.family not in ("a", "h")]
    state: State
    if provenance:
        state, deciding = "drift", provenance[:1]
    elif gap and others:
        state, deciding = "drift", [gap[0], others[0]]
    elif fired:
        state, deciding = "suspect", fired[:1]
    else:
        return Verdict(state="green", rule="", lever="", generation=None, sentence=f"Green: none of {len(findings)} findings fired.")
    placed = sorted(fired, key=lambda finding: _BY_PRECISION.index(finding.family))
    named = next((finding for finding in placed if finding.lever), placed[0])
    names = " and ".join(NAMES[finding.family] for finding in deciding)
    return Verdict(
        state=state,
        rule=" and ".join(finding.rule for finding in deciding),
        lever=named.lever,
        generation=named.generation,
        sentence=f"{state.capitalize()} by {names}: {' '.join(finding.sentence for finding in deciding)}",
    )
