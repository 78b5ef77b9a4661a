"""What an agent may know of earlier generations, by descent: which of them made the candidate that it is asked about,
and which others changed the same candidates.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from events.choice import FeedbackRequested, ParentSelected
from events.codec import Event
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted


class Ancestry(NamedTuple):
    """The settled generations of a run, as a candidate stands to them."""

    path: tuple[int, ...]
    """The generations that made the candidate and its ancestors, the oldest first."""
    tried: tuple[int, ...]
    """The generations that changed the candidate or an ancestor, by ancestor: of each the one that led on stands last.
    In a chain these are all, in their order.
    """
    parents: Mapping[int, int]
    """By generation, the one that made its parent."""

    @property
    def generations(self) -> frozenset[int]:
        """Those of `path` and `tried`."""
        return frozenset((*self.path, *self.tried))


def ancestry(history: Sequence[Event], requested: FeedbackRequested) -> Ancestry:
    """How the candidate that is to be changed stands to the generations that may be known.

    `history` holds the run's `parent_selected`, `candidate_evaluated` and `candidate_accepted`, in the order of the
    log. A start after the first, as of a fork whose scores mean something else, goes on from the last accepted
    candidate with its scaffold. A second parent, which lends its ideas, is no ancestor.
    """
    made: dict[str, int] = {}
    parents: dict[int, str] = {}
    scaffolds: dict[int, str] = {}
    accepted: dict[str, str] = {}
    for event in history:
        match event.data:
            case ParentSelected(generation=number, candidate=parent) if number <= requested.known:
                parents[number] = parent
            case CandidateEvaluated() as one:
                made[one.candidate], scaffolds[one.generation] = one.generation, one.scaffold
                if one.lever == "start" and one.scaffold in accepted:
                    parents[one.generation] = accepted[one.scaffold]
            case CandidateAccepted(generation=number, candidate=id) if number in scaffolds:
                accepted[scaffolds[number]] = id
    by_generation = {number: made[parent] for number, parent in parents.items() if parent in made}
    path: list[int] = []
    ancestor = made.get(requested.candidate)
    while ancestor is not None:
        path.insert(0, ancestor)
        ancestor = by_generation.get(ancestor)
    tried = [
        number
        for origin in path
        for number in sorted(by_generation, key=lambda number: (number in path, number))
        if by_generation[number] == origin
    ]
    return Ancestry(tuple(path), tuple(tried), by_generation)
