"""Facts about the population: which candidates were accepted."""

from typing import ClassVar

from events.fact import Fact


class CandidateAccepted(Fact, frozen=True, kw_only=True):
    """The candidate was accepted: further candidates are made from it."""

    TAG: ClassVar[str] = "candidate_accepted"
    EXCLUSIVE_KEY: ClassVar[str] = "verdict"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id."""
    score: float
    """Its mean reward on dev, in the task's own unit."""
    reason: str
    """Why, in a sentence."""


class CandidateRejected(Fact, frozen=True, kw_only=True):
    """The candidate was not accepted. A change that never became a candidate is named by its generation alone."""

    TAG: ClassVar[str] = "candidate_rejected"
    EXCLUSIVE_KEY: ClassVar[str] = "verdict"
    KEY: ClassVar[tuple[str, ...]] = ("generation",)

    generation: int
    """The generation's number, counted from 0, the start."""
    candidate: str
    """The candidate's id, which follows from run and generation also where there never was one."""
    reason: str
    """Why, in a sentence."""
