"""The state after an event: a pure function, which gives a new state and changes nothing."""

from typing import assert_never

from msgspec.structs import replace

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import AgentCalled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.judgement import CandidateEvaluated, JudgeCalled, ScoringFailed, TrajectoryScored
from events.kinds import AuditLever
from events.population import CandidateAccepted, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested
from events.run import AuditReleased, RunFinished, RunPaused, RunResumed, RunStarted
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    TrainingBatchSealed,
    WeightUpdateFailed,
    WeightUpdateFinished,
)
from runtime.run.fork import forked
from runtime.run.state import Phase, RunState, ScoredAttempt, ShardProgress, WeightUpdate, in_phase, new_candidate


def evolve(state: RunState, event: Event) -> RunState:
    """The state after the event.

    Facts that no decision depends on leave it as it is, and so do answers that come too late.
    """
    match event.data:
        # the many come first
        case ModelCalled(prompt_tokens=prompt, completion_tokens=completion, micro_usd=price):
            return replace(state, tokens=state.tokens + prompt + completion, micro_usd=state.micro_usd + price)
        case TrajectoryScored(request=request, item=item, attempt=attempt, trajectory=trajectory, reward=reward) as one:
            state = replace(state, micro_usd=state.micro_usd + one.micro_usd) if one.micro_usd else state
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
        case RunFinished():
            return in_phase(state, "finished")
        case AuditReleased() as released:
            return _with_release(state, released)
        # choice and change
        case ParentSelected(generation=generation, candidate=candidate):
            return _with_parent(replace(state, generation=generation), candidate)
        case ScaffoldRequested() | FeedbackRequested():
            return in_phase(state, "proposing")
        case (
            AgentCalled(prompt_tokens=prompt, completion_tokens=completion, micro_usd=known_price)
            | JudgeCalled(prompt_tokens=prompt, completion_tokens=completion, micro_usd=known_price)
        ):
            return replace(
                state, tokens=state.tokens + prompt + completion, micro_usd=state.micro_usd + (known_price or 0)
            )
        case LeverChosen(generation=generation, lever="stop", reason=reason) if _proposing(state, generation):
            return in_phase(state, "next", stop_reason=reason)
        case ProposalFailed(generation=generation, reason=reason) if _proposing(state, generation):
            return in_phase(state, "next", rejection=reason)
        case ScaffoldProposed(generation=generation, scaffold=scaffold) if _proposing(state, generation):
            adapter, optimizer_state = (state.best.adapter, state.best.optimizer_state) if state.best else ("", "")
            current = new_candidate(
                event.run, generation, scaffold, adapter, "scaffold" if generation else "start", optimizer_state
            )
            return in_phase(state, "evaluate", current=current)
        case WeightUpdateRequested(generation=generation) as wanted if _proposing(state, generation) and state.best:
            update = WeightUpdate(wanted, state.best.adapter, state.best.adapter, state.best.optimizer_state)
            return in_phase(state, "round_done", update=update)
        # rollouts and weights
        case RolloutsRequested() as requested:
            return _with_request(in_phase(state, "playing"), event.id, requested)
        case TrainingBatchSealed():
            assert state.update
            update = replace(state.update, solved=state.update.solved | solved_items(state), hinted=False)
            return in_phase(state, "training", update=update, history={**state.history, **state.shards}, shards={})
        case AdapterPublished(generation=generation, round=number, state=left) if _in_round(
            state, generation, number, "training"
        ):
            assert state.update
            return in_phase(state, "serving", update=replace(state.update, published_state=left))
        case AdapterServed(generation=generation, round=number, adapter=adapter) if _in_round(
            state, generation, number, "serving"
        ):
            assert state.update
            update = replace(state.update, adapter=adapter, optimizer_state=state.update.published_state)
            return in_phase(state, "round_done", update=update)
        case (
            AdapterRejected(generation=generation, round=number, reason=reason)
            | WeightUpdateFailed(generation=generation, round=number, reason=reason)
        ) if _in_round(state, generation, number, "training", "serving"):
            assert state.update
            return in_phase(state, "round_done", update=replace(state.update, end_reason=reason))
        case WeightUpdateFinished() as finished:
            return _with_finished_update(replace(state, update=None, history={}), event.run, state.update, finished)
        # judgement
        case CandidateEvaluated(score=score, tokens=tokens, micro_usd=micro_usd):
            assert state.current
            current = replace(
                state.current,
                score=score,
                dev_requests=tuple(id for id, shard in state.shards.items() if shard.requested.purpose == "dev"),
                probe_requests=tuple(id for id, shard in state.shards.items() if shard.requested.purpose == "probe"),
            )
            # its sums are the state's own, unless a fork's past is folded without its attempts
            return replace(state, current=current, tokens=tokens, micro_usd=micro_usd, waiting=0)
        case CandidateAccepted():
            assert state.current
            accepted = (*state.accepted, state.current)
            return in_phase(state, "next", best=state.current, accepted=accepted, current=None, shards={})
        case CandidateRejected():
            return in_phase(state, "next", current=None, rejection="", shards={})
        case _:
            return state


def _proposing(state: RunState, generation: int) -> bool:
    return state.phase == "proposing" and generation == state.generation


def _in_round(state: RunState, generation: int, number: int, *phases: Phase) -> bool:
    return (
        state.phase in phases
        and state.update is not None
        and generation == state.generation
        and number == state.update.round
    )


def _with_result(state: RunState, request: str, key: tuple[str, int], result: ScoredAttempt | None) -> RunState:
    """An attempt is scored or has failed; of two outcomes of one attempt the first counts."""
    shard = state.shards.get(request)
    if shard is None or key in shard.results:
        return state
    shard = ShardProgress(shard.requested, {**shard.results, key: result})
    return replace(state, shards={**state.shards, request: shard}, waiting=state.waiting - shard.complete)


def _with_request(state: RunState, id: str, requested: RolloutsRequested) -> RunState:
    state = replace(state, waiting=state.waiting + 1)
    if state.reissued:
        return _with_reissue(state, id, requested)
    rollouts = len(requested.items) * requested.attempts
    update = state.update
    if update and requested.purpose in ("train", "hint"):
        number = requested.round
        update = replace(
            update,
            hinted=requested.purpose == "hint",
            round=number,
            rollouts=update.rollouts + rollouts,
            requests={**update.requests, number: (*update.requests.get(number, ()), id)},
        )
    return replace(
        state, rollouts=state.rollouts + rollouts, shards={**state.shards, id: ShardProgress(requested)}, update=update
    )


def _with_reissue(state: RunState, id: str, requested: RolloutsRequested) -> RunState:
    """A fork's request takes the place of its parent's, in its order, and is not counted twice."""
    parent_id = next(old for old, parent_request in state.reissued.items() if parent_request == requested)
    update = state.update
    if update:
        requests = {
            number: tuple(id if old == parent_id else old for old in ids) for number, ids in update.requests.items()
        }
        update = replace(update, requests=requests)
    return replace(
        state,
        reissued={old: parent_request for old, parent_request in state.reissued.items() if old != parent_id},
        shards=dict(
            (id, ShardProgress(requested)) if old == parent_id else (old, shard) for old, shard in state.shards.items()
        ),
        update=update,
    )


def _with_finished_update(
    state: RunState, run: str, update: WeightUpdate | None, finished: WeightUpdateFinished
) -> RunState:
    assert update and state.best
    if finished.adapter == update.parent_adapter:
        return in_phase(state, "next", rejection=f"the update changed nothing: {finished.reason}")
    current = new_candidate(
        run, state.generation, state.best.scaffold, finished.adapter, "weights", update.optimizer_state
    )
    return in_phase(state, "evaluate", current=current)


def _with_release(state: RunState, released: AuditReleased) -> RunState:
    """What the auditor asks for is done at the next barrier between two generations."""
    state = replace(state, last_audited_generation=max(state.last_audited_generation, released.look))
    match released.action:
        case "none":
            return state
        case "freeze":
            return _with_frozen(state, released.lever)
        case "rollback":
            before = [
                candidate for candidate in state.accepted if candidate.generation < released.generation
            ] or state.accepted[:1]
            return replace(_with_frozen(state, released.lever), rollback_to=before[-1].id if before else "")
        case "stop":
            return replace(state, audit_stop_reason=f"the auditor found drift since generation {released.generation}")
        case _:
            assert_never(released.action)


def _with_frozen(state: RunState, lever: AuditLever) -> RunState:
    levers = ("scaffold", "weights") if lever == "both" else (lever,)
    return replace(state, frozen=tuple(sorted({*state.frozen, *levers})))


def _with_parent(state: RunState, candidate: str) -> RunState:
    """A parent is selected: where a rollback was asked for, what came after it is no longer accepted."""
    if not state.rollback_to:
        return state
    index = next(index for index, accepted in enumerate(state.accepted) if accepted.id == candidate)
    return replace(state, accepted=state.accepted[: index + 1], best=state.accepted[index], rollback_to="")


def solved_items(state: RunState) -> frozenset[str]:
    """The train items of the requests under way that were solved, and without a hint."""
    least = state.started.solved if state.started else None
    if least is None:
        return frozenset()
    return frozenset(
        item
        for shard in state.shards.values()
        if shard.requested.purpose == "train"
        for (item, _), result in shard.results.items()
        if result is not None and result.reward >= least
    )
