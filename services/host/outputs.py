"""What a run left, written as files: a candidate's scaffold, its adapter, and its answers on dev."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from events.errors import NotFound, UsageError
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import AuditReleased, RunFinished
from events.subjects import LOG
from runtime.blobs.directory import Blobs
from runtime.log.lineage import ancestors
from runtime.log.lookup import attempts_of_request, events_of_types, failures_of_request
from runtime.log.port import Log
from services.host.blobs import operator_blobs
from services.host.imports import find_export
from services.host.node import Node
from services.host.sources import find_run, load_history, open_logs

Part = Literal["scaffold", "adapter", "answers"]
"""What can be had of a candidate."""
ANSWERS = "answers.jsonl"
T = TypeVar("T")


class Answer(msgspec.Struct, kw_only=True):
    """One attempt at one item of dev, as a line of `answers.jsonl`."""

    item: str
    attempt: int
    answer: str | None
    reward: float | None
    """By the run's verifier; null where it has none."""
    outcome: str
    details: str
    failure: str
    """Why there is no answer, in a sentence; empty where there is one."""
    trajectory: str


class WrittenOutput(msgspec.Struct, kw_only=True):
    """What was written, of which candidate."""

    version: int = 1
    run: str
    part: str
    generation: int
    candidate: str
    digest: str
    """Of the scaffold or the adapter; empty for answers."""
    path: str
    files: int
    answers: int = 0


class _Source(NamedTuple):
    run: str
    log: Log
    blobs: Blobs


def write_output(
    directory: Path, name: str, part: Part, target: Path, generation: int | None, candidate: str
) -> WrittenOutput:
    """Write a part of a candidate of a run into a new folder: of the best, or of this generation or id.

    Raises `UsageError` for a folder that holds something, and for an adapter where there is none; `NotFound` for a
    candidate that there is not, and for a blob that is not here.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already, and nothing is written over: name a new folder.")

    async def write(source: _Source) -> WrittenOutput:
        chosen = await _choose(source, generation, candidate)
        written = WrittenOutput(
            run=source.run,
            part=part,
            generation=chosen.generation,
            candidate=chosen.candidate,
            digest="",
            path=str(target),
            files=1,
        )
        if part == "answers":
            answers = await _answers(source, chosen)
            target.mkdir(parents=True, exist_ok=True)
            (target / ANSWERS).write_bytes(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))
            written.answers = len(answers)
            return written
        written.digest = chosen.scaffold if part == "scaffold" else chosen.adapter
        if not written.digest:
            raise UsageError(
                f"The candidate of generation {chosen.generation} of {source.run} has the base model's weights, and no "
                "adapter: name another with --generation, or ask for its scaffold."
            )
        written.files = len(source.blobs.members(written.digest))
        source.blobs.unpack(written.digest, target)
        return written

    return asyncio.run(_with_source(directory, name, write))


async def _with_source(directory: Path, name: str, work: Callable[[_Source], Awaitable[T]]) -> T:
    node = Node(directory)
    if find_export(node, name) is not None:
        history = await asyncio.to_thread(load_history, directory, name)
        return await work(_Source(history.run, history.log, history.blobs))
    async with open_logs(node) as connection:
        log = connection.log(LOG)
        return await work(_Source(await find_run(log, name), log, operator_blobs(node, connection.login)))


async def _choose(source: _Source, generation: int | None, candidate: str) -> CandidateEvaluated:
    """The candidate of that generation or id; without either the one that the run ended with, or would end with now."""
    past = await ancestors(source.log, source.run)
    events = await events_of_types(
        source.log, source.run, [CandidateEvaluated, CandidateAccepted, RunFinished, AuditReleased], past
    )
    facts = [event.data for event in sorted(events, key=lambda event: event.run == source.run)]
    evaluated = {fact.candidate: fact for fact in facts if isinstance(fact, CandidateEvaluated)}
    there_are = ", ".join(str(number) for number in sorted({fact.generation for fact in evaluated.values()}))
    if candidate:
        found = [fact for id, fact in evaluated.items() if id.startswith(candidate)]
        if len(found) == 1:
            return found[0]
        raise NotFound(
            f'{len(found)} candidates of {source.run} have an id that begins with {candidate!r}: `evolog sql "SELECT '
            'generation, candidate FROM candidates"` lists them.'
        )
    if generation is not None:
        own = [fact for fact in evaluated.values() if fact.generation == generation]
        if own:
            return own[-1]
        raise NotFound(
            f"Generation {generation} of {source.run} has no candidate that was evaluated; those that have one: "
            f"{there_are or 'none'}."
        )
    ended = [fact.candidate for fact in facts if isinstance(fact, RunFinished)]
    accepted = [fact.candidate for fact in facts if isinstance(fact, CandidateAccepted)]
    if not ended and any(isinstance(fact, AuditReleased) and fact.action == "rollback" for fact in facts):
        raise UsageError(
            f"{source.run} goes on, and candidates of it were rolled back: name one with --generation, of {there_are}."
        )
    best = (ended or accepted or [""])[-1]
    if best not in evaluated:
        raise NotFound(
            f"No candidate of {source.run} was accepted, so there is none to be had: `evolog show` says why."
        )
    return evaluated[best]


async def _answers(source: _Source, chosen: CandidateEvaluated) -> list[Answer]:
    past = await ancestors(source.log, source.run)
    answers: dict[str, Answer] = {}
    for event in await events_of_types(source.log, source.run, [RolloutsRequested], past):
        asked = event.data
        assert isinstance(asked, RolloutsRequested)
        pair = (asked.generation, asked.scaffold, asked.adapter)
        if asked.purpose != "dev" or pair != (chosen.generation, chosen.scaffold, chosen.adapter):
            continue
        for attempt in await attempts_of_request(source.log, source.run, event.id, past):
            answers[attempt.id] = Answer(
                item=attempt.recorded.item,
                attempt=attempt.recorded.attempt,
                answer=attempt.recorded.answer,
                reward=attempt.reward,
                outcome=attempt.outcome or "not scored",
                details=attempt.details,
                failure="",
                trajectory=attempt.id,
            )
        for id, failed in (await failures_of_request(source.log, source.run, event.id, past)).items():
            answers[id] = Answer(
                item=failed.item,
                attempt=failed.attempt,
                answer=None,
                reward=None,
                outcome=failed.kind,
                details="",
                failure=failed.reason,
                trajectory="",
            )
    return list(answers.values())
