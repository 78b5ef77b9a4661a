"""What a run does next: start, evaluate, ask for feedback, play and train, keep the best, finish.

The state moves from barrier to barrier, and what is due at a barrier follows from the state alone, whichever event came last.
So the order in which attempts are scored decides nothing.

A forked run's past is folded first. Then its own `run_started` takes the place of its parent's, and what the past had asked for without
an answer is asked for again, in the new run's name.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from algorithms.search import chain
from algorithms.search.estimate import group_statistics, mean_reward
from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested, WeightUpdateRequested
from events.choice import AgentCalled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.fact import Fact, derive, derive_seed
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.play import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.population import CandidateAccepted, CandidateRejected
from events.run import AuditReleased, RunFinished, RunPaused, RunResumed, RunStarted
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    TrainingBatchSealed,
    WeightUpdateFailed,
    WeightUpdateFinished,
)
from runtime.decider import Decider

SOLVED = 1.0
"""The reward from which an item counts as answered rightly."""

Phase = Literal["new", "asked", "evaluate", "again", "playing", "seal", "training", "serving", "round_done", "next", "finished"]


class Candidate(msgspec.Struct):
    """A (scaffold, adapter) pair, and the dev score once it has one."""

    id: str
    generation: int
    scaffold: str
    adapter: str
    lever: str
    state: str = ""
    """What the training that gave the adapter left for the next."""
    score: float | None = None
    dev_requests: tuple[str, ...] = ()
    probe_requests: tuple[str, ...] = ()


class Shard(msgspec.Struct):
    """One request for rollouts, and what has come back of it: (trajectory, reward) by item and attempt, None for a failure."""

    requested: RolloutsRequested
    results: dict[tuple[str, int], tuple[str, float] | None] = {}

    @property
    def complete(self) -> bool:
        """Whether every attempt is scored or has failed."""
        return len(self.results) == len(self.requested.items) * self.requested.attempts


class Update(msgspec.Struct):
    """A weight update that is under way."""

    requested: WeightUpdateRequested
    parent_adapter: str
    adapter: str
    state: str
    published: str = ""
    """The state of the adapter that waits to be served."""
    round: int = 0
    hinted: bool = False
    """Whether this round's unsolved items are being played with hints, or have been."""
    requests: dict[int, list[str]] = {}
    solved: set[str] = set()
    rollouts: int = 0
    ended: str = ""
    """Why there will be no further round, if something stopped it."""


class RunState(msgspec.Struct):
    """All that the next decision depends on."""

    run: str
    phase: Phase = "new"
    started: RunStarted | None = None
    paused: bool = False
    generation: int = 0
    best: Candidate | None = None
    current: Candidate | None = None
    update: Update | None = None
    shards: dict[str, Shard] = {}
    waiting: int = 0
    """Shards of the present play that are not complete."""
    history: dict[str, Shard] = {}
    """Complete shards of the update under way."""
    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    again: dict[str, RolloutsRequested] = {}
    """Of a fork: its parent's requests that were not answered, to be asked again."""
    judged_anew: int = 0
    """Generations in which a fork changed nothing, and judged its best candidate as it means scores."""
    kept: list[Candidate] = []
    """The candidates that were kept, the start first."""
    frozen: tuple[str, ...] = ()
    """The levers that the auditor has had frozen."""
    green: str = ""
    """The candidate to go back to, where the auditor has asked for that."""
    halt: str = ""
    """Why the auditor has the run end, if it has."""
    looked: int = -1
    """The generation of the last candidate that the auditor has told the loop of."""
    stop: str = ""
    rejected: str = ""
    """Why this generation gave no candidate, if it gave none."""


def initial(run: str) -> RunState:
    """The state of a run of which nothing is known."""
    return RunState(run)


def evolve(state: RunState, event: Event) -> RunState:
    """The state after the event. The state is changed in place: it belongs to whoever folds."""
    match event.data:
        case RunStarted() as started:
            if state.started is None:
                state.started = started
            elif started.parent_run:
                _fork(state, event.run, state.started, started)
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
                state.current = _candidate(event.run, state.generation, scaffold, adapter, "scaffold" if generation else "start")
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
            state.update.solved |= _solved(state.shards)
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
                state.current = _candidate(event.run, state.generation, state.best.scaffold, adapter, "weights")
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


def decide(state: RunState, event: Event, version: int) -> list[Fact]:
    """What is due now; nothing while the run is paused, and nothing between barriers."""
    del event  # what is due follows from the state; version 2 knew more facts than version 1, version 3 waits for the auditor
    if state.started is None or state.paused:
        return []
    match state.phase:
        case "new":
            return [ScaffoldRequested(generation=0, task=state.started.task)]
        case "evaluate":
            return list(_evaluation(state, state.started))
        case "again":
            return list(state.again.values())
        case "playing" if state.waiting == 0:
            if not state.update:
                return _judgement(state, state.started)
            return list(_hints(state, state.update, state.started)) or [_sealed_batch(state, state.update, state.started)]
        case "seal":
            assert state.update
            return [_sealed_batch(state, state.update, state.started)]
        case "round_done":
            return _next_round(state, state.started)
        case "next":
            return _next_generation(state, state.started, version)
        case _:
            return []


DECIDER = Decider(version=3, initial=initial, evolve=evolve, decide=decide)


def _candidate(run: str, generation: int, scaffold: str, adapter: str, lever: str) -> Candidate:
    return Candidate(derive(run, "candidate", generation), generation, scaffold, adapter, lever)


def _fork(state: RunState, run: str, before: RunStarted, started: RunStarted) -> None:
    """Go on in a new run from where its parent stood.

    Where scores mean something else now, the best candidate is judged anew, in a generation of its own that counts for none.
    """
    state.started, state.paused = started, False
    if not started.on_drift or judged_otherwise(before, started):  # what was found is not asked about, or is about other scores
        state.frozen, state.green, state.halt = (), "", ""
    state.looked = state.kept[-1].generation if state.kept else -1  # what the parent kept is looked at in the parent, if at all
    if judged_otherwise(before, started):
        basis = state.best or state.current
        state.best, state.update, state.shards, state.history, state.again, state.waiting = None, None, {}, {}, {}, 0
        state.kept = []
        state.stop = state.rejected = ""
        state.phase = "evaluate" if basis else "new"
        if basis:
            kept = started.base_model == before.base_model
            state.generation, state.judged_anew = state.generation + 1, state.judged_anew + 1
            state.current = _candidate(run, state.generation, basis.scaffold, basis.adapter if kept else "", "start")
            state.current.state = basis.state if kept else ""
        return
    if state.update and "weights" not in started.levers:
        state.update, state.shards, state.history, state.again, state.waiting = None, {}, {}, {}, 0
        state.rejected, state.phase = "the fork may not change the weights", "next"
        return
    match state.phase:
        case "finished":
            state.stop, state.phase = "", "next"
        case "asked":
            state.phase = "next" if state.best else "new"
            state.generation -= 1 if state.best else 0
        case "playing":
            state.again = {key: shard.requested for key, shard in state.shards.items() if not shard.complete}
            state.waiting = 0
            state.phase = "again" if state.again else "playing"
        case "training" | "serving":
            state.phase = "seal"


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


def _parent(state: RunState) -> Candidate | None:
    """What the next generation begins with, and what the run has arrived at if there is none."""
    return next((one for one in state.kept if one.id == state.green), state.best)


def judged_otherwise(before: RunStarted, started: RunStarted) -> bool:
    """Whether scores mean something else in a fork than in its parent, so that its best candidate is judged anew."""
    return any(getattr(before, name) != getattr(started, name) for name in ("verifier", "verifier_code", "base_model", "max_tokens"))


def judged_anew(facts: Iterable[Fact]) -> int:
    """The place, among the facts of a run and its past, since which scores mean what they mean at the end."""
    first, started = 0, None
    for place, fact in enumerate(facts):
        if isinstance(fact, RunStarted):
            first = place if started and judged_otherwise(started, fact) else first
            started = fact
    return first


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


def _evaluation(state: RunState, started: RunStarted) -> list[RolloutsRequested]:
    assert state.current
    scaffold, adapter = state.current.scaffold, state.current.adapter
    return [
        *_shards(state, started, "dev", 1, scaffold, adapter, [(-1, started.items.dev)], attempts=1, temperature=0.0),
        *_shards(state, started, "probe", 1, scaffold, adapter, list(enumerate(started.items.probe)), started.group_size, 1.0),
    ]


def _shards(
    state: RunState,
    started: RunStarted,
    purpose: str,
    round: int,
    scaffold: str,
    adapter: str,
    folds: list[tuple[int, tuple[str, ...]]],
    attempts: int,
    temperature: float,
) -> list[RolloutsRequested]:
    width = max(1, started.shard_size // attempts)
    parts = [(fold, items[at : at + width]) for fold, items in folds for at in range(0, len(items), width)]
    return [
        RolloutsRequested(
            generation=state.generation,
            purpose=purpose,
            round=round,
            shard=number,
            scaffold=scaffold,
            adapter=adapter,
            split="dev" if purpose == "dev" else "train",
            fold=fold,
            items=items,
            attempts=attempts,
            temperature=temperature,
            seed=derive_seed(started.seed, purpose, state.generation, round),
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
    dev = [result for shard in state.shards.values() if shard.requested.purpose == "dev" for result in shard.results.values()]
    rewards = [result[1] for result in dev if result is not None]
    failed = len(dev) - len(rewards)
    estimate = mean_reward(rewards) if rewards else None
    probe = group_statistics(
        [
            [result[1] for attempt in range(shard.requested.attempts) if (result := shard.results[item, attempt]) is not None]
            for shard in state.shards.values()
            if shard.requested.purpose == "probe"
            for item in shard.requested.items
        ]
    )
    verdict = chain.judge(estimate.mean if estimate else 0.0, state.best.score if state.best else None, failed, len(dev))
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
    accepted = CandidateAccepted(generation=state.generation, candidate=state.current.id, score=estimate.mean, reason=verdict.reason)
    return [evaluated, accepted]


def _rejected(state: RunState, reason: str) -> CandidateRejected:
    candidate = state.current.id if state.current else derive(state.run, "candidate", state.generation)
    return CandidateRejected(generation=state.generation, candidate=candidate, reason=reason)


def _next_generation(state: RunState, started: RunStarted, version: int) -> list[Fact]:
    if state.rejected:
        return [_rejected(state, state.rejected)]
    if state.best is None:
        return [_finished(state, "the first scaffold could not be evaluated")]
    if state.stop or state.halt:
        return [_finished(state, state.stop or state.halt)]
    if version >= 3 and started.on_drift and state.kept and state.looked < state.kept[-1].generation:
        return []  # until the auditor has looked
    generations_left = started.generations + state.judged_anew - state.generation
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
    generation, parent = state.generation + 1, _parent(state)
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
    best = _parent(state)
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
    if update.ended:
        reason = update.ended
    elif number > update.requested.rounds:
        reason = f"all {update.requested.rounds} rounds are done"
    elif not cost:
        reason = "every train item is solved"
    elif not _affordable(state, started, cost + evaluation_cost(started)):
        reason = f"the budget has no room for {cost} more rollouts"
    else:
        scaffold = state.best.scaffold
        return list(_shards(state, started, "train", number, scaffold, update.adapter, folds, started.group_size, 1.0))
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


def _solved(shards: dict[str, Shard]) -> set[str]:
    """The items that were answered rightly, and without a hint."""
    return {
        item
        for shard in shards.values()
        if shard.requested.purpose == "train"
        for (item, _), result in shard.results.items()
        if result is not None and result[1] >= SOLVED
    }


def _hints(state: RunState, update: Update, started: RunStarted) -> list[RolloutsRequested]:
    """One attempt at each item that this round did not solve, with the true answer in sight; none if not ordered, done, or too dear."""
    solved = _solved(state.shards)
    folds = [(fold, tuple(item for item in items if item not in solved)) for fold, items in _folds_played(state.shards)]
    cost = sum(len(items) for _, items in folds)
    if not update.requested.hints or update.hinted or not _affordable(state, started, cost + evaluation_cost(started)):
        return []
    assert state.best
    return _shards(state, started, "hint", update.round, state.best.scaffold, update.adapter, folds, attempts=1, temperature=1.0)


def _folds_played(shards: dict[str, Shard]) -> list[tuple[int, tuple[str, ...]]]:
    return [(shard.requested.fold, shard.requested.items) for shard in shards.values()]


def _sealed_batch(state: RunState, update: Update, started: RunStarted) -> TrainingBatchSealed:
    """The batch of the round that has just been played, over the rounds that the update's memory covers."""
    everything = state.history | state.shards
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
        parent_state="" if update.requested.restart else update.state,
        training_seed=derive_seed(started.seed, "training", state.generation, update.round),
        requests=requests,
        trajectories=len(scored),
        digest=batch_digest(scored),
    )


def batch_digest(scored: list[tuple[str, float]]) -> str:
    """SHA-256 over (trajectory, reward) pairs in the batch's order."""
    total = hashlib.sha256()
    for trajectory, reward in scored:
        total.update(f"{trajectory} {reward!r}\n".encode())
    return total.hexdigest()
