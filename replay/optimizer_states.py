"""Which optimiser states of a recorded run can still be asked for, and what cannot be done again without the others.

A round of training starts from the state that the round before it left, and an update from the state of the candidate
that it improves. So what a run's state names at its end is what the run, or a fork of its end, may train on from. Every
other state is asked for by two things alone: a fork of an earlier point, and performing a recorded round again.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from events.subjects import entity_of
from events.weights import AdapterPublished, TrainingBatchSealed
from runtime.log import lineage
from runtime.log.port import Stored
from runtime.run.decide import DECIDER


class StateUse(NamedTuple):
    """The first and last sequence at which a fork may train on from a state; where the run still holds it, the last is
    the run's own.
    """

    state: str
    first: int
    last: int


class StartedRound(NamedTuple):
    """A recorded round of training that starts from a state."""

    state: str
    generation: int
    round: int


class StatesOfRun(NamedTuple):
    """The optimiser states of one run: those that its rounds left, in order, how each is used, and those that are
    needed at its end.
    """

    run: str
    left: tuple[str, ...]
    needed: frozenset[str]
    uses: tuple[StateUse, ...]
    rounds: tuple[StartedRound, ...]

    def lost_rounds(self, freed: AbstractSet[str]) -> list[StartedRound]:
        """The rounds that cannot be performed again without these states."""
        return [each for each in self.rounds if each.state in freed]

    def lost_forks(self, freed: AbstractSet[str]) -> list[tuple[int, int]]:
        """The first and last sequences between which no fork can train on without these states."""
        spans: list[tuple[int, int]] = []
        for use in sorted((use for use in self.uses if use.state in freed), key=lambda use: use.first):
            if spans and use.first <= spans[-1][1] + 1:
                spans[-1] = (spans[-1][0], max(spans[-1][1], use.last))
            else:
                spans.append((use.first, use.last))
        return spans


def states_of_run(run: str, past: Sequence[Stored], messages: Sequence[Stored]) -> StatesOfRun:
    """The optimiser states of a run with these messages, which was forked from this past if it is a fork."""
    state = DECIDER.initial(run)
    for event in lineage.in_folding_order(past):
        state = DECIDER.evolve(state, event)
    sequences = {entity_of(stored.subject): stored.sequence for stored in messages}
    left: list[str] = []
    uses: list[StateUse] = []
    rounds: list[StartedRound] = []
    held: dict[str, int] = {}
    for event in lineage.in_folding_order(messages):
        sequence = sequences[event.id]
        match event.data:
            case AdapterPublished(state=blob) if blob:
                left.append(blob)
            case TrainingBatchSealed(parent_state=blob, generation=generation, round=number) if blob:
                rounds.append(StartedRound(blob, generation, number))
        state = DECIDER.evolve(state, event)
        now = state.optimizer_states
        uses += [StateUse(blob, held.pop(blob), sequence - 1) for blob in sorted(held.keys() - now)]
        held |= {blob: sequence for blob in sorted(now - held.keys())}
    uses += [StateUse(blob, first, messages[-1].sequence) for blob, first in held.items()]
    return StatesOfRun(run, tuple(dict.fromkeys(left)), state.optimizer_states, tuple(uses), tuple(rounds))


def unneeded(runs: Sequence[StatesOfRun]) -> frozenset[str]:
    """The states that rounds of these runs left and that none of the runs needs at its end; the runs must be all that
    there are.
    """
    return frozenset(blob for run in runs for blob in run.left) - frozenset(blob for run in runs for blob in run.needed)
