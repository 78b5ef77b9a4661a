"""Fixed schedules: which lever a generation may pull, as a probability of each.

A schedule takes the choice of the lever from the agent, and leaves it the choice of what to do with it. So a run under
one schedule and a run under another differ in the order of the levers alone. A lever that the run does not have, or
that was frozen, is nobody's turn.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from algorithms.search.strategy import draw
from events.kinds import Lever, Schedule


class Turn(NamedTuple):
    """What a schedule leaves the agent of one generation to choose from."""

    levers: tuple[Lever, ...]
    propensities: Mapping[Lever, float]
    """The probability with which each lever's turn came."""


def propensities(
    schedule: Schedule, levers: Sequence[Lever], generation: int, generations: int
) -> Mapping[Lever, float]:
    """The probability of each of these levers in a generation, counted from 1, of `generations`.

    With `agent` it is empty: what the agent will choose is not known here.
    """
    if schedule == "agent":
        return {}
    if len(levers) < 2 or schedule == "random":
        return {lever: 1 / len(levers) for lever in levers}
    scaffold = generation % 2 == 1 if schedule == "alternate" else 2 * generation <= generations + 1
    if schedule == "weights-then-scaffold":
        scaffold = not 2 * generation <= generations + 1
    return {"scaffold": float(scaffold), "weights": float(not scaffold)}


def scheduled(schedule: Schedule, levers: Sequence[Lever], generation: int, generations: int, random: Random) -> Turn:
    """The levers that the agent may choose from in a generation: all with `agent`, else the one whose turn it is."""
    chances = propensities(schedule, levers, generation, generations)
    if not chances:
        return Turn(tuple(levers), {})
    chosen = draw(chances, random.random())
    return Turn(tuple(lever for lever in levers if lever == chosen), chances)
