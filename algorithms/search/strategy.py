"""What a search strategy is: pure functions from a population to the next parent, a verdict, and an end.

A strategy sees candidates as `Member`s, in the order of their generations, and a seeded draw. It has no clock, no log
and no state of its own, so that what it chooses can be chosen again from a recorded history.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal, NamedTuple, TypeVar

from events.kinds import Change

Key = TypeVar("Key", bound=str)

Standing = Literal["accept", "keep", "drop"]
"""What becomes of a candidate that was evaluated.

`accept`: it is the best so far, a run that ended now would end with it.
`keep`: it stays in the population, and further candidates may be made from it.
`drop`: it is rejected.
"""

FAILED_LIMIT = 0.05
"""The share of dev attempts that may fail to run.

With more, a candidate is dropped, whatever the rest of them scored.
"""


class Member(NamedTuple):
    """A candidate of the population: one that was accepted or kept."""

    id: str
    generation: int
    parents: tuple[str, ...]
    """One or two; none for the start."""
    scaffold: str
    adapter: str
    """Digests; an empty adapter is the base model."""
    score: float
    """Mean reward on dev, in the task's own unit; of one that was accepted or kept by a second look, what that look
    adds to the best of then.
    """
    rewards: Mapping[str, float]
    """Mean reward of its attempts at each dev item, as far as known."""
    train: float | None
    """Mean reward of its attempts at the probe of train items; None if none of them was scored."""
    accepted: bool
    """Whether it was the best when it was judged; the others were kept."""
    visits: int
    """How often it was selected as a parent, by what is in flight too."""
    children: int
    """How many candidates of the population were made from it."""
    given_up: bool
    """Whether the agent, asked for a change to it, chose to stop."""
    artefacts: tuple[str, ...]
    """The blobs that were published with it."""


class ParentChoice(NamedTuple):
    """Who is changed next, and how."""

    parents: tuple[str, ...]
    """One, or two of which the second lends its ideas."""
    probabilities: Mapping[str, float]
    """Of each candidate that could have been the first parent; they add up to 1."""
    change: Change


class Trial(NamedTuple):
    """A candidate that was evaluated and is to be judged."""

    score: float
    """Mean reward of the dev attempts that ran; 0 if none did."""
    rewards: Mapping[str, float]
    train: float | None
    """As a member's."""
    failed: int
    items: int
    """How many dev attempts there were, and how many of them did not run."""


class Verdict(NamedTuple):
    """What becomes of a candidate, and the sentence that is recorded as the reason."""

    standing: Standing
    reason: str


class Strategy(NamedTuple):
    """A rule of search, as two functions."""

    select: Callable[[Sequence[Member], Random], ParentChoice | None]
    """The next parent, by a seeded draw; None where there is nothing more to try. The population is not empty."""
    judge: Callable[[Trial, Sequence[Member]], Verdict]
    """What becomes of a candidate, against the population as it is before."""


def best(population: Sequence[Member]) -> Member | None:
    """The last that was accepted, which is the best so far; None before the first."""
    return next((member for member in reversed(population) if member.accepted), None)


def failure(trial: Trial) -> Verdict | None:
    """The verdict on a candidate of which too many attempts failed to run; None for any other."""
    if trial.items and trial.failed <= FAILED_LIMIT * trial.items:
        return None
    return Verdict("drop", f"{trial.failed} of {trial.items} attempts failed to run, at most {FAILED_LIMIT:.0%} may")


def judge_by_score(trial: Trial, population: Sequence[Member], otherwise: Callable[[Member], Verdict]) -> Verdict:
    """Accept the start, and a candidate that scores higher on dev than the best so far, if nearly all attempts ran.

    Those that ran and score no higher are judged by `otherwise`, which is given the best.
    """
    if failed := failure(trial):
        return failed
    before = best(population)
    if before is None:
        return Verdict("accept", f"the start, {trial.score:.4f} on dev")
    if trial.score > before.score:
        return Verdict("accept", f"{trial.score:.4f} on dev, the best so far was {before.score:.4f}")
    return otherwise(before)


def draw(probabilities: Mapping[Key, float], uniform: float) -> Key:
    """The key at which the running sum of the probabilities, in their order, passes `uniform`, a number in [0, 1)."""
    total = 0.0
    for key, probability in probabilities.items():
        total += probability
        if uniform < total:
            return key
    return [key for key, probability in probabilities.items() if probability][-1]  # the sum is a little below 1
