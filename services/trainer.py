"""Trains adapters from sealed batches of recorded rollouts."""

import asyncio
from collections.abc import Sequence

from events.codec import Event
from events.weights import TrainingBatchSealed
from runtime.effects.train import TrainingHost, train_round
from runtime.log.lookup import attempts_of_request
from runtime.log.worker import answer, work
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.loading import LoadedRun
from services.host.context import Context
from services.host.settings import accelerate_config, trainer_back_end


async def serve(context: Context) -> None:
    """Train on one batch after the other."""
    known: dict[
        str, list[RecordedAttempt]
    ] = {}  # the rounds of the update under way, which later rounds train on again

    async def perform(events: list[Event]) -> Sequence[Event]:
        nonlocal known
        outputs: list[Event] = []
        for event in events:
            sealed = event.data
            assert isinstance(sealed, TrainingBatchSealed)
            past = await context.past(event.run)
            known = {
                request: known.get(request) or await attempts_of_request(context.log, event.run, request, past)
                for request in sealed.requests
            }
            started = await context.started(event.run)

            def load(run: str = event.run) -> LoadedRun:
                return context.wait_for(context.load(run))

            host = TrainingHost(context.blobs, context.work, trainer_back_end(), accelerate_config())
            facts = await asyncio.to_thread(train_round, host, known, sealed, started.base_model, load)
            outputs += [answer(fact, event, "trainer") for fact in facts]
        return outputs

    await work(context.log, perform, source="trainer", scanner=context.scanner)
