"""Trains adapters from sealed batches of recorded rollouts."""

import asyncio
import importlib.util
from collections.abc import Callable, Mapping, Sequence

from events import codec
from events.codec import Event
from events.errors import Misconfigured
from events.fact import Fact
from events.run import RunStarted
from events.subjects import LOG, subject
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed
from runtime.log.lookup import attempts_of_request
from runtime.log.worker import answer, retry_until_available, work
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.loading import LoadedRun
from services.host.context import Context
from services.host.settings import accelerate_config, trainer_back_end

IMPORT_AFTER = 3.0
"""Seconds from the start after which torch is imported: it takes as long as all that the services need to start, and a
batch that comes later must not wait for it.
"""


async def serve(context: Context) -> None:
    """Train on one batch after the other."""
    if importlib.util.find_spec("torch") is None:
        raise Misconfigured("torch is not installed here, and the trainer needs it: pip install 'evolog[policy]'.")
    known: dict[str, list[RecordedAttempt]] = {}  # by request; later rounds of an update train on earlier ones again

    async def perform(events: list[Event]) -> Sequence[Event]:
        nonlocal known
        outputs: list[Event] = []
        for event in events:
            sealed = event.data
            assert isinstance(sealed, TrainingBatchSealed)
            if await _is_done(context, event.run, sealed):
                continue
            past = await context.past(event.run)
            known = {
                request: known.get(request) or await attempts_of_request(context.log, event.run, request, past)
                for request in sealed.requests
            }
            started = await context.started(event.run)

            def load(run: str = event.run) -> LoadedRun:
                return context.wait_for(context.load(run))

            facts = await asyncio.to_thread(_train, context, known, sealed, started, load)
            outputs += [answer(fact, event, "trainer") for fact in facts]
        return outputs

    importing = asyncio.create_task(_import_torch())
    try:
        await work(
            context.log,
            perform,
            source="trainer",
            scanner=context.scanner,
            wants=context.wants(),
            status=context.status,
        )
    finally:
        importing.cancel()


async def _is_done(context: Context, run: str, sealed: TrainingBatchSealed) -> bool:
    """Whether the batch has its outcome on the log: a trainer that was killed, or cut off, may not have said so."""
    outcomes = (
        codec.event_id(run, AdapterPublished, sealed.parent_adapter, sealed.digest),
        codec.event_id(run, WeightUpdateFailed, sealed.generation, sealed.round),
    )
    places = [subject(LOG, run, outcome, "*") for outcome in outcomes]
    return bool(await retry_until_available(lambda: context.log.last(places)))


async def _import_torch() -> None:
    await asyncio.sleep(IMPORT_AFTER)
    for module in ("runtime.effects.train", "torch._dynamo"):  # the second comes with torch's first optimiser
        await asyncio.to_thread(importlib.import_module, module)


def _train(
    context: Context,
    known: Mapping[str, list[RecordedAttempt]],
    sealed: TrainingBatchSealed,
    started: RunStarted,
    load: Callable[[], LoadedRun],
) -> list[Fact]:
    from runtime.effects.train import TrainingHost, train_round  # with torch

    host = TrainingHost(context.blobs, context.work, trainer_back_end(), accelerate_config())
    return train_round(host, known, sealed, started.base_model, load, private=started.private_prompts)
