"""The state in which a fork begins, made of its parent's, and the index from which its scores can be compared.

A fork's past is folded first. Then its own `run_started` takes the place of its parent's, and what the past had asked
for without an answer is asked for again, in the fork's name.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from events.fact import Fact
from events.run import RunStarted
from runtime.run.state import (
    Flight,
    Phase,
    RunState,
    evaluation_cost,
    granted,
    in_phase,
    landed,
    new_candidate,
    with_flight,
)


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
    for flight in state.flights.values():
        state = _with_forked(state, before, started, flight)
    return state if _same_shares(before, started) else _regranted(state, started)


def _with_forked(state: RunState, before: RunStarted, started: RunStarted, flight: Flight) -> RunState:
    """The state with a generation that was under way at the fork.

    What its parent had asked an agent is asked again, of the same candidate unless the fork searches by another
    strategy.
    """
    if flight.update and "weights" not in started.levers:
        reason = "the fork may not change the weights"
        flight = in_phase(_without_rollouts(flight), "failed", reason=reason)
    match flight.phase:
        case "stopped":
            return landed(state, flight)
        case "proposing" | "nested" if flight.parent is None:
            return replace(landed(state, flight), opened=False)
        case "proposing" | "nested":
            if before.strategy != started.strategy:
                flight = replace(flight, selected=None, requested=None)
            if not _same_shares(before, started):
                flight = replace(flight, grant=None)
            return _reopened(landed(state, flight), flight)
        case "playing":
            flight = _to_be_reissued(flight)
        case "training" | "serving":
            flight = _unsealed(flight)
        case "evaluate" | "reissue" | "seal" | "round_done" | "nest" | "failed":
            pass  # at a barrier, from which the fork decides by itself
        case _:
            assert_never(flight.phase)
    return with_flight(state, flight)


def _to_be_reissued(flight: Flight) -> Flight:
    unanswered = {id: shard.requested for id, shard in flight.shards.items() if not shard.complete}
    phase: Phase = "reissue" if unanswered else "playing"
    return in_phase(flight, phase, reissued=unanswered, waiting=0)


def _unsealed(flight: Flight) -> Flight:
    """The generation about to seal its last batch again; where rollouts may lag, with all that has come since."""
    update = flight.update
    assert update
    if not update.max_lag:
        return in_phase(flight, "seal")
    own = {id: flight.history[id] for id in update.requests[update.sealed]}
    flight = replace(
        flight,
        shards={**own, **flight.shards},
        history={id: shard for id, shard in flight.history.items() if id not in own},
        update=replace(update, sealed=update.sealed - 1, arrived=(*own, *update.arrived)),
    )
    return _to_be_reissued(flight)


def _reopened(state: RunState, flight: Flight) -> RunState:
    """The state in which a generation is to be begun again."""
    parents = {parent.id for parent in (flight.parent, flight.second) if parent}
    return replace(
        state,
        reopened={**state.reopened, flight.generation: flight},
        population=tuple(
            replace(candidate, visits=candidate.visits - 1) if candidate.id in parents else candidate
            for candidate in state.population
        ),
    )


def _same_shares(before: RunStarted, started: RunStarted) -> bool:
    return (before.budget, before.width) == (started.budget, started.width)


def _regranted(state: RunState, started: RunStarted) -> RunState:
    """The state in which what is left of the budget is shared out anew; each generation keeps what it has spent."""
    limit, cost = started.budget.rollouts, evaluation_cost(started)
    if limit is None:
        return replace(state, flights={number: replace(each, grant=None) for number, each in state.flights.items()})
    flights = {number: replace(each, grant=each.rollouts) for number, each in state.flights.items()}
    for place, (number, flight) in enumerate(flights.items()):
        left = limit - state.rollouts - sum(each.grant or 0 for each in flights.values())
        share = max(0, left // max(1, started.width - place), min(left, cost - flight.rollouts))
        flights = {**flights, number: replace(flight, grant=flight.rollouts + share)}
    return replace(state, flights=flights)


def _rebaselined(state: RunState, run: str, *, keep_adapter: bool) -> RunState:
    under_way = next((flight.candidate for flight in state.flights.values() if flight.candidate), None)
    basis = state.best or under_way
    for flight in state.flights.values():
        state = landed(state, flight)
    state = replace(state, population=(), reopened={}, opened=basis is not None)
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
