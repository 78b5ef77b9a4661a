"""Gives each trajectory its reward. It alone, of all that serve the loop, reads the labels of dev.

Where a run's verifier needs what this host lacks, such as a CUDA device, the trajectory is handed on by an event of its
own. Only verifiers whose hosts have that take those.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from events.catalogue import CAPABLE_CONSUMERS
from events.codec import Event
from events.errors import NotHere, TryAgain, hosts_own
from events.judgement import CudaScoringRequested, JudgeCalled
from events.rollouts import RolloutFailed, RolloutsRequested, TrajectoryRecorded
from runtime.effects.score import AskAbout, score
from runtime.effects.scoring import AnswerScorer, ScoringProcess
from runtime.log.lookup import attempt_ids, events_by_id, facts_by_id
from runtime.log.port import Log
from runtime.log.worker import Perform, Wants, answer, first_ended, retry_until_available, work
from runtime.run.loading import LoadedRun
from services.host.capabilities import missing_capabilities
from services.host.context import Context
from services.host.judge_session import open_judge
from services.host.settings import scoring_limit
from tasks.contract import Capability

BATCH_SIZE = 400


async def serve(context: Context) -> None:
    """Share the trajectories with the other verifiers, and those for a CUDA device with those that have one."""
    await score_trajectories(context, ScoringProcess(scoring_limit()), context.capable_log)


async def score_trajectories(
    context: Context, scorer: AnswerScorer, capable_log: Callable[[str], Log] | None = None
) -> None:
    """Score one batch of trajectories after the other, and hand on what this host cannot score.

    What others have handed on is taken from `capable_log`, by the name of the consumer, where this host can score it.
    """
    perform, wants = _scoring(context, scorer), context.wants()
    if capable_log is None:
        await _share(context, context.log, perform, wants)
        return
    consumers = {name: one.capability for name, one in CAPABLE_CONSUMERS.items() if one.service == "verifier"}
    await first_ended(
        _share(context, context.log, perform, wants),
        *(_share_if(capability, context, capable_log(name), perform, wants) for name, capability in consumers.items()),
    )


async def _share(context: Context, log: Log, perform: Perform, wants: Wants) -> None:
    await work(
        log,
        perform,
        source="verifier",
        scanner=context.scanner,
        limit=BATCH_SIZE,
        wants=wants,
        status=context.status,
    )


async def _share_if(capability: Capability, context: Context, log: Log, perform: Perform, wants: Wants) -> None:
    """Take what was handed on, if this host has the capability; else never end."""
    if await asyncio.to_thread(missing_capabilities, [capability]):
        await asyncio.Event().wait()
    context.status.capable(capability)

    async def perform_requested(events: list[Event]) -> Sequence[Event]:
        by_run: dict[str, list[str]] = {}
        for event in events:
            assert isinstance(event.data, CudaScoringRequested)
            by_run.setdefault(event.run, []).append(event.data.trajectory)
        trajectories: list[Event] = []
        for run, ids in by_run.items():
            trajectories += await events_by_id(context.log, run, TrajectoryRecorded, ids)
        return await perform(trajectories)

    await _share(context, log, perform_requested, wants)


def _scoring(context: Context, scorer: AnswerScorer) -> Perform:
    """What scores trajectories, one batch after the other: two at once would disturb what a verifier measures.

    They are scored in a thread: meanwhile the batch's lease is kept.
    """
    labels: dict[str, Mapping[str, str]] = {}
    one_at_a_time = asyncio.Lock()

    async def perform(events: list[Event]) -> Sequence[Event]:
        async with one_at_a_time:
            return await score_batch(events)

    async def score_batch(events: list[Event]) -> Sequence[Event]:
        by_run: dict[str, list[Event]] = {}
        for event in events:
            by_run.setdefault(event.run, []).append(event)
        outputs: list[Event] = []
        for run, trajectories in by_run.items():
            loaded = await context.load(run)
            needs: Collection[Capability] = loaded.task.needs
            if needs and await asyncio.to_thread(missing_capabilities, needs):
                outputs += [_handed_on(event) for event in trajectories]
                continue
            if run not in labels:
                labels[run] = await asyncio.to_thread(_labels, loaded)
            ask: AskAbout | None = None
            generations = {event.id: _trajectory(event).generation for event in trajectories}
            if loaded.task.judge_model:
                first, budget = trajectories[0], loaded.started.budget
                judge = open_judge(
                    context, first, loaded, "verifier", JudgeCalled, context.log, context.blobs, budget, generations
                )
                ask = judge.ask
            if loaded.task.submissions:
                outputs += await _score_submissions(
                    context, trajectories, loaded, labels[run], scorer, ask, generations
                )
                continue
            causes = {event.id: event for event in trajectories}
            attempts = {id: _trajectory(event) for id, event in causes.items()}
            facts = await asyncio.to_thread(score, attempts, loaded, labels[run], scorer, {}, ask)
            outputs += [answer(fact, causes[fact.trajectory], "verifier") for fact in facts]
        return outputs

    return perform


async def _score_submissions(
    context: Context,
    trajectories: Sequence[Event],
    loaded: LoadedRun,
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    ask: AskAbout | None,
    generations: dict[str, int],
) -> list[Event]:
    """The judgements of those submissions whose last trajectory is among these; the others come with theirs."""
    outputs: list[Event] = []
    submissions: dict[tuple[str, int], _Submission] = {}
    for event in trajectories:
        key = _trajectory(event).request, _trajectory(event).attempt
        submission = submissions[key] = submissions.get(key) or await _submission(context, event)
        generations.update(dict.fromkeys(submission.attempts, _trajectory(event).generation))
        if event.id == next(reversed(submission.attempts)):
            shards = {_trajectory(event).request: submission.items}
            facts = await asyncio.to_thread(score, submission.attempts, loaded, labels, scorer, shards, ask)
            outputs += [answer(fact, event, "verifier") for fact in facts]
    return outputs


class _Submission:
    """One attempt at all items of a request: its trajectories by id, in the request's order."""

    def __init__(self, items: Sequence[str], attempts: dict[str, TrajectoryRecorded]) -> None:
        self.items, self.attempts = items, attempts


async def _submission(context: Context, event: Event) -> _Submission:
    """The submission that a trajectory is part of; raises `TryAgain` while an attempt of it has no outcome yet."""
    of = _trajectory(event)

    async def look() -> _Submission:
        requests = await facts_by_id(context.log, event.run, RolloutsRequested, [of.request])
        if of.request not in requests:
            raise NotHere(f"Request {of.request} of run {event.run} is not in the log.")
        requested = requests[of.request]
        ids = attempt_ids(event.run, of.request, requested)[of.attempt :: requested.attempts]
        recorded = await facts_by_id(context.log, event.run, TrajectoryRecorded, ids)
        failed = await facts_by_id(context.log, event.run, RolloutFailed, [id for id in ids if id not in recorded])
        if len(recorded) + len(failed) < len(ids):
            raise TryAgain(f"A submission of request {of.request} is not whole yet.")
        return _Submission(requested.items, {id: recorded[id] for id in ids if id in recorded})

    return await retry_until_available(look)


def _handed_on(event: Event) -> Event:
    request = CudaScoringRequested(trajectory=event.id, generation=_trajectory(event).generation)
    return answer(request, event, "verifier")


def _trajectory(event: Event) -> TrajectoryRecorded:
    assert isinstance(event.data, TrajectoryRecorded)
    return event.data


def _labels(loaded: LoadedRun) -> Mapping[str, str]:
    with hosts_own():
        return loaded.task.labels(loaded.started.seed)
