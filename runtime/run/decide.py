"""What a run does next: start, evaluate, ask for feedback, update weights, accept or reject a candidate, finish.

The budget is checked here. Which candidate is accepted is the strategy's rule (`algorithms/search`). The state moves
from barrier to barrier, and what is due at a barrier follows from the state alone, whichever event came last. So the
order in which attempts are scored decides nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

from algorithms.search import chain
from algorithms.statistics import group_statistics, mean_reward
from events.change import ScaffoldRequested
from events.choice import FeedbackRequested, ParentSelected
from events.codec import Event
from events.fact import Fact, derive, derive_seed
from events.judgement import CandidateEvaluated
from events.kinds import Purpose
from events.population import CandidateAccepted, CandidateRejected
from events.rollouts import RolloutsRequested
from events.run import RunFinished, RunStarted
from events.weights import TrainingBatchSealed, WeightUpdateFinished
from runtime.log.port import BATCH_LIMIT
from runtime.run.batch import batch_digest
from runtime.run.decider import Decider
from runtime.run.evolve import evolve, solved_items
from runtime.run.state import RunState, ShardProgress, WeightUpdate, initial, next_parent


def decide(state: RunState, event: Event, version: int) -> list[Fact]:
    """What is due now; nothing while the run is paused, and nothing between barriers.

    What is due follows from the state alone, so `event` decides nothing. Rules by version: 2 seals batches with the
    parent's optimiser state, 3 waits for the auditor where it may act, 4 divides no submission and counts what judging
    costs.
    """
    del event
    started = state.started
    if started is None or state.paused:
        return []
    match state.phase:
        case "new":
            return [ScaffoldRequested(generation=0, task=started.task)]
        case "evaluate":
            return list(_evaluation(state, started))
        case "reissue":
            return list(state.reissued.values())
        case "playing" if state.waiting:
            return []
        case "playing" if state.update:
            return list(_hints(state, state.update, started)) or [_sealed_batch(state, state.update, started)]
        case "playing":
            return _judgement(state, started)
        case "seal":
            assert state.update
            return [_sealed_batch(state, state.update, started)]
        case "round_done":
            return _next_round(state, started)
        case "next":
            return _next_generation(state, started, version)
        case "proposing" | "training" | "serving" | "finished":
            return []
        case _:
            assert_never(state.phase)


DECIDER = Decider(version=4, initial=initial, evolve=evolve, decide=decide)


class _Rollouts(NamedTuple):
    """What a set of rollouts runs: scaffold, adapter, attempts at each item, and for which purpose."""

    purpose: Purpose
    round: int
    scaffold: str
    adapter: str
    attempts: int
    temperature: float


_Folds = Sequence[tuple[int, Sequence[str]]]
"""Items by the train fold that they are from; -1 for dev."""


def _evaluation(state: RunState, started: RunStarted) -> list[RolloutsRequested]:
    assert state.current
    pair = state.current.scaffold, state.current.adapter
    return [
        *_requests(state, started, _Rollouts("dev", 1, *pair, attempts=1, temperature=0.0), [(-1, started.items.dev)]),
        *_requests(
            state,
            started,
            _Rollouts("probe", 1, *pair, started.group_size, temperature=1.0),
            list(enumerate(started.items.probe)),
        ),
    ]


def _requests(state: RunState, started: RunStarted, rollouts: _Rollouts, folds: _Folds) -> list[RolloutsRequested]:
    """The rollouts in shards of at most `shard_size` attempts, each within one fold; where whole submissions are
    judged, a fold is one shard.
    """
    width = BATCH_LIMIT if started.submissions else max(1, started.shard_size // rollouts.attempts)
    parts = [
        (fold, tuple(items[index : index + width])) for fold, items in folds for index in range(0, len(items), width)
    ]
    return [
        RolloutsRequested(
            generation=state.generation,
            purpose=rollouts.purpose,
            round=rollouts.round,
            shard=number,
            scaffold=rollouts.scaffold,
            adapter=rollouts.adapter,
            split="dev" if rollouts.purpose == "dev" else "train",
            fold=fold,
            items=items,
            attempts=rollouts.attempts,
            temperature=rollouts.temperature,
            seed=derive_seed(started.seed, rollouts.purpose, state.generation, rollouts.round),
        )
        for number, (fold, items) in enumerate(parts)
    ]


def evaluation_cost(started: RunStarted) -> int:
    """Rollouts that it takes to judge one candidate."""
    return len(started.items.dev) + started.group_size * sum(map(len, started.items.probe))


def _affordable(state: RunState, started: RunStarted, rollouts: int) -> bool:
    limit = started.budget.rollouts
    return limit is None or state.rollouts + rollouts <= limit


def _judgement(state: RunState, started: RunStarted) -> list[Fact]:
    assert state.current
    dev = [
        result
        for shard in state.shards.values()
        if shard.requested.purpose == "dev"
        for result in shard.results.values()
    ]
    rewards = [result.reward for result in dev if result is not None]
    failed = len(dev) - len(rewards)
    estimate = mean_reward(rewards) if rewards else None
    probe = group_statistics(
        [
            [
                result.reward
                for attempt in range(shard.requested.attempts)
                if (result := shard.results[item, attempt]) is not None
            ]
            for shard in state.shards.values()
            if shard.requested.purpose == "probe"
            for item in shard.requested.items
        ]
    )
    verdict = chain.judge(
        estimate.mean if estimate else 0.0, state.best.score if state.best else None, failed, len(dev)
    )
    if not estimate:
        return [_rejected(state, verdict.reason)]
    evaluated = CandidateEvaluated(
        generation=state.generation,
        candidate=state.current.id,
        scaffold=state.current.scaffold,
        adapter=state.current.adapter,
        lever=state.current.lever,
        score=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        items=len(dev),
        failed=failed,
        pass_at_1=probe.pass_at_1,
        pass_at_k=probe.pass_at_k,
        tied_groups=probe.tied,
        rollouts=state.rollouts,
        tokens=state.tokens,
        micro_usd=state.micro_usd,
    )
    if not verdict.accepted:
        return [evaluated, _rejected(state, verdict.reason)]
    accepted = CandidateAccepted(
        generation=state.generation, candidate=state.current.id, score=estimate.mean, reason=verdict.reason
    )
    return [evaluated, accepted]


def _rejected(state: RunState, reason: str) -> CandidateRejected:
    candidate = state.current.id if state.current else derive(state.run, "candidate", state.generation)
    return CandidateRejected(generation=state.generation, candidate=candidate, reason=reason)


def _next_generation(state: RunState, started: RunStarted, version: int) -> list[Fact]:
    if state.rejection:
        return [_rejected(state, state.rejection)]
    if state.best is None:
        return [_finished(state, "the first scaffold could not be evaluated")]
    if state.stop_reason or state.audit_stop_reason:
        return [_finished(state, state.stop_reason or state.audit_stop_reason)]
    if (
        version >= 3
        and started.on_drift
        and state.accepted
        and state.last_audited_generation < state.accepted[-1].generation
    ):
        return []  # until the auditor has looked
    generations_left = started.generations + state.rebaselined - state.generation
    if generations_left <= 0:
        return [_finished(state, f"all {started.generations} generations are done")]
    budget = started.budget
    if (
        not _affordable(state, started, evaluation_cost(started))
        or (budget.tokens is not None and state.tokens >= budget.tokens)
        or (budget.micro_usd is not None and state.micro_usd >= budget.micro_usd)
    ):
        return [_finished(state, "budget exhausted")]
    levers = tuple(lever for lever in started.levers if lever not in state.frozen)
    if not levers:
        return [_finished(state, "the auditor has had every lever frozen")]
    generation, parent = state.generation + 1, next_parent(state)
    assert parent
    rollouts_left = None if budget.rollouts is None else budget.rollouts - state.rollouts - evaluation_cost(started)
    return [
        ParentSelected(generation=generation, candidate=parent.id, probabilities={parent.id: 1.0}),
        FeedbackRequested(
            generation=generation,
            candidate=parent.id,
            scaffold=parent.scaffold,
            adapter=parent.adapter,
            levers=levers,
            rollouts_left=rollouts_left,
            generations_left=generations_left,
            probe_requests=parent.probe_requests,
            dev_requests=parent.dev_requests,
        ),
    ]


def _finished(state: RunState, reason: str) -> RunFinished:
    best = next_parent(state)
    return RunFinished(
        reason=reason,
        candidate=best.id if best else "",
        scaffold=best.scaffold if best else "",
        adapter=best.adapter if best else "",
        score=best.score if best and best.score is not None else 0.0,
        generations=state.generation,
        rollouts=state.rollouts,
        tokens=state.tokens,
        micro_usd=state.micro_usd,
    )


def _next_round(state: RunState, started: RunStarted) -> list[Fact]:
    update = state.update
    assert update and state.best
    number = update.round + 1
    folds = [
        (fold, tuple(item for item in items if update.requested.resample == "all" or item not in update.solved))
        for fold, items in enumerate(started.items.folds)
    ]
    cost = started.group_size * sum(len(items) for _, items in folds)
    if update.end_reason:
        reason = update.end_reason
    elif number > update.requested.rounds:
        reason = f"all {update.requested.rounds} rounds are done"
    elif not cost:
        reason = "every train item is solved"
    elif not _affordable(state, started, cost + evaluation_cost(started)):
        reason = f"the budget has no room for {cost} more rollouts"
    else:
        rollouts = _Rollouts("train", number, state.best.scaffold, update.adapter, started.group_size, temperature=1.0)
        return list(_requests(state, started, rollouts, folds))
    return [
        WeightUpdateFinished(
            generation=state.generation,
            adapter=update.adapter,
            rounds=update.round,
            rollouts=update.rollouts,
            solved=len(update.solved),
            reason=reason,
        )
    ]


def _hints(state: RunState, update: WeightUpdate, started: RunStarted) -> list[RolloutsRequested]:
    """One attempt at each item this round did not solve, hinted with the true answer; none if not ordered, already made
    or too dear.
    """
    solved = solved_items(state)
    folds = [
        (fold, tuple(item for item in items if item not in solved)) for fold, items in _items_by_fold(state.shards)
    ]
    cost = sum(len(items) for _, items in folds)
    if not update.requested.hints or update.hinted or not _affordable(state, started, cost + evaluation_cost(started)):
        return []
    assert state.best
    rollouts = _Rollouts("hint", update.round, state.best.scaffold, update.adapter, attempts=1, temperature=1.0)
    return _requests(state, started, rollouts, folds)


def _items_by_fold(shards: Mapping[str, ShardProgress]) -> list[tuple[int, tuple[str, ...]]]:
    return [(shard.requested.fold, shard.requested.items) for shard in shards.values()]


def _sealed_batch(state: RunState, update: WeightUpdate, started: RunStarted) -> TrainingBatchSealed:
    """The batch of the round that has just ended, over the rounds that the update's memory covers."""
    everything = {**state.history, **state.shards}
    rounds = range(1, update.round + 1) if update.requested.memory == "update" else [update.round]
    requests = tuple(request for number in rounds for request in update.requests[number])
    results = [
        everything[request].results[item, attempt]
        for request in requests
        for item in everything[request].requested.items
        for attempt in range(everything[request].requested.attempts)
    ]
    scored = [result for result in results if result is not None]
    return TrainingBatchSealed(
        generation=state.generation,
        round=update.round,
        algorithm=started.algorithm or update.requested.algorithm,
        hyper=update.requested.hyper if started.algorithm in ("", update.requested.algorithm) else {},
        parent_adapter="" if update.requested.restart else update.adapter,
        parent_state="" if update.requested.restart else update.optimizer_state,
        training_seed=derive_seed(started.seed, "training", state.generation, update.round),
        requests=requests,
        trajectories=len(scored),
        digest=batch_digest(scored),
    )
