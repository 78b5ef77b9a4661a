"""The Feedback-Agent's conversation with a language model: what it is shown, and what it can ask for."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from events.choice import FeedbackRequested
from events.codec import Event
from events.fact import Fact
from events.kinds import AgentName
from events.rollouts import RolloutFailed
from replay.archive.agent_copy import RunTables
from replay.archive.query import query
from runtime.agents import feedback
from runtime.agents.context import Said, Shown, task_text
from runtime.agents.providers import Model
from runtime.blobs.directory import Blobs
from runtime.log.lineage import Span
from runtime.log.lookup import Attempted, failures, of_ids, of_types
from runtime.policies.interface import SampleRequest
from runtime.run.loading import Loaded
from services.desks import inspector, open_session, recorder
from services.host.context import Context

AGENT: AgentName = "feedback_agent"


async def asked(
    context: Context,
    event: Event,
    requested: FeedbackRequested,
    loaded: Loaded,
    model: Model,
    diagnosis: Mapping[str, float],
    played: Sequence[Attempted],
) -> list[Fact]:
    """What a language model chose, and the change itself. `diagnosis` are the figures of the probe."""
    desk = await open_session(context, event, AGENT, requested.generation, model, loaded.started)
    log, run, past = context.log, event.run, await context.past(event.run)
    failed = {id: one for request in requested.probe_requests for id, one in (await failures(log, run, request, past)).items()}
    history = [one for one in await of_types(log, run, feedback.HISTORY_TYPES, past) if one.data.generation <= requested.generation]  # type: ignore[attr-defined]
    describing = Describing(context.blobs, loaded)
    tables = RunTables(lambda sql: query(context.node.directory, sql), run, past, event.id, loaded.public.train)

    def fetch(id: str) -> Shown | None:
        found = [one for span in (Span(run), *past) for one in context.wait_for(of_ids(log, span, [id]))]
        return describing.ran(found[0]) if found and found[0].recorded.split == "train" else None

    def conversation() -> list[Fact]:
        files = {path: data.decode() for path, data in context.blobs.get_tree(requested.scaffold).items()}
        case = feedback.Case(
            requested.generation,
            requested.scaffold,
            requested.levers,
            task_text(loaded.task.description, loaded.public, loaded.started.policy),
            diagnosis,
            budget_text(requested, loaded),
            history,
        )
        shown = [describing.ran(one) for one in played] + [describing.failed(id, one) for id, one in failed.items()]
        library = feedback.Library(shown, fetch, tables.query, files)
        return feedback.advise(desk, case, library, inspector(context, loaded, files), recorder(context, event, AGENT))

    try:
        return await asyncio.to_thread(conversation)
    finally:
        tables.close()


class Describing:
    """Attempts at train items as an agent reads them."""

    def __init__(self, blobs: Blobs, loaded: Loaded) -> None:
        self._blobs = blobs
        self._examples = {example.id: example for example in loaded.public.train}
        self._bodies: dict[str, list[SampleRequest]] = {}

    def ran(self, played: Attempted) -> Shown:
        """One that ran, with its calls."""
        calls = []
        for use, call in zip(played.recorded.calls, played.calls, strict=True):
            if call.body not in self._bodies:
                self._bodies[call.body] = msgspec.json.decode(self._blobs.get(call.body), type=list[SampleRequest])
            body = self._bodies[call.body][call.index]
            calls.append(Said(body.prompt, body.choices, call.texts[use.completion]))
        recorded = played.recorded
        shown = self._shown(played.id, recorded.item, recorded.attempt, played.outcome or "not scored", "")
        return msgspec.structs.replace(shown, answer=recorded.answer, reward=played.reward, calls=tuple(calls))

    def failed(self, id: str, failed: RolloutFailed) -> Shown:
        """One that did not run."""
        return self._shown(id, failed.item, failed.attempt, failed.kind, failed.reason)

    def _shown(self, id: str, item: str, attempt: int, outcome: str, reason: str) -> Shown:
        of = self._examples[item]
        return Shown(
            id=id,
            item=item,
            attempt=attempt,
            prompt=of.prompt,
            label=of.label,
            answer=None,
            reward=None,
            outcome=outcome,
            reason=reason,
        )


def budget_text(requested: FeedbackRequested, loaded: Loaded) -> str:
    """What is left to spend, in a sentence."""
    left = "no limit on rollouts" if requested.rollouts_left is None else f"{requested.rollouts_left:,} rollouts left"
    round_cost = loaded.started.group_size * len(loaded.public.train)
    return f"{requested.generations_left} generations left, {left}; a round of a weight update plays {round_cost:,}."
