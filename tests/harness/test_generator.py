"""The generator's logs are those that runs would leave: decided by the decider, and decided again to the same bytes."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from algorithms.search.catalogue import STRATEGIES
from events import codec
from events.run import DecisionMade, RunFinished
from replay.chain import Chain
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from runtime.run.decider import DecisionSession
from tests.harness import invariants
from tests.harness.broker import account, broker
from tests.harness.generator import fill, log, log_batches

SMALL: dict[str, Any] = {"runs": 2, "items": 20, "generations": 3}


def decided_again(rows: Iterable[Stored]) -> int:
    """How many decisions today's decider makes of the log; each must stand in it, byte for byte."""
    courses: dict[str, DecisionSession[Any]] = {}
    expected: dict[str, list[bytes]] = {}
    count = 0
    for stored in rows:
        event = codec.decode_at(stored.subject, stored.data)
        if due := expected.get(event.run):
            assert stored.data == due.pop(0)
        course = courses.setdefault(event.run, DecisionSession(DECIDER, event.run))
        if decision := course.feed(stored, event):
            assert not due
            expected[event.run] = [message.payload for message in decision.messages(0)]
            count += 1
    return count


def test_a_log_has_so_many_events_of_about_a_kilobyte_in_several_runs() -> None:
    rows = list(log(5000, **SMALL))
    assert 5000 <= len(rows) <= 6000
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    assert 700 < sum(len(row.data) for row in rows) / len(rows) < 1300
    facts = [codec.decode_at(row.subject, row.data).data for row in rows]
    assert sum(isinstance(fact, RunFinished) for fact in facts) >= 2
    assert len({type(fact) for fact in facts}) >= 20


def test_decisions_are_those_of_the_decider_and_their_chains_hold() -> None:
    rows = list(log(5000, **SMALL))
    heads = sum(isinstance(codec.decode(row.data).data, DecisionMade) for row in rows)
    assert heads > 20
    assert decided_again(rows) - heads in range(SMALL["runs"] + 1)  # the last decisions were not appended any more
    chains: dict[str, Chain] = {}
    for row in rows:
        run = row.subject.split(".")[1]
        assert chains.setdefault(run, Chain(run)).take(row.sequence, row.subject, row.data) is None
    assert sum(chain.decisions for chain in chains.values()) == heads


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_runs_with_several_generations_under_way_are_decided_again_and_hold(strategy: str) -> None:
    rows = list(islice(log(6000, **SMALL | {"generations": 6, "items": 10}, strategy=strategy, width=4), 6000))
    assert decided_again(rows) > 20
    events = readable(rows)
    finished = {event.run for event in events if isinstance(event.data, RunFinished)}
    whole = [event for event in events if event.run in finished]
    assert whole
    invariants.population_is_sound(whole)
    invariants.nothing_counts_twice(whole)
    invariants.every_request_is_answered(whole)
    verdicts = {event.tag for event in whole if event.tag in ("candidate_kept", "candidate_rejected")}
    assert verdicts >= ({"candidate_kept"} if strategy == "dgm" else {"candidate_rejected"})


def test_a_seed_gives_the_same_log_and_another_seed_another() -> None:
    first, same, other = (list(islice(log(500, seed=seed, **SMALL), 500)) for seed in (1, 1, 2))
    assert first == same != other


def test_a_log_that_was_filled_in_is_found_by_the_real_server_and_decided_again(tmp_path: Path) -> None:
    end = fill(tmp_path, log_batches(3000, **SMALL))

    async def check() -> None:
        async with broker(tmp_path) as server, account(server, "operator") as operator:
            assert await operator.log().end() == end >= 3000
            assert decided_again(await operator.log().read(1, end)) > 10

    asyncio.run(check())
