"""Reads what a candidate's trajectories show, and chooses the next lever: by the table of `rules`, or by asking a language model."""

import asyncio
from collections.abc import Sequence

import msgspec

from algorithms.levers import rules
from algorithms.levers.rules import Choice, PastChoice, ProbeAttempt
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen
from events.codec import Event
from events.errors import TryAgain, Unavailable, why
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.kinds import AgentName
from events.population import CandidateAccepted
from events.weights import WeightUpdateFinished
from runtime.agents.providers import model_of
from runtime.blobs.directory import Blobs
from runtime.log.lookup import Attempted, attempts, of_types
from runtime.log.worker import answer, work
from runtime.policies.bases import CLOSED
from runtime.policies.interface import SampleRequest
from runtime.run.loading import Loaded
from services.host.context import Context
from tasks.contract import Evidence

AGENT: AgentName = "feedback_agent"
UNLIMITED = 10**9
"""Rollouts left where the run has no limit on them."""
HISTORY_TYPES = (LeverChosen, CandidateEvaluated, CandidateAccepted, WeightUpdateFinished)


async def serve(context: Context) -> None:
    """Answer requests for feedback."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            requested = event.data
            assert isinstance(requested, FeedbackRequested)
            loaded = await context.load(event.run)
            try:
                where = context.log, event.run
                past = await context.past(event.run)
                told = await of_types(*where, HISTORY_TYPES, past)
                played = [attempt for request in requested.probe_requests for attempt in await attempts(*where, request, past)]
                model = model_of(loaded.started.agent)
                if model is None:
                    facts = await asyncio.to_thread(feedback, context.blobs, told, played, loaded, requested)
                else:
                    from services.advice import asked  # with all that it needs, for runs that have a model

                    shown = probe(context.blobs, played, loaded)
                    diagnosis = figures(evidence(shown, told, loaded, requested)) if shown else {}
                    facts = await asked(context, event, requested, loaded, model, diagnosis, played)
            except (Unavailable, TryAgain):
                raise  # this is handed out again
            except Exception as wrong:  # an edit is the task's own code
                facts = [ProposalFailed(generation=requested.generation, reason=why(wrong))]
            outputs += [answer(fact, event, AGENT) for fact in facts]
        return outputs

    await work(context.log, perform, source=AGENT, scanner=context.scanner)


def feedback(blobs: Blobs, told: Sequence[Event], played: Sequence[Attempted], loaded: Loaded, requested: FeedbackRequested) -> list[Fact]:
    """What the agent saw, what it chose and why, and the change itself."""
    shown = probe(blobs, played, loaded)
    if not shown:
        return [ProposalFailed(generation=requested.generation, reason="no attempt at the probe was scored, so there is nothing to go by")]
    tried = history(told, requested.generation)
    seen = evidence(shown, told, loaded, requested)
    choice = as_ordered(rules.choose(seen, tried, requested.levers, loaded.task.edits()), loaded.started.algorithm)
    blob = blobs.put(msgspec.json.encode({"evidence": seen, "attempts": shown, "history": tried}, order="deterministic"))
    return [
        ContextAssembled(generation=requested.generation, blob=blob, trajectories=len(shown)),
        LeverChosen(
            generation=requested.generation,
            lever=choice.lever,
            action=choice.action,
            reason=choice.reason,
            propensities={choice.lever: 1.0},
            diagnosis=figures(seen),
        ),
        *_change(blobs, loaded, requested, choice),
    ]


def as_ordered(choice: Choice, algorithm: str) -> Choice:
    """The choice, with the algorithm that the run was ordered to train by, and its default settings."""
    if choice.lever != "weights" or algorithm in ("", choice.action):
        return choice
    why = f"{choice.reason} (The rules would take {choice.action}; this run is to train by {algorithm}.)"
    return msgspec.structs.replace(choice, action=algorithm, hyper={}, reason=why)


def evidence(shown: Sequence[ProbeAttempt], told: Sequence[Event], loaded: Loaded, requested: FeedbackRequested) -> Evidence:
    """What the probe's attempts show, with the run's own figures."""
    scores = {event.data.candidate: event.data for event in told if isinstance(event.data, CandidateEvaluated)}
    updates = [
        event.data for event in told if isinstance(event.data, WeightUpdateFinished) and event.data.generation < requested.generation
    ]
    return rules.evidence(
        shown,
        dev=scores[requested.candidate].score,
        labels=len(loaded.public.labels),
        train_items=len(loaded.public.train),
        found=updates[-1].solved / len(loaded.public.train) if updates else 0.0,
        rollouts_used=scores[requested.candidate].rollouts,
        rollouts_left=UNLIMITED if requested.rollouts_left is None else requested.rollouts_left,
        signal=loaded.task.signal,
        labelled=all(example.label for example in loaded.public.train),
        copies=loaded.task.has_copies,
        free=loaded.started.policy not in CLOSED,
    )


def probe(blobs: Blobs, played: Sequence[Attempted], loaded: Loaded) -> list[ProbeAttempt]:
    """The scored attempts at train items, each with the choices that its last call of the model offered."""
    labels = {example.id: example.label for example in loaded.public.train}
    bodies: dict[str, list[SampleRequest]] = {}
    shown = []
    for scored in played:
        if scored.reward is None:
            continue
        choices: tuple[str, ...] = ()
        if scored.calls:
            call = scored.calls[-1]
            if call.body not in bodies:
                bodies[call.body] = msgspec.json.decode(blobs.get(call.body), type=list[SampleRequest])
            choices = bodies[call.body][call.index].choices
        item = scored.recorded.item
        shown.append(
            ProbeAttempt(
                item=item,
                reward=scored.reward,
                outcome=scored.outcome,
                choices=choices,
                label=labels[item],
                answer=scored.recorded.answer or "",
                read=sum(call.prompt_tokens for call in scored.calls),
                tokens=sum(len(call.tokens[use.completion]) for use, call in zip(scored.recorded.calls, scored.calls, strict=True)),
            )
        )
    return shown


def history(events: Sequence[Event], generation: int) -> list[PastChoice]:
    """The choices before this generation, and what came of each."""
    chosen: dict[int, LeverChosen] = {}
    scores: dict[int, float] = {}
    accepted: set[int] = set()
    starts: set[int] = set()
    """Generations in which a candidate was judged that nothing was changed for."""
    for event in events:
        match event.data:
            case LeverChosen() as lever:
                chosen[lever.generation] = lever
            case CandidateEvaluated(generation=number, score=score, lever=lever_of):
                scores[number] = score
                starts |= {number} if lever_of == "start" else set()
            case CandidateAccepted(generation=number):
                accepted.add(number)
    tried = []
    best = scores.get(0, 0.0)
    for number in sorted(chosen.keys() | starts):
        if number >= generation:
            break
        if number in starts:  # the first, or a fork's, under which scores mean something else
            best = scores[number]
            continue
        kept = number in accepted
        after = scores.get(number, best)
        tried.append(PastChoice(lever=chosen[number].lever, action=chosen[number].action, accepted=kept, before=best, after=after))
        best = after if kept else best
    return tried


def figures(seen: Evidence) -> dict[str, float]:
    """The evidence as the figures that a `LeverChosen` records."""
    found = {name: float(value) for name, value in msgspec.structs.asdict(seen).items() if name != "signal"}
    return {**found, "scored": float(seen.signal == "scores"), "compared": float(seen.signal == "comparisons")}


def _change(blobs: Blobs, loaded: Loaded, requested: FeedbackRequested, choice: Choice) -> list[Fact]:
    match choice.lever:
        case "scaffold":
            edit = next(edit for edit in loaded.task.edits() if edit.name == choice.action)
            files = {path: data.decode() for path, data in blobs.get_tree(requested.scaffold).items()}
            tree = blobs.put_tree({path: text.encode() for path, text in edit.apply(files).items()})
            return [
                ScaffoldProposed(
                    generation=requested.generation, scaffold=tree, parent=requested.scaffold, summary=edit.summary, reason=choice.reason
                )
            ]
        case "weights":
            return [
                WeightUpdateRequested(
                    generation=requested.generation,
                    algorithm=choice.action,
                    hyper=dict(choice.hyper),
                    rounds=choice.rounds,
                    resample=choice.resample,
                    memory=choice.memory,
                    reason=choice.reason,
                    restart=choice.restart,
                    hints=choice.hints,
                )
            ]
        case "stop":
            return []
