"""The state after an event."""

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import AgentCalled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, RunFinished, RunPaused, RunResumed, RunStarted
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, TrainingBatchSealed, WeightUpdateFailed, WeightUpdateFinished
from runtime.run.fork import forked
from runtime.run.state import Phase, RunState, Shard, Update, new_candidate

SOLVED = 1.0
"""The reward from which an item counts as answered rightly."""


def evolve(state: RunState, event: Event) -> RunState:
    """The state after the event. The state is changed in place: it belongs to whoever folds."""
    match event.data:
        case RunStarted() as started:
            if state.started is None:
                state.started = started
            elif started.parent_run:
                forked(state, event.run, state.started, started)
        case RunPaused():
            state.paused = True
        case RunResumed():
            state.paused = False
        case ModelCalled(prompt_tokens=prompt, completion_tokens=completion, micro_usd=micro_usd):
            state.tokens += prompt + completion
            state.micro_usd += micro_usd
        case AgentCalled(prompt_tokens=prompt, completion_tokens=completion, micro_usd=price):
            state.tokens += prompt + completion
            state.micro_usd += price or 0
        case TrajectoryRecorded():
            pass
        case TrajectoryScored(request=request, item=item, attempt=attempt, trajectory=trajectory, reward=reward):
            _returned(state, request, (item, attempt), (trajectory, reward))
        case ScoringFailed(request=request, item=item, attempt=attempt) | RolloutFailed(request=request, item=item, attempt=attempt):
            _returned(state, request, (item, attempt), None)
        case RolloutsRequested() as requested:
            _requested(state, event.id, requested)
        case ScaffoldRequested() | FeedbackRequested():
            state.phase = "asked"
        case LeverChosen(generation=generation, lever="stop", reason=reason):
            if state.phase == "asked" and generation == state.generation:
                state.stop, state.phase = reason, "next"
        case ScaffoldProposed(generation=generation, scaffold=scaffold):
            if state.phase == "asked" and generation == state.generation:
                adapter = state.best.adapter if state.best else ""
                state.current = new_candidate(event.run, state.generation, scaffold, adapter, "scaffold" if generation else "start")
                state.current.state = state.best.state if state.best else ""
                state.phase = "evaluate"
        case ProposalFailed(generation=generation, reason=reason):
            if state.phase == "asked" and generation == state.generation:
                state.rejected, state.phase = reason, "next"
        case WeightUpdateRequested(generation=generation) as wanted:
            if state.phase == "asked" and generation == state.generation and state.best:
                state.update = Update(wanted, state.best.adapter, state.best.adapter, state.best.state)
                state.phase = "round_done"
        case TrainingBatchSealed():
            assert state.update
            state.update.solved |= solved_items(state.shards)
            state.update.hinted = False
            state.history |= state.shards
            state.shards = {}
            state.phase = "training"
        case AdapterPublished(generation=generation, round=round, state=left):
            if _in_round(state, generation, round, "training"):
                assert state.update
                state.update.published, state.phase = left, "serving"
        case AdapterServed(generation=generation, round=round, adapter=adapter):
            if _in_round(state, generation, round, "serving"):
                assert state.update
                state.update.adapter, state.update.state, state.phase = adapter, state.update.published, "round_done"
        case (
            AdapterRejected(generation=generation, round=round, reason=reason)
            | WeightUpdateFailed(generation=generation, round=round, reason=reason)
        ):
            if _in_round(state, generation, round, "serving") or _in_round(state, generation, round, "training"):
                assert state.update
                state.update.ended, state.phase = reason, "round_done"
        case WeightUpdateFinished(adapter=adapter, reason=reason):
            assert state.update and state.best
            if adapter == state.update.parent_adapter:
                state.rejected, state.phase = f"the update changed nothing: {reason}", "next"
            else:
                state.current = new_candidate(event.run, state.generation, state.best.scaffold, adapter, "weights")
                state.current.state = state.update.state
                state.phase = "evaluate"
            state.update = None
            state.history = {}
        case CandidateEvaluated(score=score):
            assert state.current
            state.current.score = score
            state.current.dev_requests = tuple(key for key, shard in state.shards.items() if shard.requested.purpose == "dev")
            state.current.probe_requests = tuple(key for key, shard in state.shards.items() if shard.requested.purpose == "probe")
        case CandidateAccepted():
            assert state.current
            state.best, state.current, state.phase = state.current, None, "next"
            state.kept.append(state.best)
            state.shards = {}
        case CandidateRejected():
            state.current, state.rejected, state.phase = None, "", "next"
            state.shards = {}
        case ParentSelected(generation=generation, candidate=candidate):
            state.generation = generation
            if state.green:
                place = next(place for place, one in enumerate(state.kept) if one.id == candidate)
                state.kept, state.best, state.green = state.kept[: place + 1], state.kept[place], ""
        case AuditReleased() as released:
            _released(state, released)
        case RunFinished():
            state.phase = "finished"
        case _:
            pass
    return state


def _released(state: RunState, released: AuditReleased) -> None:
    """What the auditor asks for is done at the next barrier between two generations."""
    state.looked = max(state.looked, released.look)
    if released.action == "stop":
        state.halt = f"the auditor found drift since generation {released.generation}"
    if released.action not in ("freeze", "rollback"):
        return
    levers = ("scaffold", "weights") if released.lever == "both" else (released.lever,)
    state.frozen = tuple(sorted({*state.frozen, *levers}))
    if released.action == "rollback":
        before = [one for one in state.kept if one.generation < released.generation] or state.kept[:1]
        state.green = before[-1].id if before else ""


def _in_round(state: RunState, generation: int, round: int, phase: Phase) -> bool:
    return state.phase == phase and state.update is not None and generation == state.generation and round == state.update.round


def _requested(state: RunState, request: str, requested: RolloutsRequested) -> None:
    state.phase = "playing"
    if state.again:
        _asked_again(state, request, requested)
        return
    planned = len(requested.items) * requested.attempts
    state.rollouts += planned
    state.shards[request] = Shard(requested, {})
    state.waiting += 1
    if state.update and requested.purpose in ("train", "hint"):
        state.update.hinted = requested.purpose == "hint"
        state.update.round = requested.round
        state.update.rollouts += planned
        state.update.requests.setdefault(requested.round, []).append(request)


def _asked_again(state: RunState, request: str, requested: RolloutsRequested) -> None:
    """The request takes the place of the parent's, in its order, and is not counted twice."""
    before = next(key for key, other in state.again.items() if other == requested)
    del state.again[before]
    state.shards = {request if key == before else key: Shard(requested) if key == before else shard for key, shard in state.shards.items()}
    state.waiting += 1
    for requests in state.update.requests.values() if state.update else ():
        requests[:] = [request if key == before else key for key in requests]


def _returned(state: RunState, request: str, place: tuple[str, int], result: tuple[str, float] | None) -> None:
    shard = state.shards.get(request)
    if shard is None or place in shard.results:
        return
    shard.results[place] = result
    if shard.complete:
        state.waiting -= 1


def solved_items(shards: dict[str, Shard]) -> set[str]:
    """The items that were answered rightly, and without a hint."""
    return {
        item
        for shard in shards.values()
        if shard.requested.purpose == "train"
        for (item, _), result in shard.results.items()
        if result is not None and result[1] >= SOLVED
    }
