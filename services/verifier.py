"""Gives each trajectory its reward. It alone, of all that serve the loop, reads the labels of dev."""

import asyncio
from collections.abc import Mapping, Sequence

from events.codec import Event
from events.errors import hosts_own
from events.rollouts import TrajectoryRecorded
from runtime.effects.score import score
from runtime.effects.scoring import AnswerScorer, ScoringProcess
from runtime.log.worker import answer, work
from runtime.run.loading import LoadedRun
from services.host.context import Context
from services.host.settings import scoring_limit

BATCH_SIZE = 400


async def serve(context: Context) -> None:
    """Share the trajectories with the other verifiers."""
    await score_trajectories(context, ScoringProcess(scoring_limit()))


async def score_trajectories(context: Context, scorer: AnswerScorer) -> None:
    """Score one batch of trajectories after the other, in a thread: meanwhile the batch's lease is kept."""
    labels: dict[str, Mapping[str, str]] = {}

    async def perform(events: list[Event]) -> Sequence[Event]:
        attempts: dict[str, dict[str, TrajectoryRecorded]] = {}
        for event in events:
            assert isinstance(event.data, TrajectoryRecorded)
            attempts.setdefault(event.run, {})[event.id] = event.data
        facts = {}
        for run, recorded in attempts.items():
            loaded = await context.load(run)
            if run not in labels:
                labels[run] = await asyncio.to_thread(_labels, loaded)
            for fact in await asyncio.to_thread(score, recorded, loaded, labels[run], scorer):
                facts[fact.trajectory] = fact
        return [answer(facts[event.id], event, "verifier") for event in events]

    await work(
        context.log,
        perform,
        source="verifier",
        scanner=context.scanner,
        limit=BATCH_SIZE,
        wants=context.wants(),
    )


def _labels(loaded: LoadedRun) -> Mapping[str, str]:
    with hosts_own():
        return loaded.task.labels(loaded.started.seed)
