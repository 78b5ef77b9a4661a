"""The loop of an effect service: delivered twice, appended once; unreadable messages put aside; nothing acknowledged
too early.
"""

import asyncio
from collections.abc import Sequence

import pytest

from events import codec
from events.codec import Event
from events.errors import NotHere, TryAgain
from events.judgement import TrajectoryScored
from events.rollouts import TrajectoryRecorded
from events.run import RunFinished
from events.secret import Scanner
from events.subjects import tag_of
from runtime.log import worker
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Message, append_once
from tests.harness.facts import event_of, trajectory

SCANNER = Scanner([])


async def score(events: list[Event]) -> Sequence[Event]:
    outputs = []
    for event in events:
        assert isinstance(event.data, TrajectoryRecorded)
        fact = TrajectoryScored(
            trajectory=event.id,
            request="q",
            item="i",
            attempt=event.data.attempt,
            reward=1.0,
            outcome="right",
            verifier="v",
        )
        outputs.append(worker.answer(fact, event, "verifier"))
    return outputs


def tags(log: MemoryLog) -> list[str]:
    return [tag_of(stored.subject) for stored in log.memory.messages]


async def turn(log: MemoryLog, limit: int = 10) -> None:
    await worker.step(log, await log.fetch(limit, 0.0), score, source="verifier", scanner=SCANNER, wants=worker.Wants())


def verifier_log() -> MemoryLog:
    return MemoryLog(MemoryStream(), ["trajectory_recorded"])


def test_what_is_delivered_again_is_not_appended_again() -> None:
    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(attempt) for attempt in range(3)], SCANNER)
        deliveries = await log.fetch(10, 0.0)
        for _ in range(2):  # the second time as a server does that heard no acknowledgement
            await worker.step(log, deliveries, score, source="verifier", scanner=SCANNER, wants=worker.Wants())
        assert tags(log).count("trajectory_scored") == 3

    asyncio.run(check())


def test_a_redelivery_in_another_company_adds_what_is_missing() -> None:
    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0), trajectory(1)], SCANNER)
        await turn(log, limit=1)
        log.redeliver()
        log.pending.clear()
        await append_once(log, [trajectory(2)], SCANNER)
        other = MemoryLog(log.memory, ["trajectory_recorded"])  # another worker gets all three at once
        await turn(other)
        assert tags(log).count("trajectory_scored") == 3

    asyncio.run(check())


def test_work_that_could_not_be_appended_is_not_acknowledged() -> None:
    class Broken(MemoryLog):
        async def append(self, messages: Sequence[Message]) -> int:
            raise ValueError("broken")

    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0)], SCANNER)
        broken = Broken(log.memory, ["trajectory_recorded"])
        with pytest.raises(ValueError, match="broken"):
            await turn(broken)
        assert broken.pending

    asyncio.run(check())


@pytest.mark.parametrize(("source", "recorded"), [("verifier", 1), ("auditor", 0)])
def test_an_unreadable_message_is_recorded_by_whoever_may_and_acknowledged_by_all(source: str, recorded: int) -> None:
    async def check() -> None:
        log = verifier_log()
        await log.append([Message("evolog.r.e.trajectory_recorded", b"no event")])
        await worker.step(log, await log.fetch(10, 0.0), score, source=source, scanner=SCANNER, wants=worker.Wants())
        assert tags(log).count("event_set_aside") == recorded and not log.pending

    asyncio.run(check())


@pytest.mark.parametrize(("source", "scored"), [("verifier", 0), ("auditor", 1)])
def test_what_a_run_wanted_that_has_ended_is_wanted_by_the_auditor_alone(source: str, scored: int) -> None:
    async def check() -> None:
        log = verifier_log()
        end = RunFinished(
            reason="cancelled",
            candidate="",
            scaffold="",
            adapter="",
            score=0.0,
            generations=0,
            rollouts=0,
            tokens=0,
            micro_usd=0,
        )
        await append_once(log, [trajectory(0), event_of(end), trajectory(0, run="other")], SCANNER)
        await worker.step(log, await log.fetch(10, 0.0), score, source=source, scanner=SCANNER, wants=worker.Wants())
        assert tags(log).count("trajectory_scored") == scored + 1 and not log.pending

    asyncio.run(check())


def test_a_full_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(MemoryLog):
        refusals = 2

        async def append(self, messages: Sequence[Message]) -> int:
            if self.refusals:
                self.refusals -= 1
                raise TryAgain("no room")
            return await super().append(messages)

    async def check() -> None:
        log = verifier_log()
        await append_once(log, [trajectory(0)], SCANNER)
        full = Full(log.memory, ["trajectory_recorded"])
        await turn(full)
        assert tags(full).count("trajectory_scored") == 1 and not full.pending

    monkeypatch.setattr(worker, "PAUSE", 0.0)
    asyncio.run(check())


def test_an_unreadable_message_is_set_aside_and_the_others_are_done() -> None:
    async def check() -> None:
        log = verifier_log()
        await log.append([Message("evolog.r.x.trajectory_recorded", b'{"half": ')])
        await append_once(log, [trajectory(0)], SCANNER)
        await turn(log)
        assert sorted(tags(log)[2:]) == ["event_set_aside", "trajectory_scored"] and not log.pending
        assert [codec.decode(stored.data).tag for stored in log.memory.messages[1:]] == tags(log)[1:]

    asyncio.run(check())


class Host:
    """A verifier's host that lacks the second attempt's blob, and what it tells."""

    def __init__(self, patience: float) -> None:
        self.lacks, self.told = True, list[str | None]()
        self.wants = worker.Wants(patience, lambda run, sentence: self.told.append(sentence))

    async def perform(self, events: list[Event]) -> Sequence[Event]:
        if self.lacks and any(isinstance(one.data, TrajectoryRecorded) and one.data.attempt == 1 for one in events):
            raise NotHere("Blob 12 is not in blobs.")
        return await score(events)

    async def turn(self, log: MemoryLog) -> None:
        await worker.step(
            log, await log.fetch(10, 0.0), self.perform, source="verifier", scanner=SCANNER, wants=self.wants
        )


def test_what_another_process_has_taken_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        log, host = verifier_log(), Host(patience=60.0)
        await append_once(log, [trajectory(1)], SCANNER)
        await host.turn(log)
        host.wants.look()
        assert host.told == ["Blob 12 is not in blobs."]
        monkeypatch.setattr(worker, "TAKEN_ELSEWHERE", -1.0)
        host.wants.look()
        host.wants.look()
        assert host.told[1:] == [None]

    asyncio.run(check())


def test_what_is_put_off_is_counted_and_told_run_by_run() -> None:
    told: list[tuple[str, str | None, int]] = []
    wants = worker.Wants(60.0, lambda run, sentence: told.append((run, sentence, wants.count(run))))
    first, second, other = trajectory(0), trajectory(1), trajectory(0, run="other")
    for event in (first, second, first, other):
        wants.put_off(event, NotHere("No data."))
    assert told == [("r", "No data.", 1), ("r", "No data.", 2), ("r", "No data.", 2), ("other", "No data.", 1)]
    told.clear()
    wants.done([first])
    wants.done([first])
    wants.done([second])
    assert told == [("r", "No data.", 1), ("r", None, 0)] and wants.count("other") == 1
    wants.put_off(second, NotHere("No model."))
    assert told[-1] == ("r", "No model.", 1)


def test_work_whose_host_lacks_something_is_put_off_and_the_rest_is_done() -> None:
    async def check() -> None:
        log, host = verifier_log(), Host(patience=60.0)
        await append_once(log, [trajectory(attempt) for attempt in range(3)], SCANNER)
        await host.turn(log)
        assert tags(log).count("trajectory_scored") == 2 and list(log.pending) == [2]
        assert host.told[-1] == "Blob 12 is not in blobs."
        host.lacks = False
        log.redeliver()
        await host.turn(log)
        assert tags(log).count("trajectory_scored") == 3 and not log.pending and host.told[-1] is None

    asyncio.run(check())


def test_what_is_lacking_for_too_long_ends_the_process_with_the_sentence() -> None:
    async def check() -> None:
        log, host = verifier_log(), Host(patience=0.0)
        await append_once(log, [trajectory(1)], SCANNER)
        await host.turn(log)
        log.redeliver()
        with pytest.raises(NotHere, match="Blob 12"):
            await host.turn(log)
        assert tags(log).count("trajectory_scored") == 0 and log.pending

    asyncio.run(check())
