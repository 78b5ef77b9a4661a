"""What a generation under way does next: it evaluates its candidate, or goes on with its weight update.

It goes by its parent as it was when it was selected, and by the rollouts that it was granted then. What the other
generations do is nothing to it.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

from algorithms.statistics import magnitude, tied
from events.change import ChildRunOrdered
from events.fact import Fact, derive_seed
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from events.weights import TrainingBatchSealed, WeightUpdateFinished
from runtime.run.batch import batch_digest
from runtime.run.child import child_name
from runtime.run.evolve import solved_items
from runtime.run.looks import asked_items, first_items, stage
from runtime.run.requests import Folds, Rollouts, affordable, requests
from runtime.run.state import Flight, RunState, ShardProgress, WeightUpdate, child_limit, draw_seed, evaluation_cost


def step(state: RunState, flight: Flight, started: RunStarted, version: int) -> Sequence[Fact]:
    """What is due for a generation under way, by the rules of this version of the decider, whatever the others do;
    nothing while it waits for an effect, or to be settled.
    """
    match flight.phase:
        case "evaluate":
            return _evaluation(flight, started)
        case "reissue":
            return list(flight.reissued.values())
        case "playing" | "training" | "serving" if flight.update and flight.update.max_lag:
            return _lagging(flight, flight.update, started)
        case "playing" if flight.waiting:
            return []
        case "playing" if flight.update:
            return (
                _refills(flight, flight.update, started, version)
                or _hints(flight, flight.update, started)
                or [_sealed_batch(flight, flight.update, started, flight.update.round)]
            )
        case "playing":
            return stage(flight, started)
        case "seal":
            assert flight.update
            return [_sealed_batch(flight, flight.update, started, flight.update.sealed)]
        case "round_done":
            return _next_round(flight, started)
        case "nest":
            return [_child(state, flight, started)]
        case "proposing" | "training" | "serving" | "nested" | "failed" | "stopped":
            return []
        case _:
            assert_never(flight.phase)


def _evaluation(flight: Flight, started: RunStarted) -> list[RolloutsRequested]:
    candidate = flight.candidate
    assert candidate
    pair = candidate.scaffold, candidate.adapter
    dev, first, asked = started.items.dev, first_items(flight, started), asked_items(flight)
    if first and not asked:
        return requests(flight, started, Rollouts("dev", 1, *pair, 1, 0.0), [(-1, dev[:first])])
    again = candidate.lever == "repeat"
    done = sum(shard.requested.purpose == "dev" for shard in flight.shards.values())
    others = Rollouts("dev", 1, *pair, attempts=1, temperature=1.0 if again else 0.0, first_shard=done)
    probed = Rollouts("probe", 1, *pair, attempts=1 if again else started.group_size, temperature=1.0)
    return [
        *requests(flight, started, others, [(-1, dev[asked:])]),
        *requests(flight, started, probed, list(enumerate(started.items.probe))),
    ]


def _lagging(flight: Flight, update: WeightUpdate, started: RunStarted) -> Sequence[Fact]:
    """Where rollouts may lag: a batch, once one may be trained and as many attempts as its round asked for are there,
    or all that will come; else the rollouts of a further round, unless its batch would be too far from their adapter.
    """
    free = flight.phase == "playing"
    if free and (batch := _first_arrived(flight, update)):
        return [_sealed_batch(flight, update, started, update.sealed + 1, batch)]
    folds, reason = _round(flight, update, started)
    if not reason:
        size = started.group_size * sum(len(items) for _, items in folds)
        under_way = (update.sealed - update.trained) * size + sum(map(_attempts, flight.shards.values()))
        return _train_requests(flight, update, started, folds) if under_way <= update.max_lag * size else []
    if not free or flight.waiting:
        return []
    if update.arrived:
        return [_sealed_batch(flight, update, started, update.sealed + 1, _as_asked(flight, update.arrived))]
    return _next_round(flight, started)


def _first_arrived(flight: Flight, update: WeightUpdate) -> list[str]:
    """The requests that were complete first, as many as the next batch is to have, in the order in which they were
    asked for; none while there are fewer.
    """
    asked, taken = update.asked.get(update.sealed + 1), 0
    for place, id in enumerate(update.arrived, 1):
        taken += _attempts(flight.shards[id])
        if asked and taken >= asked.rollouts:
            return _as_asked(flight, update.arrived[:place])
    return []


def _as_asked(flight: Flight, ids: Sequence[str]) -> list[str]:
    """The requests in the order in which they were asked for, so that a batch runs from old adapters to new ones."""
    return [id for id in flight.shards if id in ids]


def _attempts(shard: ShardProgress) -> int:
    return len(shard.requested.items) * shard.requested.attempts


def _round(flight: Flight, update: WeightUpdate, started: RunStarted) -> tuple[Folds, str]:
    """The items of a further round, or none and why."""
    if update.end_reason:
        return [], update.end_reason
    if update.round >= update.requested.rounds:
        return [], f"all {update.requested.rounds} rounds are done"
    folds = [
        (fold, tuple(item for item in items if update.requested.resample == "all" or item not in update.solved))
        for fold, items in enumerate(started.items.folds)
    ]
    cost = started.group_size * sum(len(items) for _, items in folds)
    if not cost:
        return [], "every train item is solved"
    if not affordable(flight, cost + evaluation_cost(started)):
        return [], f"the budget has no room for {cost} more rollouts"
    return folds, ""


def _train_requests(flight: Flight, update: WeightUpdate, started: RunStarted, folds: Folds) -> list[RolloutsRequested]:
    assert flight.parent
    scaffold, number = flight.parent.scaffold, update.round + 1
    rollouts = Rollouts("train", number, scaffold, update.adapter, started.group_size, temperature=1.0)
    return requests(flight, started, rollouts, folds)


def _next_round(flight: Flight, started: RunStarted) -> Sequence[Fact]:
    update = flight.update
    assert update
    folds, reason = _round(flight, update, started)
    if not reason:
        return _train_requests(flight, update, started, folds)
    return [
        WeightUpdateFinished(
            generation=flight.generation,
            adapter=update.adapter,
            rounds=update.sealed,
            rollouts=update.rollouts,
            solved=len(update.solved),
            reason=reason,
        )
    ]


def _refills(flight: Flight, update: WeightUpdate, started: RunStarted, version: int) -> list[RolloutsRequested]:
    """Further groups at the items of which every group of this round ties, so that they teach nothing (DAPO, arXiv
    2503.14476, dynamic sampling); none if not ordered, made often enough or too dear.
    """
    if update.hinted or update.refills >= started.refills or started.submissions:
        return []
    ties = _tied_items(flight.shards, exact=version < 6)
    by_fold: dict[int, tuple[str, ...]] = {}
    for fold, items in _items_by_fold(flight.shards):
        by_fold[fold] = (*by_fold.get(fold, ()), *(item for item in items if item in ties))
    folds = list(by_fold.items())
    cost = started.group_size * sum(len(items) for _, items in folds)
    if not cost or not affordable(flight, cost + evaluation_cost(started)):
        return []
    assert flight.parent
    rollouts = Rollouts(
        "train",
        update.round,
        flight.parent.scaffold,
        update.adapter,
        started.group_size,
        temperature=1.0,
        refill=update.refills + 1,
        first_shard=len(flight.shards),
    )
    return requests(flight, started, rollouts, folds)


def _tied_items(shards: Mapping[str, ShardProgress], exact: bool) -> frozenset[str]:
    """The items of which no group has two rewards that differ: to the bit if `exact`, else by more than rounding."""
    items = {item for shard in shards.values() for item in shard.requested.items}
    results = [result for shard in shards.values() for result in shard.results.values() if result is not None]
    scale = magnitude(result.reward for result in results)
    differ = set()
    for shard in shards.values():
        rewards: dict[str, list[float]] = {}
        for (item, _), result in shard.results.items():
            if result is not None:
                rewards.setdefault(item, []).append(result.reward)
        differ |= {item for item, group in rewards.items() if len(set(group)) > 1 and (exact or not tied(group, scale))}
    return frozenset(items - differ)


def _hints(flight: Flight, update: WeightUpdate, started: RunStarted) -> list[RolloutsRequested]:
    """One attempt at each item this round did not solve, hinted with the true answer; none if not ordered, already made
    or too dear.
    """
    solved = solved_items(flight.shards, started.solved)
    folds = [
        (fold, tuple(item for item in items if item not in solved)) for fold, items in _items_by_fold(flight.shards)
    ]
    cost = sum(len(items) for _, items in folds)
    if not update.requested.hints or update.hinted or not affordable(flight, cost + evaluation_cost(started)):
        return []
    assert flight.parent
    rollouts = Rollouts("hint", update.round, flight.parent.scaffold, update.adapter, attempts=1, temperature=1.0)
    return requests(flight, started, rollouts, folds)


def _items_by_fold(shards: Mapping[str, ShardProgress]) -> list[tuple[int, tuple[str, ...]]]:
    return [(shard.requested.fold, shard.requested.items) for shard in shards.values() if not shard.requested.refill]


def _sealed_batch(
    flight: Flight, update: WeightUpdate, started: RunStarted, number: int, own: Sequence[str] = ()
) -> TrainingBatchSealed:
    """The batch of a round, over the rounds that the update's memory covers; `own` are its own requests, unless they
    are known.
    """
    everything = {**flight.history, **flight.shards}
    of_rounds = {**update.requests, number: tuple(own) or update.requests[number]}
    rounds = range(1, number + 1) if update.requested.memory == "update" else [number]
    requests = tuple(request for covered in rounds for request in of_rounds[covered])
    results = [
        everything[request].results[item, attempt]
        for request in requests
        for item in everything[request].requested.items
        for attempt in range(everything[request].requested.attempts)
    ]
    scored = [result for result in results if result is not None]
    return TrainingBatchSealed(
        generation=flight.generation,
        round=number,
        algorithm=started.algorithm or update.requested.algorithm,
        hyper=update.requested.hyper if started.algorithm in ("", update.requested.algorithm) else {},
        parent_adapter="" if update.requested.restart else update.adapter,
        parent_state="" if update.requested.restart else update.optimizer_state,
        training_seed=derive_seed(draw_seed(started), "training", flight.generation, number),
        requests=requests,
        trajectories=len(scored),
        digest=batch_digest(scored),
    )


def _child(state: RunState, flight: Flight, started: RunStarted) -> ChildRunOrdered:
    wanted, parent = flight.child, flight.parent
    assert wanted and parent
    return ChildRunOrdered(
        generation=flight.generation,
        child=child_name(state.run, flight.generation),
        seed=derive_seed(draw_seed(started), "child", flight.generation),
        levers=tuple(lever for lever in started.levers if lever in wanted.levers),
        generations=wanted.generations,
        rollouts=child_limit(flight, wanted, started),
        tokens=_left(started.budget.tokens, flight.spent_before[0]),
        micro_usd=_left(started.budget.micro_usd, flight.spent_before[1]),
        scaffold=parent.scaffold,
        adapter=parent.adapter,
        state=parent.optimizer_state,
    )


def _left(limit: int | None, spent: int) -> int | None:
    return None if limit is None else max(0, limit - spent)
