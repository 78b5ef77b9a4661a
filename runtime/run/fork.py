"""The state in which a fork begins, made of its parent's, and the index from which its scores can be compared.

A fork's past is folded first. Then its own `run_started` takes the place of its parent's, and what the past had asked
for without an answer is asked for again, in the fork's name.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from events.fact import Fact
from events.run import RunStarted
from runtime.run.state import Flight, Phase, RunState, granted, in_phase, landed, new_candidate, with_flight


def forked(state: RunState, run: str, before: RunStarted, started: RunStarted) -> RunState:
    """The state in which a fork begins; `state` and `before` are its parent's.

    Where scores mean something else in the fork, its first generation changes nothing and evaluates the best candidate
    again. That generation counts for none.
    """
    rebaseline = scores_not_comparable(before, started)
    # what the parent accepted is audited in the parent, if at all
    state = replace(
        state,
        started=started,
        paused=False,
        cancelled=None,
        finished=False,
        seconds=0.0,
        ticks=0,
        last_audited_generation=state.accepted[-1].generation if state.accepted else -1,
    )
    if rebaseline or not started.on_drift:  # what the auditor found is about other scores, or is not asked about
        state = replace(state, frozen=(), rolled_back=frozenset(), audit_stop_reason="")
    if rebaseline:
        return _rebaselined(state, run, keep_adapter=started.base_model == before.base_model)
    state = replace(state, population=tuple(replace(each, given_up=False) for each in state.population))
    flights, state = state.flights, replace(state, flights={})
    for flight in flights.values():
        state = _with_forked(state, started, flight)
    while state.generation in state.reopened:
        reopened = tuple(number for number in state.reopened if number != state.generation)
        state = replace(state, reopened=reopened, generation=state.generation - 1)
    return state


def _with_forked(state: RunState, started: RunStarted, flight: Flight) -> RunState:
    """The state with a generation that was under way at the fork; what its parent had asked an agent is asked anew."""
    grant = granted(state)
    if flight.update and "weights" not in started.levers:
        reason = "the fork may not change the weights"
        flight = in_phase(_without_rollouts(flight), "failed", reason=reason)
    match flight.phase:
        case "stopped":
            return landed(state, flight)
        case "proposing" | "nested" if flight.parent is None:
            return replace(landed(state, flight), opened=False)
        case "proposing" | "nested":
            return replace(landed(state, flight), reopened=(*state.reopened, flight.generation))
        case "playing":
            unanswered = {id: shard.requested for id, shard in flight.shards.items() if not shard.complete}
            phase: Phase = "reissue" if unanswered else "playing"
            flight = in_phase(flight, phase, reissued=unanswered, waiting=0)
        case "training" | "serving":
            flight = in_phase(flight, "seal")
        case "evaluate" | "reissue" | "seal" | "round_done" | "nest" | "failed":
            pass  # at a barrier, from which the fork decides by itself
        case _:
            assert_never(flight.phase)
    return with_flight(state, replace(flight, grant=grant))


def _rebaselined(state: RunState, run: str, *, keep_adapter: bool) -> RunState:
    under_way = next((flight.candidate for flight in state.flights.values() if flight.candidate), None)
    basis = state.best or under_way
    for flight in state.flights.values():
        state = landed(state, flight)
    state = replace(state, population=(), reopened=(), opened=basis is not None)
    if basis is None:
        return state
    generation = state.generation + 1
    adapter, optimizer_state = (basis.adapter, basis.optimizer_state) if keep_adapter else ("", "")
    current = new_candidate(run, generation, basis.scaffold, adapter, "start", optimizer_state)
    state = replace(state, generation=generation, rebaselined=state.rebaselined + 1)
    return with_flight(state, Flight(generation, "evaluate", candidate=current, grant=granted(state)))


def _without_rollouts(flight: Flight) -> Flight:
    return replace(flight, update=None, shards={}, history={}, reissued={}, waiting=0)


def scores_not_comparable(before: RunStarted, started: RunStarted) -> bool:
    """Whether scores mean something else in a fork than in its parent: another verifier, base model, or length of
    completions.
    """
    return any(
        getattr(before, name) != getattr(started, name)
        for name in ("verifier", "verifier_code", "base_model", "max_tokens")
    )


def comparable_from(facts: Iterable[Fact]) -> int:
    """The index, among the facts of a run and its past, from which on scores mean what they mean at the end."""
    first, started = 0, None
    for index, fact in enumerate(facts):
        if isinstance(fact, RunStarted):
            first = index if started and scores_not_comparable(started, fact) else first
            started = fact
    return first
