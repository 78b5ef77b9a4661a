"""What a run does next: begin generations, evaluate candidates, update weights, settle what has ended, finish.

Which candidate is changed, and what becomes of what comes of it, is the strategy's rule (`algorithms/search`). The
budget is checked here. What is due follows from the state alone, whichever event came last.

Generations that are under way never look at each other: each goes by its parent as it was at its beginning, and by the
rollouts that it was granted then. They end in any order and are settled in the order of their numbers. After each that
is settled, others begin, up to the run's width. So what is chosen, and from which population, does not depend on which
candidate was ready first. It costs time where an early generation is slow: those after it wait to be settled, and up to
`width` less one places stay empty.
"""

from collections.abc import Sequence
from random import Random
from typing import assert_never

from algorithms.levers.schedules import Turn, scheduled
from algorithms.search.catalogue import STRATEGIES
from algorithms.search.strategy import ParentChoice, Strategy, Trial, Verdict
from algorithms.statistics import group_statistics, mean_reward
from events.change import ScaffoldProposed, ScaffoldRequested
from events.choice import FeedbackRequested, ParentSelected
from events.codec import Event
from events.fact import Fact, derive, derive_seed
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.run import RunFinished, RunStarted
from runtime.run.decider import Decider
from runtime.run.evolve import evolve, mean_rewards
from runtime.run.flight import step
from runtime.run.looks import recheck, rechecked
from runtime.run.state import (
    Candidate,
    Flight,
    RunState,
    bar_of,
    champion,
    draw_seed,
    evaluation_cost,
    granted,
    initial,
    members,
    remaining,
    repeat_cost,
)


def decide(state: RunState, event: Event, version: int) -> list[Fact]:
    """What is due now; nothing while the run is paused unless it is cancelled, and nothing between barriers.

    What is due follows from the state alone, so `event` decides nothing. Rules by version: 2 seals batches with the
    parent's optimiser state, 3 waits for the auditor where it may act, 4 divides no submission and counts what judging
    costs, 5 holds a population, 6 takes rewards for the same where rounding alone sets them apart.
    """
    del event
    started = state.started
    if started is None or state.finished:
        return []
    if over := _over(state, started):
        return [_finished(state, over)]
    if state.paused:
        return []
    if not state.opened:
        return _opening(started)
    for flight in state.flights.values():
        if facts := step(state, flight, started, version):
            return list(facts)
    unaudited = version >= 3 and _unaudited(state, started)
    if unaudited and state.flights:
        return []  # until the auditor has looked: what it says is said of the population as it is
    return _beginning(state, started, unaudited) or _settling(state, started, version)


DECIDER = Decider(version=6, initial=initial, evolve=evolve, decide=decide)


def _over(state: RunState, started: RunStarted) -> str:
    """Why the run ends at once, if it does."""
    if state.cancelled is not None:
        return f"cancelled: {state.cancelled}" if state.cancelled else "cancelled"
    limit = started.budget.seconds
    return "budget exhausted" if limit is not None and state.seconds >= limit else ""


# how generations begin


def _opening(started: RunStarted) -> list[Fact]:
    """The first scaffold is asked for, unless the run was started with one."""
    if not started.start_scaffold:
        return [ScaffoldRequested(generation=0, task=started.task)]
    return [
        ScaffoldProposed(
            generation=0,
            scaffold=started.start_scaffold,
            parent="",
            summary="the scaffold that the run was started with",
            reason=f"run {started.owner} goes on from it in generation {started.owner_generation}"
            if started.owner
            else "",
        )
    ]


def _unaudited(state: RunState, started: RunStarted) -> bool:
    best = state.best if started.on_drift else None
    return best is not None and state.last_audited_generation < best.generation


def _beginning(state: RunState, started: RunStarted, unaudited: bool) -> list[Fact]:
    """The next generation, or the run's end where there is none and nothing is under way."""
    if len(state.flights) >= started.width:
        return []
    if unaudited and not state.audit_stop_reason:
        return []  # until the auditor has looked
    selection, end = _selection(state, started)
    if selection is None:
        return [] if state.flights else [_finished(state, end)]
    number, again = _next(state)
    by_id = {candidate.id: candidate for candidate in state.population}
    parent, second = by_id[selection.parents[0]], selection.parents[1:]
    selected = ParentSelected(
        generation=number,
        candidate=parent.id,
        probabilities=dict(selection.probabilities),
        second=second[0] if second else "",
        change=selection.change,
    )
    if selection.change == "repeat":
        return [selected]
    grant, turn = granted(state), _turn(state, started, number)
    return [
        selected,
        FeedbackRequested(
            generation=number,
            candidate=parent.id,
            scaffold=parent.scaffold,
            adapter=parent.adapter,
            levers=turn.levers,
            rollouts_left=None if grant is None else grant - evaluation_cost(started),
            generations_left=_generations_left(state, started),
            probe_requests=parent.probe_requests,
            dev_requests=parent.dev_requests,
            settled=again.settled if again else state.settled,
            beside=again.beside
            if again
            else tuple(
                flight.generation
                for flight in state.flights.values()
                if flight.parent is not None and flight.parent.id == parent.id
            ),
            second_scaffold=by_id[second[0]].scaffold if second else "",
            propensities=dict(turn.propensities.items()),
        ),
    ]


def _selection(state: RunState, started: RunStarted) -> tuple[ParentChoice | None, str]:
    """The next parent, or why there is none."""
    candidates = remaining(state)
    if not candidates:
        return None, "the first scaffold could not be evaluated"
    if state.audit_stop_reason:
        return None, state.audit_stop_reason
    number, _ = _next(state)
    random = Random(derive_seed(draw_seed(started), "parent", number))
    selection = _selected_before(state, candidates) or _strategy(started).select(members(candidates), random)
    if selection is None:
        given_up = [candidate.stop_reason for candidate in candidates if candidate.given_up]
        return None, given_up[-1] if given_up else "the strategy has nothing more to try"
    if _generations_left(state, started) <= 0:
        return None, f"all {started.generations} generations are done"
    budget, grant = started.budget, granted(state)
    cost = repeat_cost(started) if selection.change == "repeat" else evaluation_cost(started)
    if (
        (grant is not None and grant < cost)
        or (budget.tokens is not None and state.tokens >= budget.tokens)
        or (budget.micro_usd is not None and state.micro_usd >= budget.micro_usd)
    ):
        return None, "budget exhausted"
    if selection.change == "agent" and not _turn(state, started, number).levers:
        return None, "the auditor has had every lever frozen"
    return selection, ""


def _next(state: RunState) -> tuple[int, FeedbackRequested | None]:
    """The number of the next generation; and of one that a fork begins again, what the agent was asked."""
    number = min(state.reopened, default=state.generation + 1)
    return number, state.reopened[number].requested if number in state.reopened else None


def _selected_before(state: RunState, candidates: Sequence[Candidate]) -> ParentChoice | None:
    """The parents of a generation that a fork begins again, if they are still there."""
    selected = state.reopened[min(state.reopened)].selected if state.reopened else None
    if selected is None:
        return None
    parents = (selected.candidate, *filter(None, [selected.second]))
    if not {candidate.id for candidate in candidates}.issuperset(parents):
        return None
    return ParentChoice(parents, selected.probabilities, selected.change)


def _strategy(started: RunStarted) -> Strategy:
    return STRATEGIES[started.strategy]


def _generations_left(state: RunState, started: RunStarted) -> int:
    return started.generations + state.rebaselined - state.generation + len(state.reopened)


def _turn(state: RunState, started: RunStarted, generation: int) -> Turn:
    levers = [lever for lever in started.levers if lever not in state.frozen]
    number = generation - state.rebaselined
    random = Random(derive_seed(draw_seed(started), "lever", generation))
    return scheduled(started.schedule, levers, number, started.generations, random)


# how they end


def _settling(state: RunState, started: RunStarted, version: int) -> list[Fact]:
    """What becomes of the generation that is next to be settled, if it has ended."""
    flight = next(iter(state.flights.values()), None)
    if flight is None:
        return []
    if flight.phase == "failed":
        return [_rejected(state, flight, flight.reason)]
    if flight.phase == "stopped":
        return _stopped(state, flight, started)
    if flight.phase != "playing" or flight.waiting:
        return []
    rolled_back = state.rolled_back | state.dropped
    if version >= 5 and any(parent.id in rolled_back for parent in (flight.parent, flight.second) if parent):
        return [_rejected(state, flight, "the candidate that it was made from was rolled back")]
    return _judgement(state, flight, started, version)


def _stopped(state: RunState, flight: Flight, started: RunStarted) -> list[Fact]:
    assert flight.parent
    others = [
        member._replace(given_up=True) if member.id == flight.parent.id else member
        for member in members(state.population)
    ]
    more = _strategy(started).select(others, Random(0)) if others else None
    if len(state.flights) == 1 and more is None:
        return [_finished(state, flight.reason)]
    return [_rejected(state, flight, f"the agent chose to stop here: {flight.reason}")]


def _judgement(state: RunState, flight: Flight, started: RunStarted, version: int) -> list[Fact]:
    candidate = flight.candidate
    assert candidate
    dev = [
        result
        for shard in flight.shards.values()
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
            for shard in flight.shards.values()
            if shard.requested.purpose == "probe"
            for item in shard.requested.items
        ],
        exact=version < 6,
    )
    best = champion(state)
    if wanted := recheck(flight, best, started):
        return list(wanted)
    second = rechecked(flight, best, started)
    score = estimate.mean if estimate else 0.0
    if second and best:
        score = bar_of(best) + second.difference
    trial = Trial(
        score,
        mean_rewards(flight.shards, "dev"),
        probe.pass_at_1 if any(started.items.probe) else None,
        failed,
        len(dev),
    )
    verdict = _strategy(started).judge(trial, members(remaining(state)))
    if not estimate:
        return [_rejected(state, flight, verdict.reason)]
    evaluated = CandidateEvaluated(
        generation=flight.generation,
        candidate=candidate.id,
        scaffold=candidate.scaffold,
        adapter=candidate.adapter,
        lever=candidate.lever,
        score=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        items=len(dev),
        failed=failed,
        pass_at_1=probe.pass_at_1,
        pass_at_k=probe.pass_at_k,
        tied_groups=probe.tied,
        rollouts=state.rollouts + flight.rollouts,
        tokens=state.tokens + flight.tokens,
        micro_usd=state.micro_usd + flight.micro_usd,
        parents=candidate.parents,
    )
    return [*([second] if second else []), evaluated, _verdict(state, flight, verdict, estimate.mean)]


def _verdict(state: RunState, flight: Flight, verdict: Verdict, score: float) -> Fact:
    assert flight.candidate
    match verdict.standing:
        case "accept":
            kind: type[CandidateAccepted | CandidateKept] = CandidateAccepted
        case "keep":
            kind = CandidateKept
        case "drop":
            return _rejected(state, flight, verdict.reason)
        case _:
            assert_never(verdict.standing)
    return kind(generation=flight.generation, candidate=flight.candidate.id, score=score, reason=verdict.reason)


def _rejected(state: RunState, flight: Flight, reason: str) -> CandidateRejected:
    candidate = flight.candidate.id if flight.candidate else derive(state.run, "candidate", flight.generation)
    return CandidateRejected(generation=flight.generation, candidate=candidate, reason=reason)


def _finished(state: RunState, reason: str) -> RunFinished:
    best = champion(state)
    rollouts, tokens, micro_usd = state.spent
    return RunFinished(
        reason=reason,
        candidate=best.id if best else "",
        scaffold=best.scaffold if best else "",
        adapter=best.adapter if best else "",
        score=best.score if best and best.score is not None else 0.0,
        generations=state.begun,
        rollouts=rollouts,
        tokens=tokens,
        micro_usd=micro_usd,
    )
