"""What must hold of every log, whatever happened to those who wrote it: one function each, which raises AssertionError
with a sentence.

They take messages (`stored`) or events in the order of the log, of any number of runs that are over.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

import msgspec

from events import codec, subjects
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
from events.fact import Fact
from events.gold import AuditFinished
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import (
    AuditReleased,
    DecisionMade,
    EventSetAside,
    RunCancelled,
    RunFinished,
    RunStarted,
    TimeSpent,
)
from events.weights import (
    AdapterPublished,
    AdapterRejected,
    AdapterServed,
    OptimizerStepApplied,
    TrainingBatchSealed,
    WeightUpdateFailed,
    WeightUpdateFinished,
)
from replay.chain import Chain
from runtime.log.port import Stored, exclusive_key, readable, require_contiguous
from runtime.run.batch import batch_digest
from runtime.run.decide import DECIDER
from runtime.run.decider import DecisionSession

BY_CHANCE = frozenset({"decision_made", "event_set_aside", "run_paused", "run_resumed"})
"""Types of event that a disturbed run may have more or other of: heads hold digests of times, and an operator comes
when he likes.
"""
BESIDE = frozenset({"event_set_aside", "run_started", "run_cancelled", "time_spent", "child_run_finished"})
"""Types of event that a controller says, and no decider."""
SETTLING = frozenset(
    fact.tag()
    for fact in (ParentSelected, FeedbackRequested, CandidateEvaluated, CandidateAccepted, CandidateKept, RunFinished)
)
"""Types of decision that come in one order, whichever generation ends first."""
HOW = frozenset({"seconds", "body", "index"})
"""Fields that say how long a thing took, or with what else it was asked."""


def checks(
    stored: Sequence[Stored], gold: Sequence[Stored] | None, undisturbed: Sequence[Event] | None
) -> list[Callable[[], None]]:
    """Every invariant but `projections_rebuild`; the audit's where `gold` is given, and sameness where there is an
    undisturbed run.
    """
    events, scored = readable(stored), readable(gold or ())
    found: list[Callable[[], None]] = [
        lambda: once_only(stored),
        lambda: causes_come_first(events),
        lambda: every_request_is_answered(events),
        lambda: none_outlives_its_owner(events),
        lambda: nothing_counts_twice(events),
        lambda: no_step_twice(events),
        lambda: budget_is_kept(events),
        lambda: population_is_sound(events),
        lambda: chains_hold(stored),
        lambda: decisions_follow(stored),
    ]
    if undisturbed is not None:
        found += [lambda: same_decisions(events, undisturbed)]
    if gold is not None:
        found += [lambda: once_only(gold), lambda: audited_once(events, scored)]
    return found


def check_all(stored: Sequence[Stored], gold: Sequence[Stored] | None, undisturbed: Sequence[Event] | None) -> None:
    """Raise the first of the `checks` that does not hold."""
    for check in checks(stored, gold, undisturbed):
        check()


def every_request_is_answered(events: Iterable[Event]) -> None:
    """Every request, and every run, is answered or failed; of a run that was cut short, the run itself is.

    What was asked for ahead, and is in no batch, may be left behind.
    """
    asked: dict[tuple[object, ...], Event] = {}
    answered: set[tuple[object, ...]] = set()
    for run, of in _by_run(events).items():
        behind = _left_behind(of)
        wanted = [event for event in of if not {event.id, getattr(event.data, "request", "")} & behind]
        wanted = [event for event in of if isinstance(event.data, RunStarted)] if _cut_short(of) else wanted
        asked |= {(run, *key): event for event in wanted for key in _asks(event)}
        answered.update((run, *key) for event in of for key in _answers(event))
    for key, event in asked.items():
        assert key in answered, (
            f"Every request is answered or failed, but not {_name(event)}: nothing came for {key[1:]}."
        )


def none_outlives_its_owner(events: Iterable[Event]) -> None:
    """A run that belongs to another ends before it, or is cancelled with it."""
    runs = _by_run(events)
    for run, of in runs.items():
        owner = next(iter(_facts(of, RunStarted))).owner
        told = any(fact.child == run for fact in _facts(runs.get(owner, ()), ChildRunFinished))
        assert not owner or told or _facts(of, RunCancelled), (
            f"No run outlives its owner, but {run} was not cancelled, and {owner} heard nothing of its end."
        )


def nothing_counts_twice(events: Iterable[Event]) -> None:
    """No attempt, reward or call counts twice: what was decided on is what a count of the distinct facts gives."""
    for run, of in _by_run(events).items():
        _counts_once(run, of)


def no_step_twice(events: Iterable[Event]) -> None:
    """No optimiser step is taken twice or left out: a round's steps count from 0, on the batch and the parent that were
    sealed.
    """
    for run, of in _by_run(events).items():
        sealed = {(fact.generation, fact.round): fact for fact in _facts(of, TrainingBatchSealed)}
        taken = Counter((step.generation, step.round, step.step) for step in _facts(of, OptimizerStepApplied))
        twice = [place for place, times in taken.items() if times > 1]
        assert not twice, (
            f"No optimiser step is taken twice, but run {run} took the step (generation, round, step) {twice[0]} again."
        )
        for generation, number, _ in taken:
            steps = sorted(
                step for of_generation, of_round, step in taken if (of_generation, of_round) == (generation, number)
            )
            assert steps == list(range(len(steps))), (
                f"Run {run} left out a step of generation {generation}, round {number}: {steps}."
            )
        for fact in (*_facts(of, OptimizerStepApplied), *_facts(of, AdapterPublished)):
            batch = sealed.get((fact.generation, fact.round))
            assert batch and (batch.digest, batch.parent_adapter) == (fact.batch, fact.parent_adapter), (
                f"Run {run} trained in generation {fact.generation}, round {fact.round} on what was not sealed for "
                f"it: {fact}."
            )
        published = Counter((fact.generation, fact.round) for fact in _facts(of, AdapterPublished))
        assert max(published.values(), default=1) == 1, f"Run {run} published two adapters of one round: {published}."


def budget_is_kept(events: Iterable[Event]) -> None:
    """No more rollouts are asked for than the budget has, and no generation begins once those that are settled have
    spent its tokens or dollars.
    """
    for run, of in _by_run(events).items():
        started = next(iter(_facts(of, RunStarted)))
        budget, planned, spent = started.budget, 0, {"": (0, 0)}
        tokens = micro_usd = 0
        settled = (0, 0)
        for event in of:
            match event.data:
                case ModelCalled() | AgentCalled() as called:
                    tokens += (called.prompt_tokens or 0) + (called.completion_tokens or 0)
                    micro_usd += called.micro_usd or 0
                case TrialFinished() as trial:
                    planned += trial.rollouts
                    tokens += trial.prompt_tokens + trial.completion_tokens
                case RolloutsRequested() as requested:
                    planned += len(requested.items) * requested.attempts
                case ChildRunFinished(rollouts=rollouts):
                    planned += rollouts
                case CandidateEvaluated() as evaluated:
                    settled = evaluated.tokens, evaluated.micro_usd
                case FeedbackRequested(generation=generation):
                    used = spent.get(event.cause, (0, 0)) if started.width == 1 else settled
                    for what, limit, by in (
                        ("tokens", budget.tokens, used[0]),
                        ("micro_usd", budget.micro_usd, used[1]),
                    ):
                        assert limit is None or by < limit, (
                            f"The budget is kept, but run {run} began generation {generation} with {by} of {limit} "
                            f"{what} spent."
                        )
            spent[event.id] = (tokens, micro_usd)
        limit = budget.rollouts
        assert limit is None or planned <= limit, (
            f"The budget is kept, but run {run} asked for {planned} rollouts of {limit}."
        )


def population_is_sound(events: Iterable[Event]) -> None:
    """Generations get one verdict each, in their order, and no more are under way than the width allows. Parents are of
    the population, and were selected with a probability.
    """
    for run, of in _by_run(events).items():
        started = next(iter(_facts(of, RunStarted)))
        population: dict[str, int] = {}
        begun, ended = [0], list[int]()
        for event in of:
            match event.data:
                case ParentSelected() as selected:
                    number = selected.generation
                    assert number == begun[-1] + 1, (
                        f"Generations begin one after the other, but in run {run} {number} does after {begun[-1]}."
                    )
                    begun.append(number)
                    chosen = {selected.candidate, *filter(None, [selected.second])}
                    strangers = {*chosen, *selected.probabilities} - population.keys()
                    assert not strangers, (
                        f"Parents are of the population, but {strangers} were selected for generation {number} of run "
                        f"{run}."
                    )
                    total = sum(selected.probabilities.values())
                    assert abs(total - 1) < 1e-9 and selected.probabilities.get(selected.candidate, 0) > 0, (
                        f"Probabilities add up to 1, but those of generation {number} of run {run} are "
                        f"{selected.probabilities}."
                    )
                    assert len(begun) - len(ended) <= started.width, (
                        f"At most {started.width} generations are under way, but run {run} began {begun[-1]} after "
                        f"{len(ended)} had ended."
                    )
                case CandidateEvaluated() as evaluated:
                    assert evaluated.generation not in population.values() and evaluated.candidate not in population, (
                        f"A generation has one candidate, but run {run} has another of {evaluated.generation}."
                    )
                    assert population.keys() >= {*evaluated.parents} or _rollbacks(of), (
                        f"Parents are of the population, but those of generation {evaluated.generation} of run {run} "
                        f"are {evaluated.parents}."
                    )
                case CandidateAccepted() | CandidateKept() | CandidateRejected() as verdict:
                    ended.append(verdict.generation)
                    assert ended == list(range(len(ended))), (
                        f"Generations are settled once and in order, but those of run {run} were as {ended}."
                    )
                    if not isinstance(verdict, CandidateRejected):
                        population[verdict.candidate] = verdict.generation


def _rollbacks(events: Sequence[Event]) -> bool:
    return any(of.action == "rollback" for of in _facts(events, AuditReleased))


def once_only(stored: Sequence[Stored]) -> None:
    """Each event stands once; of two outcomes of one thing only one does; nothing is missing, and what cannot be read
    is set aside.
    """
    require_contiguous(stored, 1)
    decisions: Counter[str] = Counter()
    slots: dict[str, int] = {}
    unread: dict[int, str] = {}
    for message in stored:
        if not (read := readable([message])):
            unread[message.sequence] = message.subject
            continue
        event = read[0]
        if isinstance(event.data, EventSetAside):
            unread.pop(event.data.sequence, None)
        if isinstance(event.data, DecisionMade):
            decisions[event.run] += 1
            assert event.data.number == decisions[event.run], (
                f"Everything happens once, but decision {event.data.number} of run {event.run} is the "
                f"{decisions[event.run]}th in the log."
            )
            continue
        first = slots.setdefault(exclusive_key(message.subject), message.sequence)
        assert first == message.sequence, (
            f"Everything happens once, but {_name(event)} at sequence {message.sequence} stands at sequence {first} "
            "already."
        )
    assert not unread, f"Every message can be read or is set aside, but not those at the sequences {unread}."


def causes_come_first(events: Iterable[Event]) -> None:
    """Whatever an event answers, and every call that an attempt was given, stands in the log before it."""
    known: set[str] = {""}
    for event in events:
        assert event.cause in known, (
            f"Causes come first, but {_name(event)} answers {event.cause}, which stands nowhere before it."
        )
        if isinstance(event.data, TrajectoryRecorded):
            unknown = [use.call for use in event.data.calls if use.call not in known]
            assert not unknown, (
                f"A call is recorded before its answer is released, but {_name(event)} used {unknown[0]}, which is not."
            )
        known.add(event.id)


def same_decisions(events: Iterable[Event], undisturbed: Iterable[Event]) -> None:
    """What was decided and every fact is what it is in the undisturbed run; times and digests of times aside.

    Its order is too, where one generation is under way at a time.
    """
    found, expected = (_by_run(of) for of in (events, undisturbed))
    assert found.keys() == expected.keys(), (
        f"Every run ends as the undisturbed one, but there are {sorted(found)}, not {sorted(expected)}."
    )
    for run, of in expected.items():
        decided, wanted = _decided(found[run]), _decided(of)
        if any(fact.width > 1 for fact in _facts(of, RunStarted)):
            decided, wanted = ([fact for fact in facts if fact[0] in SETTLING] for facts in (decided, wanted))
        for place, (mine, theirs) in enumerate(zip(decided, wanted, strict=False)):
            assert mine == theirs, (
                f"Every run ends as the undisturbed one, but {run} decided {mine} where that decided {theirs} "
                f"({place})."
            )
        assert len(decided) == len(wanted), (
            f"Every run ends as the undisturbed one, but {run} decided {len(decided)}, not {len(wanted)} facts."
        )
        facts, others = _told(found[run]), _told(of)
        for id, fact in others.items():
            assert id in facts, f"Every run ends as the undisturbed one, but {run} has no {fact}."
            assert facts[id] == fact, f"Every run ends as the undisturbed one, but {run} has {facts[id]}, not {fact}."
        more = [facts[id] for id in facts.keys() - others.keys()]
        assert not more, f"Every run ends as the undisturbed one, but {run} has {more[0]} besides."


def chains_hold(stored: Iterable[Stored]) -> None:
    """Every decision was made on the events that stand before it."""
    chains: dict[str, Chain] = {}
    for message in stored:
        run = subjects.run_of(message.subject)
        if readable([message]):
            broken = chains.setdefault(run, Chain(run)).take(message.sequence, message.subject, message.data)
            assert broken is None, f"The chain of decisions holds, but: {broken}"


def decisions_follow(stored: Iterable[Stored]) -> None:
    """Whoever decides again from the log alone decides the same, to the byte."""
    courses: dict[str, DecisionSession[Any]] = {}
    due: dict[str, list[Event]] = defaultdict(list)
    for message in stored:
        for event in readable([message]):
            if event.source == "controller" and event.tag not in BESIDE:
                expected = due[event.run].pop(0) if due[event.run] else None
                assert expected is not None and codec.encode(expected) == message.data, (
                    f"Decisions follow from the log, but {_name(event)} at sequence {message.sequence} does not: "
                    f"{expected} does."
                )
            if decision := courses.setdefault(event.run, DecisionSession(DECIDER, event.run)).feed(message, event):
                due[event.run] += decision.events
    left = [events[0] for events in due.values() if events]
    assert not left, f"Decisions follow from the log, but {_name(left[0])} was never recorded."


def audited_once(events: Iterable[Event], gold: Iterable[Event]) -> None:
    """Every finished run is audited, once, and what was scored is counted right."""
    audits, cells = Counter[str](), Counter[str]()
    for event in gold:
        cells[event.run] += event.tag == "gold_scored"
        if isinstance(event.data, AuditFinished):
            audits[event.run] += 1
            assert event.data.cells == cells[event.run], (
                f"The audit of {event.run} counts {event.data.cells}, not {cells[event.run]} cells."
            )
    for event in events:
        if isinstance(event.data, RunFinished):
            assert audits[event.run] == 1, (
                f"Every finished run is audited once, but {event.run} was {audits[event.run]} times."
            )


def projections_rebuild(stored: Sequence[Stored], grown: Any, rebuilt: Any, seed: int = 0, views: bool = True) -> None:
    """The tables made from nothing in one batch are those made in random batches, some delivered again; both archives
    are emptied first.

    Without `views` only tables are compared.
    """
    for archive in (grown, rebuilt):
        _empty(archive)
    draw = random.Random(seed)
    while grown.cursor < len(stored):
        again = draw.randrange(4)
        grown.apply(stored[max(0, grown.cursor - again) : grown.cursor + draw.randint(1, len(stored))])
    rebuilt.apply(stored)
    same_tables(grown, rebuilt, views)


def _empty(archive: Any) -> None:
    """Which takes a tenth of the time of making it anew."""
    filled = (
        "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND estimated_size > 0 AND table_name NOT "
        "IN ('cursor', 'made')"
    )
    for (table,) in archive.connection.execute(filled).fetchall():
        archive.connection.execute(f'TRUNCATE "{table}"')
    archive.connection.execute("UPDATE cursor SET seq = 0")


def same_tables(grown: Any, rebuilt: Any, views: bool = True) -> None:
    """Two archives hold the same rows, table by table, and view by view if `views`."""
    names = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' AND table_name NOT IN "
        "('incoming', 'made')"
    )
    if not views:
        names += " AND table_type = 'BASE TABLE'"
    tables = [name for (name,) in rebuilt.connection.execute(f"{names} ORDER BY 1").fetchall()]
    assert "events" in tables
    # in one query, since a query takes longer to plan than these take to answer
    rows_of = " UNION ALL ".join(f"SELECT '{table}', row::VARCHAR FROM \"{table}\" AS row" for table in tables)
    rows, expected = (of.connection.execute(f"{rows_of} ORDER BY ALL").fetchall() for of in (grown, rebuilt))
    if rows != expected:
        (table, row) = min(set(rows) ^ set(expected), default=("a table", "with rows twice"))
        raise AssertionError(f"Every projection rebuilds identically, but {table} differs, as in {row}.")


def _asks(event: Event) -> list[tuple[object, ...]]:
    """The keys of what an event wants to see answered."""
    match event.data:
        case RunStarted():
            return [("run",)]
        case ScaffoldRequested(generation=generation):
            return [("change", generation), ("verdict", generation)]
        case FeedbackRequested(generation=generation):
            return [("change", generation)]
        case RolloutsRequested(items=items, attempts=attempts):
            return [("attempt", event.id, item, attempt) for item in items for attempt in range(attempts)]
        case TrajectoryRecorded():
            return [("judgement", event.id)]
        case WeightUpdateRequested(generation=generation):
            return [("update", generation)]
        case ChildRunRequested(generation=generation):
            return [("verdict", generation)]
        case ChildRunOrdered(generation=generation):
            return [("child", generation), ("verdict", generation)]
        case ParentSelected(generation=generation):
            return [("end", generation)]
        case LeverChosen(generation=generation, lever=lever) if lever != "stop":
            return [("verdict", generation)]
        case TrainingBatchSealed(generation=generation, round=number):
            return [("training", generation, number)]
        case AdapterPublished(adapter=adapter, batch=batch):
            return [("serving", adapter, batch)]
    return []


def _answers(event: Event) -> list[tuple[object, ...]]:
    """The keys of what an event answers."""
    match event.data:
        case RunFinished():
            return [("run",)]
        case ScaffoldProposed() | ProposalFailed() | WeightUpdateRequested() | ChildRunRequested() as change:
            return [("change", change.generation)]
        case LeverChosen(generation=generation, lever="stop"):
            return [("change", generation), ("end", generation)]
        case CandidateAccepted() | CandidateKept() | CandidateRejected() as verdict:
            return [("verdict", verdict.generation), ("end", verdict.generation)]
        case ChildRunFinished(generation=generation):
            return [("child", generation)]
        case TrajectoryRecorded() | RolloutFailed() as attempted:
            return [("attempt", attempted.request, attempted.item, attempted.attempt)]
        case TrajectoryScored(trajectory=trajectory) | ScoringFailed(trajectory=trajectory):
            return [("judgement", trajectory)]
        case WeightUpdateFinished(generation=generation):
            return [("update", generation)]
        case (
            AdapterPublished(generation=generation, round=number)
            | WeightUpdateFailed(generation=generation, round=number)
        ):
            return [("training", generation, number)]
        case AdapterServed(adapter=adapter, batch=batch) | AdapterRejected(adapter=adapter, batch=batch):
            return [("serving", adapter, batch)]
    return []


def _counts_once(run: str, events: Sequence[Event]) -> None:
    attempts = Counter(
        (of.request, of.item, of.attempt)
        for of in (*_facts(events, TrajectoryRecorded), *_facts(events, RolloutFailed))
    )
    twice = [place for place, times in attempts.items() if times > 1]
    assert not twice, (
        f"No trajectory counts twice, but run {run} has the attempt (request, item, number) {twice[0]} again."
    )
    judged = Counter(of.trajectory for of in (*_facts(events, TrajectoryScored), *_facts(events, ScoringFailed)))
    assert max(judged.values(), default=1) == 1, (
        f"No trajectory counts twice, but run {run} judged {judged.most_common(1)[0][0]} again."
    )
    requests = {event.id: event.data for event in events if isinstance(event.data, RolloutsRequested)}
    rewards = {(of.request, of.item, of.attempt): (of.trajectory, of.reward) for of in _facts(events, TrajectoryScored)}

    def scored(ids: Iterable[str]) -> list[tuple[str, float]]:
        places = [
            (id, item, attempt) for id in ids for item in requests[id].items for attempt in range(requests[id].attempts)
        ]
        return [rewards[place] for place in places if place in rewards]

    for batch in _facts(events, TrainingBatchSealed):
        pairs = scored(batch.requests)
        assert (
            len(set(batch.requests)) == len(batch.requests)
            and len({id for id, _ in pairs}) == len(pairs) == batch.trajectories
        ), (
            f"No trajectory counts twice, but the batch of run {run}, round {batch.round}, holds "
            f"{batch.trajectories}, not {len(pairs)}."
        )
        assert batch_digest(pairs) == batch.digest, f"A sealed batch of run {run} is not what was recorded: {batch}."
    for of in _facts(events, CandidateEvaluated):
        dev = [id for id, asked in requests.items() if (asked.generation, asked.purpose) == (of.generation, "dev")]
        mean = fmean(reward for _, reward in scored(dev))
        assert abs(of.score - mean) < 1e-9, (
            f"The score of run {run}, generation {of.generation}, is {of.score}; recorded is {mean}."
        )
    counting = _until_the_end(events) if _cut_short(events) or _left_behind(events) else events
    called = [*_facts(counting, ModelCalled), *_facts(counting, AgentCalled), *_facts(counting, TrialFinished)]
    children = _facts(counting, ChildRunFinished)
    others = [*children, *_facts(counting, TrialFinished)]
    totals = (
        sum(len(asked.items) * asked.attempts for asked in requests.values()) + sum(of.rollouts for of in others),
        sum((call.prompt_tokens or 0) + (call.completion_tokens or 0) for call in called)
        + sum(of.tokens for of in children),
        sum(call.micro_usd or 0 for call in called) + sum(of.micro_usd for of in children),
    )
    for finished in _facts(events, RunFinished):
        counted = finished.rollouts, finished.tokens, finished.micro_usd
        assert counted == totals, (
            f"Nothing counts twice, but run {run} counted {counted} rollouts, tokens and micro-dollars, not {totals}."
        )


def _cut_short(events: Sequence[Event]) -> bool:
    """Whether a run ended with work under way: it was cancelled, or its time was up."""
    limit = next((of.budget.seconds for of in _facts(events, RunStarted)), None)
    for event in events:
        match event.data:
            case RunCancelled():
                return True
            case TimeSpent(seconds=seconds) if limit is not None and seconds >= limit:
                return True
            case RunFinished():
                return False
    return False


def _left_behind(events: Sequence[Event]) -> frozenset[str]:
    """The requests for rollouts of training, where these may lag, that are in no batch: an update that ends early, or
    goes on without them, waits for none of what they asked for.
    """
    if not any(of.max_lag for of in _facts(events, RunStarted)):
        return frozenset()
    sealed = {request for batch in _facts(events, TrainingBatchSealed) for request in batch.requests}
    trained = {
        event.id for event in events if isinstance(event.data, RolloutsRequested) and event.data.purpose == "train"
    }
    return frozenset(trained - sealed)


def _until_the_end(events: Sequence[Event]) -> list[Event]:
    """What was known when a run's end was decided: decisions, and facts up to the one that it answers."""
    end = next((event.cause for event in events if isinstance(event.data, RunFinished)), "")
    last = next((place for place, event in enumerate(events) if event.id == end), len(events))
    return [
        event
        for place, event in enumerate(events)
        if place <= last or (event.source == "controller" and event.tag not in BESIDE)
    ]


def _by_run(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.run].append(event)
    return found


def _facts(events: Iterable[Event], kind: type[Any]) -> list[Any]:
    return [event.data for event in events if isinstance(event.data, kind)]


def _decided(events: Iterable[Event]) -> list[tuple[str, object]]:
    return [(event.tag, event.data) for event in events if event.source == "controller" and event.tag not in BY_CHANCE]


def _told(events: Iterable[Event]) -> dict[str, tuple[str, dict[str, object]]]:
    """Every fact by the id that follows from its key, without what took how long."""
    return {
        codec.event_id(event.run, type(event.data), *event.data.key()): (event.tag, _without_how(event.data))
        for event in events
        if event.tag not in BY_CHANCE
    }


def _without_how(fact: Fact) -> dict[str, object]:
    return {
        name: _without_how(value) if isinstance(value, ModelCalled) else value
        for name, value in msgspec.structs.asdict(fact).items()
        if name not in HOW
    }


def _name(event: Event) -> str:
    return f"{event.tag} {event.id} of run {event.run}"
