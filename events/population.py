"""Facts about the population: which candidates were accepted."""

from typing import ClassVar

from events.fact import Fact


class CandidateAccepted(Fact, frozen=True, kw_only=True):
    """The candidate was accepted: further candidates are made from it."""

    TAG: ClassVar[str] = "candidate_accepted"
    SLOT: ClassVar[str] = "verdict"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    score: float
    reason: str


class CandidateRejected(Fact, frozen=True, kw_only=True):
    """The candidate was not accepted. A change that never became a candidate is named by its generation alone."""

    TAG: ClassVar[str] = "candidate_rejected"
    SLOT: ClassVar[str] = "verdict"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    candidate: str
    reason: str
