"""The trainer service: a batch whose outcome is on the log is not trained on again."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from events.fact import Fact
from events.secret import Scanner
from events.weights import AdapterPublished, TrainingBatchSealed, WeightUpdateFailed
from runtime.log import worker
from runtime.log.memory import MemoryDelivery, MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.status import StatusReporter
from services import trainer
from tests.harness.facts import event_of, example

SCANNER = Scanner([])
SEALED: TrainingBatchSealed = example(TrainingBatchSealed, requests=())


def published(batch: str = SEALED.digest) -> Fact:
    fact: Fact = example(AdapterPublished, parent_adapter=SEALED.parent_adapter, batch=batch)
    return fact


def failed(round: int = SEALED.round) -> Fact:
    fact: Fact = example(WeightUpdateFailed, generation=SEALED.generation, round=round)
    return fact


@pytest.mark.parametrize(
    ("recorded", "trains"),
    [
        ([], 1),
        ([published()], 0),
        ([failed()], 0),
        ([published(batch="another"), failed(round=SEALED.round + 1)], 1),
    ],
)
def test_a_batch_is_trained_on_unless_it_has_its_outcome(
    monkeypatch: pytest.MonkeyPatch, recorded: list[Fact], trains: int
) -> None:
    log = MemoryLog(MemoryStream(), [SEALED.tag()])
    trained: list[TrainingBatchSealed] = []
    acknowledged = asyncio.Event()

    def train(context: Any, known: Any, sealed: TrainingBatchSealed, *arguments: Any) -> list[Fact]:
        trained.append(sealed)
        return [published()]

    async def ack(delivery: MemoryDelivery) -> None:
        acknowledged.set()

    async def nothing(run: str) -> tuple[()]:
        return ()

    monkeypatch.setattr(trainer, "_train", train)
    monkeypatch.setattr(trainer, "IMPORT_AFTER", 3600.0)
    monkeypatch.setattr(MemoryDelivery, "ack", ack)
    context: Any = SimpleNamespace(
        log=log, scanner=SCANNER, wants=worker.Wants, status=StatusReporter("trainer"), past=nothing, started=nothing
    )

    async def check() -> None:
        await append_once(log, [event_of(SEALED), *map(event_of, recorded)], SCANNER)
        serving = asyncio.create_task(trainer.serve(context))
        await acknowledged.wait()
        serving.cancel()

    asyncio.run(asyncio.wait_for(check(), 60))
    assert trained == [SEALED] * trains
    tags = [stored.subject.rpartition(".")[2] for stored in log.memory.messages[1:]]
    assert tags == [fact.tag() for fact in recorded] + ["adapter_published"] * trains
