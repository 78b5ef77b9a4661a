"""Gives each trajectory its reward. It alone, of all that serve the loop, reads the labels of dev."""

import asyncio
from collections.abc import Mapping, Sequence

from events.codec import Event
from events.errors import NotHere, TryAgain, hosts_own
from events.judgement import JudgeCalled
from events.rollouts import RolloutFailed, RolloutsRequested, TrajectoryRecorded
from runtime.effects.score import AskAbout, score
from runtime.effects.scoring import AnswerScorer, ScoringProcess
from runtime.log.lookup import attempt_ids, facts_by_id
from runtime.log.worker import answer, retry_until_available, work
from runtime.run.loading import LoadedRun
from services.host.capabilities import require_capabilities
from services.host.context import Context
from services.host.judge_session import open_judge
from services.host.settings import scoring_limit

BATCH_SIZE = 400


async def serve(context: Context) -> None:
    """Share the trajectories with the other verifiers."""
    await score_trajectories(context, ScoringProcess(scoring_limit()))


async def score_trajectories(context: Context, scorer: AnswerScorer) -> None:
    """Score one batch of trajectories after the other, in a thread: meanwhile the batch's lease is kept."""
    labels: dict[str, Mapping[str, str]] = {}

    async def perform(events: list[Event]) -> Sequence[Event]:
        by_run: dict[str, list[Event]] = {}
        for event in events:
            by_run.setdefault(event.run, []).append(event)
        outputs: list[Event] = []
        for run, trajectories in by_run.items():
            loaded = await context.load(run)
            require_capabilities(loaded.task.needs)
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

    await work(
        context.log,
        perform,
        source="verifier",
        scanner=context.scanner,
        limit=BATCH_SIZE,
        wants=context.wants(),
        status=context.status,
    )


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


def _trajectory(event: Event) -> TrajectoryRecorded:
    assert isinstance(event.data, TrajectoryRecorded)
    return event.data


def _labels(loaded: LoadedRun) -> Mapping[str, str]:
    with hosts_own():
        return loaded.task.labels(loaded.started.seed)
