"""Facts about the population: which candidates were accepted, kept or rejected, and what they left."""

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


class CandidateKept(Fact, frozen=True, kw_only=True):
    """The candidate stays in the population, and further candidates may be made from it. It is not the best so far."""

    TAG: ClassVar[str] = "candidate_kept"
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


class ArtefactPublished(Fact, frozen=True, kw_only=True):
    """Something that a candidate left besides its answers, such as an agent's notes or the best program found."""

    TAG: ClassVar[str] = "artefact_published"
    KEY: ClassVar[tuple[str, ...]] = ("generation", "name")

    generation: int
    """The generation's number, counted from 0, the start."""
    name: str
    """What it is called, unique within the generation."""
    blob: str
    """Blob of its content."""
    media_type: str
    """What the content is, such as `text/markdown`."""
    size: int
    """Its size in bytes."""
    summary: str
    """What it is, in a sentence."""
