"""Who was made from whom: the evaluations of a run's candidates with their parents, ancestors, and the lever that made
each step.

A step goes from a parent to its child. Of two parents the first is the one that was changed; the second lent ideas.
Imports no numpy: the auditor measures by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec.structs import replace

from events.choice import FeedbackRequested, ParentSelected
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted

Moved = Literal["", "start", "scaffold", "weights", "both"]
"""What is new in a candidate: its scaffold, its adapter, both or neither; `start` where there is no parent."""


class Evaluations:
    """Gives the evaluations among a run's facts, which it is fed with one after the other, each with its parents.

    In a log that does not name them there, they are those that were selected for the generation, and where that is not
    recorded either, the candidate that was accepted last.
    """

    def __init__(self) -> None:
        self._selected: dict[int, tuple[str, ...]] = {}
        self._accepted: tuple[str, ...] = ()

    def take(self, fact: Fact) -> CandidateEvaluated | None:
        """Take the next fact; the evaluation, if it is one."""
        match fact:
            case ParentSelected(generation=generation, candidate=first, second=second):
                self._selected[generation] = (first, second) if second else (first,)
            case FeedbackRequested(generation=generation, candidate=first):
                if first not in self._selected.get(generation, ()):
                    self._selected[generation] = (first,)
            case CandidateEvaluated(lever="start"):
                return replace(fact, parents=())
            case CandidateEvaluated(generation=generation):
                return replace(fact, parents=fact.parents or self._selected.get(generation, self._accepted))
            case CandidateAccepted(candidate=candidate):
                self._accepted = (candidate,)
        return None


def evaluations(facts: Iterable[Fact]) -> list[CandidateEvaluated]:
    """The evaluations among a run's facts, by generation, each with its parents, as `Evaluations` gives them."""
    taken = Evaluations()
    return sorted((found for fact in facts if (found := taken.take(fact))), key=lambda one: one.generation)


def ancestors(candidates: Sequence[CandidateEvaluated], candidate: str) -> frozenset[str]:
    """The ids of a candidate and of all that it was made from, by one parent or the other."""
    parents = {one.candidate: one.parents for one in candidates}
    found, left = {candidate}, [candidate]
    while left:
        new = set(parents.get(left.pop(), ())) - found
        found |= new
        left += new
    return frozenset(found)


def moved(candidate: CandidateEvaluated, by_id: Mapping[str, CandidateEvaluated]) -> Moved:
    """The lever that made a candidate of its parent: for what a run of its own ended with, by what differs.

    A parent whose evaluation is not among `by_id`, by candidate, is taken to differ in both.
    """
    match candidate.lever:
        case "child":
            parent = by_id.get(candidate.parents[0]) if candidate.parents else None
            scaffold = parent is None or parent.scaffold != candidate.scaffold
            weights = parent is None or parent.adapter != candidate.adapter
            return "both" if scaffold and weights else "scaffold" if scaffold else "weights" if weights else ""
        case "repeat":
            return ""
        case lever:
            return lever
