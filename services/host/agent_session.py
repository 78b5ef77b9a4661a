"""What the services of both agents need to hold a conversation with a language model."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from events import codec
from events.change import ProposalFailed
from events.choice import AgentCalled, TrialFinished
from events.codec import Event
from events.errors import Misconfigured, NotHere, RunHalted
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.kinds import AgentName
from events.run import Budget, RunPaused, RunResumed, RunStarted
from events.secret import Scanner
from runtime.agents.endings import Inspector
from runtime.agents.prices import Price
from runtime.agents.providers import LanguageModel, ask_with_retries, model_client, price_of_model
from runtime.agents.session import AgentSession
from runtime.log.lookup import events_of_types, facts_by_id, same_requests
from runtime.log.questions import Asking
from runtime.log.worker import answer, now, retry_until_available
from runtime.run.loading import LoadedRun
from runtime.run.state import draw_seed
from services.host.context import Context
from services.host.settings import scaffold_limits

if TYPE_CHECKING:
    from replay.archive.query import QueryResult

F = TypeVar("F", bound=Fact)
ARCHIVE_PATIENCE = 15.0
"""Seconds for which an archivist that is away is waited for."""
RESTART = "The services read it when they start: `evolog down`, put that right, `evolog up`."


def archive_query(asking: Asking) -> "Callable[[str], QueryResult]":
    """Asks the archivist over the broker, wherever it runs; one that is away is waited for."""
    from replay.archive.query import QUERIES, query_over  # with duckdb, for runs that have a model

    return partial(query_over, partial(asking.ask, QUERIES, patience=ARCHIVE_PATIENCE))


async def open_session(
    context: Context,
    event: Event,
    agent: AgentName,
    generation: int,
    model: LanguageModel,
    started: RunStarted,
    *,
    known: int,
) -> AgentSession:
    """The session of one conversation, with the calls of it that are recorded, also in the past of a fork that asks the
    same model the same. `known` is the last generation whose costs count before it.

    Raises `NotHere` where the model cannot be asked from here: the runs of other agents go on meanwhile.
    """
    past = await context.past(event.run)
    earlier_events = await retry_until_available(
        lambda: events_of_types(context.log, event.run, (AgentCalled, CandidateEvaluated, TrialFinished), past)
    )
    runs = {event.run, *(await retry_until_available(lambda: same_requests(context.log, event.data, past))).values()}
    calls = [one.data for one in earlier_events if one.run in runs and isinstance(one.data, AgentCalled)]
    trials = [one.data for one in earlier_events if one.run in runs and isinstance(one.data, TrialFinished)]
    try:
        client = await asyncio.to_thread(model_client, model, os.environ)  # it imports an SDK, which takes a second
        cost = required_price(model, started.budget)
    except Misconfigured as wrong:
        raise NotHere(f"{wrong} {RESTART}", code=wrong.code) from wrong
    waits = context.status.waits(event.run)
    return AgentSession(
        ask=partial(ask_with_retries, waits=waits, named=f"{model.provider}:{model.name}"),
        agent=agent,
        generation=generation,
        model=model,
        client=client,
        price=cost,
        blobs=context.blobs,
        scanner=context.scanner,
        seed=draw_seed(started),
        recorded_calls={
            call.ordinal: call
            for call in calls
            if (call.agent, call.generation) == (agent, generation)
            and (call.provider, call.model) == (model.provider, model.name)
        },
        record=recorder(context, event, agent),
        budget=started.budget,
        spent=spent_until(earlier_events, known),
        trials={trial.trial: trial for trial in trials if (trial.agent, trial.generation) == (agent, generation)},
        unreported=any(call.prompt_tokens is None for call in calls if call.generation <= known),
        waits=waits,
    )


async def require_unhalted(context: Context, run: str) -> None:
    """Raise `RunHalted` while the run, or the one that it belongs to, is paused by a service and not resumed."""
    paused = await _halt(context, await root_of(context, run))
    if isinstance(paused, RunPaused) and paused.by:
        raise RunHalted(paused.reason)


async def halt(context: Context, event: Event, agent: AgentName, reason: str) -> RunHalted:
    """Pause the run of an event, or the one that it belongs to, until the operator resumes it; the error with which the
    work is put off meanwhile.
    """
    root = await root_of(context, event.run)
    before = await _halt(context, root)
    if not (isinstance(before, RunPaused) and before.by):
        asked = await retry_until_available(lambda: events_of_types(context.log, root, [RunPaused]))
        fact = RunPaused(number=len(asked) + 1, reason=context.scanner.redacted(reason), by=agent)
        await context.record([codec.event(fact, run=root, source=agent, cause=event.id, time=now())])
    return RunHalted(reason)


async def root_of(context: Context, run: str) -> str:
    """The run that this one belongs to, and no other does; the run itself where it belongs to none."""
    while owner := (await context.started(run)).owner:
        run = owner
    return run


async def _halt(context: Context, run: str) -> Fact | None:
    """What was last asked of a run: that it pause, or that it go on."""
    asked = await retry_until_available(lambda: events_of_types(context.log, run, [RunPaused, RunResumed]))
    return asked[-1].data if asked else None


def required_price(model: LanguageModel, budget: Budget) -> Price | None:
    """The model's price; raises `Misconfigured` where dollars are limited and the price is not known in
    this process.
    """
    price = price_of_model(model, os.environ)
    if price is None and budget.micro_usd is not None:
        raise Misconfigured(
            f"The services know no price for {model.provider}:{model.name}, so the run's budget in usd cannot be kept: "
            "name a price table with EVOLOG_PRICES."
        )
    return price


def spent_until(events: Sequence[Event], known: int) -> tuple[int, int]:
    """Tokens and millionths of a dollar that the run took up to a generation, that one included.

    They are the last evaluated candidate's sums and the agents' calls of later generations. What a weight update played
    after that candidate is not among them, nor what later generations take meanwhile.
    """
    facts = [event.data for event in events]
    evaluated = [fact for fact in facts if isinstance(fact, CandidateEvaluated) and fact.generation <= known]
    last, tokens, micro_usd = -1, 0, 0
    if evaluated:
        last, tokens, micro_usd = evaluated[-1].generation, evaluated[-1].tokens, evaluated[-1].micro_usd
    calls = [fact for fact in facts if isinstance(fact, AgentCalled) and last < fact.generation <= known]
    trials = [fact for fact in facts if isinstance(fact, TrialFinished) and last < fact.generation <= known]
    tokens += sum(trial.prompt_tokens + trial.completion_tokens for trial in trials)
    return (
        tokens + sum((call.prompt_tokens or 0) + (call.completion_tokens or 0) for call in calls),
        micro_usd + sum(call.micro_usd or 0 for call in calls),
    )


def recorder(context: Context, event: Event, agent: str) -> Callable[[F], F | None]:
    """For threads: appends a fact in answer to an event, at once; gives the fact that stood there already,
    if one did.
    """

    async def record(fact: F) -> F | None:
        output = answer(fact, event, agent)
        if not await context.record([output]):
            return None
        return (await retry_until_available(lambda: facts_by_id(context.log, event.run, type(fact), [output.id]))).get(
            output.id
        )

    return lambda fact: context.wait_for(record(fact))


def without_secrets(facts: Sequence[Fact], generation: int, scanner: Scanner) -> list[Fact]:
    """The facts that an agent's request is answered with; where one holds a known secret, the failure that this is."""
    if not scanner.finds(b"\n".join(map(msgspec.json.encode, facts))):
        return list(facts)
    return [ProposalFailed(generation=generation, reason="what the agent said held a known secret")]


def inspector(
    context: Context, run: str, loaded: LoadedRun, present: dict[str, str], *, must_change: bool = True
) -> Inspector:
    """What proposals for a run are checked against; `present` holds the files of the scaffold that is to
    be changed.
    """
    hidden = (loaded.task.folder, context.node.directory, loaded.task.root)
    return Inspector(
        present,
        loaded.public,
        tuple(folder for folder in hidden if len(folder.parts) > 2),
        context.work / "proposals",
        context.scanner,
        scaffold_limits(),
        loaded.started.sandbox,
        must_change,
        waits=context.status.waits(run),
    )
