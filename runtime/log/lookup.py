"""Recorded rollouts by the request that they answer.

Every id is derived, so each message is asked for by its subject; nothing is scanned. For a forked run, `past` names the
spans of its ancestors, where what it refers to may stand.
"""

from collections.abc import Sequence
from typing import TypeVar

from events import codec
from events.codec import Event
from events.errors import CheckFailed
from events.fact import Fact
from events.judgement import TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.subjects import subject
from runtime.log.lineage import Span
from runtime.log.port import Log, Stored, readable
from runtime.rollouts.attempt import RecordedAttempt

F = TypeVar("F", bound=Fact)


async def facts_by_id(log: Log, run: str, kind: type[F], ids: Sequence[str], past: Sequence[Span] = ()) -> dict[str, F]:
    """The facts of one type that stand in the log under these ids, by id."""
    return await _by_id(log, [Span(run), *past], kind, ids)


async def events_by_id(log: Log, run: str, kind: type[Fact], ids: Sequence[str]) -> list[Event]:
    """The events of one type that stand in the log under these ids, in the order of the log."""
    return await _events(log, [Span(run)], [(id, kind.tag()) for id in ids])


async def _by_id(log: Log, spans: Sequence[Span], kind: type[F], ids: Sequence[str]) -> dict[str, F]:
    facts: dict[str, F] = {}
    for event in await _events(log, spans, [(id, kind.tag()) for id in ids]):
        if isinstance(event.data, kind):
            facts[event.id] = event.data
    return facts


async def events_of_types(log: Log, run: str, kinds: Sequence[type[Fact]], past: Sequence[Span] = ()) -> list[Event]:
    """All events of these types of the run, in the order of the log; for types of which a run has few."""
    return await _events(log, [Span(run), *past], [("*", kind.tag()) for kind in kinds])


async def same_requests(log: Log, requested: Fact, past: Sequence[Span]) -> dict[str, str]:
    """The requests of a fork's past that asked for the very same: the run of each by its id."""
    runs = {codec.event_id(span.run, type(requested), *requested.key()): span.run for span in past}
    asked = await _by_id(log, past, type(requested), list(runs))
    return {id: runs[id] for id, fact in asked.items() if fact == requested}


async def _events(log: Log, spans: Sequence[Span], entries: Sequence[tuple[str, str]]) -> list[Event]:
    """The last readable event of each of these entities and tags in each span, in the order of the log."""
    stored_messages: list[Stored] = []
    for span in spans:
        last = await log.last([subject(log.stream, span.run, *parts) for parts in entries])
        stored_messages += [stored for stored in last.values() if stored.sequence <= span.last]
    return readable(sorted(stored_messages, key=lambda stored: stored.sequence))


async def attempts_of_request(log: Log, run: str, request: str, past: Sequence[Span] = ()) -> list[RecordedAttempt]:
    """The attempts of one request that ran, in the order of its items and attempts; raises `CheckFailed` if there is no
    such request.
    """
    located = await _span_of_request(log, run, request, past)
    if located is None:
        raise CheckFailed(f"Request {request} of run {run} is not in the log.")
    span, requested = located
    return await attempts_by_id(log, span, attempt_ids(span.run, request, requested), past)


def attempt_ids(run: str, request: str, requested: RolloutsRequested) -> list[str]:
    """The ids that the attempts of a request have, recorded or failed, in the order of its items and attempts."""
    keys = [(item, attempt) for item in requested.items for attempt in range(requested.attempts)]
    return [codec.event_id(run, TrajectoryRecorded, request, *key) for key in keys]


async def failures_of_request(log: Log, run: str, request: str, past: Sequence[Span] = ()) -> dict[str, RolloutFailed]:
    """The attempts of one request that did not run, by id; none if there is no such request."""
    located = await _span_of_request(log, run, request, past)
    if located is None:
        return {}
    span, requested = located
    return await _by_id(log, [span], RolloutFailed, attempt_ids(span.run, request, requested))


async def _span_of_request(
    log: Log, run: str, request: str, past: Sequence[Span]
) -> tuple[Span, RolloutsRequested] | None:
    """The request, and the part of the log that it stands in: the run's own or one of its past."""
    for span in (Span(run), *past):
        if (requested := (await _by_id(log, [span], RolloutsRequested, [request])).get(request)) is not None:
            return span, requested
    return None


async def attempts_by_id(log: Log, span: Span, ids: Sequence[str], past: Sequence[Span] = ()) -> list[RecordedAttempt]:
    """The attempts of these ids that ran, in this order; the calls that a fork's attempt used may stand in its past."""
    recorded = await _by_id(log, [span], TrajectoryRecorded, ids)
    scores = await _by_id(
        log, [span], TrajectoryScored, [codec.event_id(span.run, TrajectoryScored, id) for id in recorded]
    )
    score_by_id = {scored.trajectory: scored for scored in scores.values()}
    call_ids = sorted({use.call for trajectory in recorded.values() for use in trajectory.calls})
    calls = await _by_id(log, [span], ModelCalled, call_ids)
    calls |= await _by_id(log, past, ModelCalled, [id for id in call_ids if id not in calls])
    return [
        RecordedAttempt(
            id,
            recorded[id],
            score_by_id[id].reward if id in score_by_id else None,
            score_by_id[id].outcome if id in score_by_id else "",
            tuple(calls[use.call] for use in recorded[id].calls),
            score_by_id[id].details if id in score_by_id else "",
        )
        for id in ids
        if id in recorded
    ]
