"""The moves of a run, from parent to child: what each brought to score and gold, and what those of a lever that led to
the candidate accepted last add up to.

A move compares the answers of parent and child to the same items: of test, where the auditor measured both, and
otherwise of dev. Scores are as they were given.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from events.gold import GOLD, VERIFIER
from replay.audit.ancestry import Moved
from replay.audit.candidates import AuditedCandidate, AuditedRun, line_to, outcomes_of
from replay.audit.statistics.interval import Groups, Interval, Outcomes, contrast, count_groups, mean

MoveSplit = Literal["dev", "test"]


class MeanChange(msgspec.Struct, frozen=True, kw_only=True):
    """A mean before and after, with what it grew by."""

    before: float
    after: float
    growth: Interval | None
    """None where the items make fewer than two groups."""


class CandidateMove(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate against its parent."""

    generation: int
    parent: int
    """The generation that made the parent."""
    lever: Moved
    """What is new in the child; empty where nothing is."""
    accepted: bool
    split: MoveSplit
    score: MeanChange | None
    """P_new, or P_sel on dev; None where parent and child have no item in common."""
    gold: MeanChange | None
    """Q, or Q_sel on dev; None where gold is not known of both."""


class LeverGain(msgspec.Struct, frozen=True, kw_only=True):
    """What the moves of a lever on the way to the last accepted candidate add up to, with 95 % intervals over items."""

    lever: Moved
    moves: int
    split: MoveSplit
    """Test, where all on the way were measured there."""
    score: Interval | None
    gold: Interval | None


class _Answers(NamedTuple):
    by_score: Outcomes | None
    by_gold: Outcomes | None


def candidate_moves(run: AuditedRun) -> list[CandidateMove]:
    """The moves by generation, without those from a parent that is not among the run's candidates."""
    by_id = {one.id: one for one in run.candidates}
    measured = {one.id for one in run.measured}
    moves = []
    for child in run.candidates:
        parent = by_id.get(next(iter(child.evaluated.parents), ""))
        if parent is None or parent is child:
            continue
        split: MoveSplit = "test" if {child.id, parent.id} <= measured else "dev"
        before, after = (_answers(run, one, split) for one in (parent, child))
        moves.append(
            CandidateMove(
                generation=child.generation,
                parent=parent.generation,
                lever=child.lever,
                accepted=child.accepted,
                split=split,
                score=_change(before.by_score, after.by_score, run.groups),
                gold=_change(before.by_gold, after.by_gold, run.groups),
            )
        )
    return moves


def lever_gains(run: AuditedRun) -> list[LeverGain]:
    """What each lever brought the candidate that was accepted last, by first parents; nothing where it is the start."""
    last = next((one for one in reversed(run.candidates) if one.accepted), None)
    line = line_to(run, last) if last else []
    measured = {one.id for one in run.measured}
    split: MoveSplit = "test" if all(one.id in measured for one in line) else "dev"
    steps = [
        (child.lever, _answers(run, parent, split), _answers(run, child, split)) for parent, child in pairwise(line)
    ]
    gains = []
    for lever in dict.fromkeys(lever for lever, _, _ in steps):
        own = [(before, after) for moved, before, after in steps if moved == lever]
        gains.append(
            LeverGain(
                lever=lever,
                moves=len(own),
                split=split,
                score=_sum([(before.by_score, after.by_score) for before, after in own], run.groups),
                gold=_sum([(before.by_gold, after.by_gold) for before, after in own], run.groups),
            )
        )
    return gains


def _answers(run: AuditedRun, candidate: AuditedCandidate, split: MoveSplit) -> _Answers:
    if split == "test":
        return _Answers(outcomes_of(run, candidate, VERIFIER), outcomes_of(run, candidate, GOLD))
    one = run.dev_answers.get(candidate.generation)
    return _Answers(run.dev.get(candidate.generation), one.gold if one else None)


def _change(before: Outcomes | None, after: Outcomes | None, groups: Groups) -> MeanChange | None:
    """The change on the items that both answered."""
    common = set(before or ()) & set(after or ())
    if not before or not after or not common:
        return None
    first, then = ({item: scores for item, scores in one.items() if item in common} for one in (before, after))
    growth = contrast([then, first], [1, -1], groups).interval() if count_groups(first, groups) > 1 else None
    return MeanChange(before=mean(first), after=mean(then), growth=growth)


def _sum(changes: Sequence[tuple[Outcomes | None, Outcomes | None]], groups: Groups) -> Interval | None:
    """The sum of the changes; None where a mean is not known."""
    measures = [one for before, after in changes for one in (after, before)]
    known = [one for one in measures if one]
    if len(known) < len(measures) or count_groups({item: 0 for one in known for item in one}, groups) < 2:
        return None
    return contrast(known, [1.0, -1.0] * len(changes), groups).interval()
