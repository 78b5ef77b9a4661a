"""The state after an event: a pure function, which gives a new state and changes nothing."""

from collections.abc import Mapping
from typing import Any, assert_never

from msgspec.structs import replace

from events.change import (
    ChildRunFinished,
    ChildRunOrdered,
    ChildRunRequested,
    ProposalFailed,
    ScaffoldProposed,
    ScaffoldRequested,
    WeightUpdateRequested,
)
from events.choice import AgentCalled, FeedbackRequested, LeverChosen, ParentSelected, TrialFinished
from events.codec import Event
from events.judgement import (
    CandidateEvaluated,
    CandidateRechecked,
    JudgeCalled,
    ScoringFailed,
    StageEvaluated,
    TrajectoryScored,
)
from events.kinds import AuditLever
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, RunCancelled, RunFinished, RunPaused, RunResumed, RunStarted, TimeSpent
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    TrainingBatchSealed,
    WeightUpdateFailed,
    WeightUpdateFinished,
)
from runtime.run.fork import forked
from runtime.run.state import (
    AskedRound,
    Candidate,
    Flight,
    Phase,
    RunState,
    ScoredAttempt,
    ShardProgress,
    WeightUpdate,
    bar_of,
    champion,
    child_limit,
    descendants,
    evaluation_cost,
    granted,
    in_phase,
    landed,
    new_candidate,
    remaining,
    with_flight,
)


def evolve(state: RunState, event: Event) -> RunState:
    """The state after the event.

    Facts that no decision depends on leave it as it is, and so do answers that come too late.
    """
    match event.data:
        # the many come first
        case TrajectoryRecorded():
            return state
        case ModelCalled(request=request, prompt_tokens=prompt, completion_tokens=completion, micro_usd=price):
            return _with_cost(state, _flight_of(state, request), prompt + completion, price)
        case TrajectoryScored(request=request, item=item, attempt=attempt, trajectory=trajectory, reward=reward) as one:
            state = _with_cost(state, _flight_of(state, request), 0, one.micro_usd) if one.micro_usd else state
            return _with_result(state, request, (item, attempt), ScoredAttempt(trajectory, reward))
        case (
            ScoringFailed(request=request, item=item, attempt=attempt)
            | RolloutFailed(request=request, item=item, attempt=attempt)
        ):
            return _with_result(state, request, (item, attempt), None)
        # the run
        case RunStarted() as started if state.started is None:
            return replace(state, started=started)
        case RunStarted() as started if started.parent_run and state.started:
            return forked(state, event.run, state.started, started)
        case RunPaused():
            return replace(state, paused=True)
        case RunResumed():
            return replace(state, paused=False)
        case RunCancelled(reason=reason):
            return replace(state, cancelled=reason)
        case TimeSpent(number=number, seconds=seconds):
            return replace(state, ticks=max(state.ticks, number), seconds=max(state.seconds, seconds))
        case RunFinished():
            return replace(state, finished=True)
        case AuditReleased() as released:
            return _with_release(state, released)
        # choice and change
        case ScaffoldRequested(generation=generation):
            first = Flight(generation, "proposing", grant=granted(state))
            return replace(with_flight(state, first), opened=True)
        case ParentSelected() as selected:
            return _with_parent(state, event.run, selected)
        case FeedbackRequested(generation=generation) as requested:
            return with_flight(state, replace(state.flights[generation], requested=requested))
        case (
            AgentCalled(
                generation=generation, prompt_tokens=prompt, completion_tokens=completion, micro_usd=known_price
            )
            | JudgeCalled(
                generation=generation, prompt_tokens=prompt, completion_tokens=completion, micro_usd=known_price
            )
        ):
            tokens = (prompt or 0) + (completion or 0)
            return _with_cost(state, state.flights.get(generation), tokens, known_price or 0)
        case TrialFinished(generation=generation, rollouts=rollouts) as trial:
            flight = state.flights.get(generation)
            tokens = trial.prompt_tokens + trial.completion_tokens
            state = _with_cost(state, flight, tokens, trial.micro_usd)
            if flight is None:
                return replace(state, rollouts=state.rollouts + rollouts)
            return with_flight(state, replace(state.flights[generation], rollouts=flight.rollouts + rollouts))
        case (
            LeverChosen(generation=generation)
            | ProposalFailed(generation=generation)
            | ScaffoldProposed(generation=generation)
            | WeightUpdateRequested(generation=generation)
            | ChildRunRequested(generation=generation)
        ) as change:
            if not state.opened and state.started and isinstance(change, ScaffoldProposed):
                return _with_start(state, event.run, state.started, change)
            flight = state.flights.get(generation)
            if flight is None or flight.phase != "proposing":
                return state
            return with_flight(state, _with_change(state, flight, event.run, change))
        case ChildRunOrdered(generation=generation):
            return with_flight(state, in_phase(state.flights[generation], "nested"))
        case ChildRunFinished(generation=generation) as ended:
            flight = state.flights.get(generation)
            if flight is None or flight.phase != "nested":
                return state
            return with_flight(state, _with_child(flight, event.run, ended))
        # rollouts and weights
        case RolloutsRequested(generation=generation) as requested:
            return with_flight(state, _with_request(state.flights[generation], event.id, requested))
        case TrainingBatchSealed(generation=generation) as sealed:
            return with_flight(state, _with_batch(state, state.flights[generation], sealed))
        case AdapterPublished(generation=generation, round=number, state=left):
            return _in_update(state, generation, number, ("training",), "serving", published_state=left)
        case AdapterServed(generation=generation, round=number, adapter=adapter):
            return _in_update(state, generation, number, ("serving",), "round_done", adapter=adapter)
        case (
            AdapterRejected(generation=generation, round=number, reason=reason)
            | WeightUpdateFailed(generation=generation, round=number, reason=reason)
        ):
            return _in_update(state, generation, number, ("training", "serving"), "round_done", end_reason=reason)
        case WeightUpdateFinished(generation=generation) as finished:
            return with_flight(state, _with_finished_update(state.flights[generation], event.run, finished))
        # judgement
        case StageEvaluated(generation=generation, passed=passed, reason=reason):
            flight = state.flights[generation]
            flight = in_phase(flight, "evaluate") if passed else in_phase(flight, "failed", reason=reason)
            return with_flight(state, flight)
        case CandidateRechecked(generation=generation, difference=difference):
            return with_flight(state, replace(state.flights[generation], lead=difference))
        case CandidateEvaluated() as evaluated:
            return _with_evaluation(state, state.flights[evaluated.generation], evaluated)
        case ArtefactPublished(generation=generation, blob=blob) if generation in state.flights:
            flight = state.flights[generation]
            return with_flight(state, replace(flight, artefacts=(*flight.artefacts, blob)))
        case CandidateAccepted(generation=generation):
            return _with_member(state, state.flights[generation], accepted=True)
        case CandidateKept(generation=generation):
            return _with_member(state, state.flights[generation], accepted=False)
        case CandidateRejected(generation=generation):
            return _with_rejection(state, state.flights[generation])
        case _:
            return state


def _flight_of(state: RunState, request: str) -> Flight | None:
    """The generation under way that made the request."""
    for flight in state.flights.values():
        if request in flight.shards or request in flight.history:
            return flight
    return None


def _with_cost(state: RunState, flight: Flight | None, tokens: int, micro_usd: int) -> RunState:
    """Tokens and money that a generation under way spent; what no such generation did is the run's."""
    if flight is None:
        return replace(state, tokens=state.tokens + tokens, micro_usd=state.micro_usd + micro_usd)
    spent = replace(flight, tokens=flight.tokens + tokens, micro_usd=flight.micro_usd + micro_usd)
    return with_flight(state, spent)


def _with_result(state: RunState, request: str, key: tuple[str, int], result: ScoredAttempt | None) -> RunState:
    """An attempt is scored or has failed; of two outcomes of one attempt the first counts."""
    for flight in state.flights.values():
        shard = flight.shards.get(request)
        if shard is not None and key not in shard.results:
            shard = ShardProgress(shard.requested, {**shard.results, key: result})
            flight = replace(flight, shards={**flight.shards, request: shard}, waiting=flight.waiting - shard.complete)
            return with_flight(state, _with_arrival(flight, request) if shard.complete else flight)
    return state


def _with_arrival(flight: Flight, request: str) -> Flight:
    update = flight.update
    if update is None or not update.max_lag:
        return flight
    return replace(flight, update=replace(update, arrived=(*update.arrived, request)))


def _with_parent(state: RunState, run: str, selected: ParentSelected) -> RunState:
    """A generation begins. Candidates that were rolled back have left the population by then."""
    chosen = (selected.candidate, selected.second)
    population = tuple(
        replace(candidate, visits=candidate.visits + 1) if candidate.id in chosen else candidate
        for candidate in remaining(state)
    )
    by_id = {candidate.id: candidate for candidate in population}
    parent, second = by_id[selected.candidate], by_id.get(selected.second)
    flight = Flight(
        selected.generation,
        "proposing",
        parent=parent,
        second=second,
        selected=selected,
        spent_before=(state.tokens, state.micro_usd),
        grant=granted(state),
    )
    if selected.change == "repeat":
        flight = _with_candidate(flight, run, parent.scaffold, "repeat", parent.adapter, parent.optimizer_state)
    state = replace(
        state,
        generation=max(state.generation, selected.generation),
        reopened={number: each for number, each in state.reopened.items() if number != selected.generation},
        population=population,
        dropped=state.dropped | state.rolled_back,
        rolled_back=frozenset(),
    )
    return with_flight(state, flight)


def _with_candidate(flight: Flight, run: str, scaffold: str, lever: Any, adapter: str, optimizer_state: str) -> Flight:
    parents = tuple(parent.id for parent in (flight.parent, flight.second) if parent)
    candidate = new_candidate(run, flight.generation, scaffold, adapter, lever, optimizer_state, parents)
    return in_phase(flight, "evaluate", candidate=candidate)


def _with_start(state: RunState, run: str, started: RunStarted, proposed: ScaffoldProposed) -> RunState:
    """A run begins with the candidate that it was started with."""
    candidate = new_candidate(
        run, proposed.generation, proposed.scaffold, started.start_adapter, "start", started.start_state
    )
    flight = Flight(proposed.generation, "evaluate", candidate=candidate, grant=granted(state))
    return replace(with_flight(state, flight), opened=True)


def _with_change(
    state: RunState,
    flight: Flight,
    run: str,
    change: LeverChosen | ProposalFailed | ScaffoldProposed | WeightUpdateRequested | ChildRunRequested,
) -> Flight:
    """What an agent gave, while it is waited for."""
    parent = flight.parent
    match change:
        case LeverChosen(lever="stop", reason=reason) if parent is None or _all_levers_offered(state):
            return in_phase(flight, "stopped", reason=reason)
        case LeverChosen(lever="stop", reason=reason):
            return in_phase(flight, "failed", reason=f"nothing to do with the lever whose turn it was: {reason}")
        case ProposalFailed(reason=reason):
            return in_phase(flight, "failed", reason=reason)
        case ScaffoldProposed(scaffold=scaffold) if parent:
            return _with_candidate(flight, run, scaffold, "scaffold", parent.adapter, parent.optimizer_state)
        case ScaffoldProposed(scaffold=scaffold):
            return _with_candidate(flight, run, scaffold, "scaffold" if flight.generation else "start", "", "")
        case WeightUpdateRequested() if parent and state.started:
            lag = 0 if change.hints else state.started.max_lag
            update = WeightUpdate(change, parent.adapter, parent.adapter, parent.optimizer_state, lag)
            return in_phase(flight, "round_done", update=update)
        case ChildRunRequested() if parent and state.started:
            limit, least = child_limit(flight, change, state.started), evaluation_cost(state.started)
            if limit is not None and limit < least:
                reason = f"{limit} rollouts are too few for a child run, whose start takes {least}"
                return in_phase(flight, "failed", reason=reason)
            return in_phase(flight, "nest", child=change)
        case _:
            return flight


def _all_levers_offered(state: RunState) -> bool:
    """Whether an agent that stops has nothing more to try; under a schedule it was asked for one lever alone."""
    return state.started is None or state.started.schedule == "agent" or len(state.started.levers) < 2


def _with_child(flight: Flight, run: str, ended: ChildRunFinished) -> Flight:
    """A run of its own has ended: what it spent, this generation spent."""
    assert flight.parent
    before = flight.parent
    flight = replace(
        flight,
        rollouts=flight.rollouts + ended.rollouts,
        tokens=flight.tokens + ended.tokens,
        micro_usd=flight.micro_usd + ended.micro_usd,
    )
    if (ended.scaffold, ended.adapter) in (("", ""), (before.scaffold, before.adapter)):
        return in_phase(flight, "failed", reason=f"run {ended.child} changed nothing: {ended.reason}")
    return _with_candidate(flight, run, ended.scaffold, "child", ended.adapter, "")


def _with_request(flight: Flight, id: str, requested: RolloutsRequested) -> Flight:
    phase: Phase = flight.phase if flight.phase in ("training", "serving") else "playing"
    flight = in_phase(flight, phase, waiting=flight.waiting + 1)
    if flight.reissued:
        return _with_reissue(flight, id, requested)
    rollouts = len(requested.items) * requested.attempts
    update = flight.update
    if update and requested.purpose in ("train", "hint"):
        number = requested.round
        update = replace(
            update,
            hinted=requested.purpose == "hint",
            round=number,
            refills=requested.refill,
            rollouts=update.rollouts + rollouts,
        )
        if update.max_lag:
            asked = update.asked.get(number, AskedRound(update.trained))
            asked = asked._replace(rollouts=asked.rollouts + rollouts)
            update = replace(update, asked={**update.asked, number: asked})
        else:
            update = replace(update, requests={**update.requests, number: (*update.requests.get(number, ()), id)})
    return replace(
        flight,
        rechecked=flight.rechecked or requested.purpose == "recheck",
        rollouts=flight.rollouts + rollouts,
        shards={**flight.shards, id: ShardProgress(requested)},
        update=update,
    )


def _with_reissue(flight: Flight, id: str, requested: RolloutsRequested) -> Flight:
    """A fork's request takes the place of its parent's, in its order, and is not counted twice."""
    parent_id = next(old for old, parent_request in flight.reissued.items() if parent_request == requested)
    update = flight.update
    if update:
        requests = {
            number: tuple(id if old == parent_id else old for old in ids) for number, ids in update.requests.items()
        }
        update = replace(update, requests=requests)
    return replace(
        flight,
        reissued={old: parent_request for old, parent_request in flight.reissued.items() if old != parent_id},
        shards=dict(
            (id, ShardProgress(requested)) if old == parent_id else (old, shard) for old, shard in flight.shards.items()
        ),
        update=update,
    )


def _with_batch(state: RunState, flight: Flight, sealed: TrainingBatchSealed) -> Flight:
    """The requests of a batch are history. Of the others those stay that the next batch may have; what comes of the
    rest comes too late.
    """
    assert state.started and flight.update
    update = flight.update
    taken = {id: shard for id, shard in flight.shards.items() if not update.max_lag or id in sealed.requests}
    if update.max_lag:
        update = replace(update, requests={**update.requests, sealed.round: tuple(taken)})
    update = replace(
        update,
        solved=update.solved | solved_items(taken, state.started.solved),
        hinted=False,
        refills=0,
        sealed=sealed.round,
    )
    left = {
        id: shard
        for id, shard in flight.shards.items()
        if id not in taken and sealed.round - update.asked[shard.requested.round].trained <= update.max_lag
    }
    return in_phase(
        flight,
        "training",
        update=replace(update, arrived=tuple(id for id in update.arrived if id in left)),
        history={**flight.history, **taken},
        shards=left,
        waiting=sum(not shard.complete for shard in left.values()),
    )


def _in_update(
    state: RunState, generation: int, number: int, phases: tuple[Phase, ...], phase: Phase, **changes: Any
) -> RunState:
    """The state after an answer to a round of training, if it is waited for."""
    flight = state.flights.get(generation)
    if flight is None or flight.update is None or flight.phase not in phases or number != flight.update.sealed:
        return state
    if "adapter" in changes:
        changes |= {"optimizer_state": flight.update.published_state, "trained": number}
        phase = "playing" if flight.update.max_lag else phase
    return with_flight(state, in_phase(flight, phase, update=replace(flight.update, **changes)))


def _with_finished_update(flight: Flight, run: str, finished: WeightUpdateFinished) -> Flight:
    update = flight.update
    assert update and flight.parent
    scaffold = flight.parent.scaffold
    flight = replace(flight, update=None, history={}, shards={}, waiting=0)
    if finished.adapter == update.parent_adapter:
        return in_phase(flight, "failed", reason=f"the update changed nothing: {finished.reason}")
    return _with_candidate(flight, run, scaffold, "weights", finished.adapter, update.optimizer_state)


def _with_evaluation(state: RunState, flight: Flight, evaluated: CandidateEvaluated) -> RunState:
    assert flight.candidate
    by_purpose: dict[str, tuple[str, ...]] = {}
    for id, shard in flight.shards.items():
        by_purpose[shard.requested.purpose] = (*by_purpose.get(shard.requested.purpose, ()), id)
    candidate = replace(
        flight.candidate,
        score=evaluated.score,
        train=evaluated.pass_at_1 if "probe" in by_purpose else None,
        rewards=mean_rewards(flight.shards, "dev"),
        dev_requests=by_purpose.get("dev", ()),
        probe_requests=by_purpose.get("probe", ()),
    )
    # its sums are the state's own, unless a fork's past is folded without its attempts
    state = replace(state, tokens=evaluated.tokens, micro_usd=evaluated.micro_usd)
    return with_flight(state, replace(flight, candidate=candidate, waiting=0, tokens=0, micro_usd=0))


def _with_member(state: RunState, flight: Flight, *, accepted: bool) -> RunState:
    assert flight.candidate
    before = champion(state)
    bar = None if flight.lead is None or before is None else bar_of(before) + flight.lead
    member = replace(flight.candidate, accepted=accepted, artefacts=flight.artefacts, bar=bar)
    return replace(landed(state, flight), population=(*state.population, member))


def _with_rejection(state: RunState, flight: Flight) -> RunState:
    state = landed(state, flight)
    if flight.phase != "stopped" or flight.parent is None:
        return state
    population = tuple(
        replace(candidate, given_up=True, stop_reason=flight.reason) if candidate.id == flight.parent.id else candidate
        for candidate in state.population
    )
    return replace(state, population=population)


def _with_release(state: RunState, released: AuditReleased) -> RunState:
    """What the auditor asks for is done at the next barrier between two generations."""
    state = replace(state, last_audited_generation=max(state.last_audited_generation, released.look))
    match released.action:
        case "none":
            return state
        case "freeze":
            return _with_frozen(state, released.lever)
        case "rollback":
            rolled_back = state.rolled_back | drifted(state.population, released.generation)
            return replace(_with_frozen(state, released.lever), rolled_back=rolled_back)
        case "stop":
            return replace(state, audit_stop_reason=f"the auditor found drift since generation {released.generation}")
        case _:
            assert_never(released.action)


def drifted(population: tuple[Candidate, ...], generation: int) -> frozenset[str]:
    """The candidate of a generation with all that was made from it; of one that is not in the population, all that came
    later. The start is never among them.
    """
    own = [candidate.id for candidate in population if candidate.generation == generation]
    later = [candidate.id for candidate in population if candidate.generation > generation]
    return descendants(population, own or later) - {candidate.id for candidate in population[:1]}


def _with_frozen(state: RunState, lever: AuditLever) -> RunState:
    levers = ("scaffold", "weights") if lever == "both" else (lever,)
    return replace(state, frozen=tuple(sorted({*state.frozen, *levers})))


def mean_rewards(shards: Mapping[str, ShardProgress], *purposes: str, round: int = 0) -> dict[str, float]:
    """The mean reward of the scored attempts at each item, of these purposes, and of one round if it is given."""
    found: dict[str, list[float]] = {}
    for shard in shards.values():
        if shard.requested.purpose in purposes and round in (0, shard.requested.round):
            for item in shard.requested.items:
                for attempt in range(shard.requested.attempts):
                    if result := shard.results.get((item, attempt)):
                        found.setdefault(item, []).append(result.reward)
    return {item: sum(rewards) / len(rewards) for item, rewards in found.items()}


def solved_items(shards: Mapping[str, ShardProgress], least: float | None) -> frozenset[str]:
    """The train items of these requests that were solved, and without a hint."""
    if least is None:
        return frozenset()
    return frozenset(
        item
        for shard in shards.values()
        if shard.requested.purpose == "train"
        for (item, _), result in shard.results.items()
        if result is not None and result.reward >= least
    )
