"""A forked run's past: the events of its ancestors up to where each was left, shared by reference and read before its
own.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from events import codec
from events.codec import Event
from events.errors import CheckFailed, NotFound
from events.fact import Fact
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import DecisionMade, RunStarted
from events.subjects import entity_of, run_of, subject, tag_of
from runtime.log.port import Log, Stored, readable

PAGE_SIZE = 5000
FOREVER = sys.maxsize
OUTCOMES = frozenset(fact.tag() for fact in (RolloutFailed, TrajectoryScored, ScoringFailed))
"""Tags of what came of an attempt."""
SUMMED_UP = OUTCOMES | {ModelCalled.tag()}
"""Tags of what the evaluation of a candidate sums up."""


class Span(NamedTuple):
    """The events of a run up to a sequence."""

    run: str
    last: int = FOREVER


async def run_start(log: Log, run: str) -> tuple[Stored, RunStarted]:
    """The message that began a run; raises `NotFound` where there is none."""
    for stored in await log.read(1, 1, subject(log.stream, run, codec.event_id(run, RunStarted), RunStarted.tag())):
        for event in readable([stored]):
            if isinstance(event.data, RunStarted):
                return stored, event.data
    raise NotFound(f"There is no run {run!r} on this log; `evolog ls` shows those that there are.")


async def run_starts(log: Log) -> dict[str, Stored]:
    """The message that began each run, by the run's name, in the order in which they began."""
    return await firsts(log, RunStarted)


async def firsts(log: Log, kind: type[Fact]) -> dict[str, Stored]:
    """Each run's message of a type of which it has one, by the run's name, in the order of the log: the first on its
    place, whatever was appended there later.
    """
    found = await log.last([subject(log.stream, "*", "*", kind.tag())])
    messages = [(await log.read(1, 1, place))[0] for place in found]
    return {run_of(stored.subject): stored for stored in sorted(messages, key=lambda stored: stored.sequence)}


async def ancestors(log: Log, run: str) -> tuple[Span, ...]:
    """The spans that a run's past is made of, its parent's first; none for a run that is no fork."""
    spans: list[Span] = []
    while True:
        _, started = await run_start(log, spans[-1].run if spans else run)
        if not started.parent_run:
            return tuple(spans)
        if started.parent_run in (run, *(span.run for span in spans)):
            raise CheckFailed(f"Run {run} is said to be its own past, by way of {started.parent_run}.")
        spans.append(Span(started.parent_run, started.parent_sequence))


async def messages(log: Log, span: Span) -> list[Stored]:
    """All messages of a span, in the order of the log.

    They are read among all others, which is quicker than one by one, and not beyond the last.
    """
    start, _ = await run_start(log, span.run)
    stored_messages: list[Stored] = []
    position, end = start.sequence, min(span.last, await log.end())
    count = await log.count(span.run, position)
    while position <= end and len(stored_messages) < count:
        read = await log.read(position, min(PAGE_SIZE, end - position + 1))
        stored_messages += [stored for stored in read if run_of(stored.subject) == span.run]
        position = read[-1].sequence + 1 if read else end + 1
    return stored_messages


async def past(log: Log, run: str) -> list[Stored]:
    """The messages of a run's past, oldest first."""
    return [stored for span in reversed(await ancestors(log, run)) for stored in await messages(log, span)]


def past_digest(past_messages: Iterable[Stored]) -> str:
    """SHA-256 over the messages of a run's past."""
    total = hashlib.sha256()
    for stored in past_messages:
        total.update(past_entry(stored))
    return total.hexdigest()


def past_entry(stored: Stored) -> bytes:
    """What one message adds to the digest of a past."""
    return f"{stored.sequence} {stored.subject} {hashlib.sha256(stored.data).hexdigest()}\n".encode()


def require_past(past_messages: Sequence[Stored], started: RunStarted) -> None:
    """Raise `CheckFailed` unless these messages are the past that the run was forked from."""
    if (digest := past_digest(past_messages)) != started.parent_digest:
        raise CheckFailed(
            f"What is on the log of run {started.parent_run} up to sequence {started.parent_sequence} has digest "
            f"{digest[:12]}, and its "
            f"fork was made from {started.parent_digest[:12]}: `evolog doctor --integrity` looks for the damage."
        )


def in_folding_order(stored_messages: Iterable[Stored]) -> Iterator[Event]:
    """The readable events of runs that a decider folds, in the order in which it did: a decision's right after the
    event that it answers.

    Left out are trajectories, on which nothing depends, and what the evaluation of a candidate sums up: the calls of
    the policy, and what came of attempts, but of those at dev. A state with and without them is the same.
    """
    for _, messages in groupby(_decisions_in_place(stored_messages), lambda stored: run_of(stored.subject)):
        own = [(tag_of(stored.subject), stored) for stored in messages]
        requests = _evaluated_requests(own)
        yield from readable(
            stored
            for at, (tag, stored) in enumerate(own)
            if tag != TrajectoryRecorded.tag() and not (tag in SUMMED_UP and _summed_up(at, tag, stored, requests))
        )


class _Evaluated(NamedTuple):
    """A request of a candidate that was evaluated: where in the log that was, and whether it asked dev items."""

    at: int
    dev: bool


def _evaluated_requests(messages: Sequence[tuple[str, Stored]]) -> dict[bytes, _Evaluated]:
    """The requests of one run whose candidates were evaluated, by id."""
    asked: dict[int, dict[str, bool]] = {}
    found: dict[bytes, _Evaluated] = {}
    for at, (tag, stored) in enumerate(messages):
        if tag not in (RolloutsRequested.tag(), CandidateEvaluated.tag()):
            continue
        for event in readable([stored]):
            match event.data:
                case RolloutsRequested(generation=generation, purpose=purpose):
                    asked.setdefault(generation, {})[event.id] = purpose == "dev"
                case CandidateEvaluated(generation=generation):
                    found |= {id.encode(): _Evaluated(at, dev) for id, dev in asked.pop(generation, {}).items()}
    return found


def _summed_up(at: int, tag: str, stored: Stored, requests: Mapping[bytes, _Evaluated]) -> bool:
    """Whether a candidate's evaluation, which came later, sums up this call or outcome."""
    # not decoded, for they are many; within a text the key's quotes would be escaped
    request = stored.data.partition(b'"request":"')[2].partition(b'"')[0]
    evaluated = requests.get(request)
    return evaluated is not None and at < evaluated.at and not (evaluated.dev and tag in OUTCOMES)


def _decisions_in_place(stored_messages: Iterable[Stored]) -> Iterator[Stored]:
    others: list[Stored] = []
    decided: dict[str, list[Stored]] = {}
    outputs: list[Stored] = []
    outputs_left = 0
    for stored in stored_messages:
        if tag_of(stored.subject) == DecisionMade.tag():
            for head in readable([stored]):
                assert isinstance(head.data, DecisionMade)
                outputs, outputs_left = decided.setdefault(head.data.input, []), head.data.outputs
        elif outputs_left:
            outputs.append(stored)
            outputs_left -= 1
        else:
            others.append(stored)
    for stored in others:
        yield stored
        yield from decided.get(entity_of(stored.subject), ())
