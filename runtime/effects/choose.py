"""Choosing the next lever and the change itself from a candidate's trajectories, by the rules or by a
language model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from algorithms.levers import rules
from algorithms.levers.rules import Choice, PastChoice, ProbeAttempt
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen
from events.codec import Event
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import RolloutFailed
from events.weights import WeightUpdateFinished
from runtime.agents import feedback
from runtime.agents.context import ShownAttempt, ShownCall, task_text
from runtime.agents.endings import Inspector
from runtime.agents.session import AgentSession
from runtime.blobs.directory import Blobs
from runtime.policies.bases import CLOSED
from runtime.rollouts.attempt import RecordedAttempt, request_reader
from runtime.run.loading import LoadedRun
from tasks.contract import Evidence

UNLIMITED = 10**9
"""Rollouts left where the run has no limit on them."""
HISTORY_TYPES = (LeverChosen, CandidateEvaluated, CandidateAccepted, WeightUpdateFinished)
"""What the rules know of earlier generations."""


def choose_by_rules(
    blobs: Blobs,
    history: Sequence[Event],
    attempts: Sequence[RecordedAttempt],
    loaded: LoadedRun,
    requested: FeedbackRequested,
) -> list[Fact]:
    """What the rules agent saw, what it chose and why, and the change itself.

    `history` holds the run's events of `HISTORY_TYPES`, `attempts` the recorded ones at the probe. Raises what an edit
    of the task's catalogue raises.
    """
    probe = probe_attempts(blobs, attempts, loaded)
    if not probe:
        return [
            ProposalFailed(
                generation=requested.generation,
                reason="no attempt at the probe was scored, so there is nothing to go by",
            )
        ]
    tried = earlier_choices(history, requested.generation)
    seen = evidence(probe, history, loaded, requested)
    choice = with_ordered_algorithm(
        rules.choose(seen, tried, requested.levers, loaded.task.edits()), loaded.started.algorithm
    )
    blob = blobs.put(
        msgspec.json.encode({"evidence": seen, "attempts": probe, "history": tried}, order="deterministic")
    )
    return [
        ContextAssembled(generation=requested.generation, blob=blob, trajectories=len(probe)),
        LeverChosen(
            generation=requested.generation,
            lever=choice.lever,
            action=choice.action,
            reason=choice.reason,
            propensities={choice.lever: 1.0},
            diagnosis=diagnosis(seen),
        ),
        *_change(blobs, loaded, requested, choice),
    ]


def with_ordered_algorithm(choice: Choice, algorithm: str) -> Choice:
    """The choice with the algorithm that the run was ordered to train by, and that algorithm's default settings."""
    if choice.lever != "weights" or algorithm in ("", choice.action):
        return choice
    reason = f"{choice.reason} (The rules would take {choice.action}; this run is to train by {algorithm}.)"
    return msgspec.structs.replace(choice, action=algorithm, hyper={}, reason=reason)


def evidence(
    probe: Sequence[ProbeAttempt], history: Sequence[Event], loaded: LoadedRun, requested: FeedbackRequested
) -> Evidence:
    """What the probe's attempts show, with the run's own figures."""
    scores = {event.data.candidate: event.data for event in history if isinstance(event.data, CandidateEvaluated)}
    updates = [
        event.data
        for event in history
        if isinstance(event.data, WeightUpdateFinished) and event.data.generation < requested.generation
    ]
    return rules.evidence(
        probe,
        dev=scores[requested.candidate].score,
        labels=len(loaded.public.labels),
        train_items=len(loaded.public.train),
        found=updates[-1].solved / len(loaded.public.train) if updates else 0.0,
        rollouts_used=scores[requested.candidate].rollouts,
        rollouts_left=UNLIMITED if requested.rollouts_left is None else requested.rollouts_left,
        signal=loaded.task.signal,
        labelled=all(example.label is not None for example in loaded.public.train),
        copies=loaded.task.has_copies,
        free=loaded.started.policy not in CLOSED,
    )


def probe_attempts(blobs: Blobs, attempts: Sequence[RecordedAttempt], loaded: LoadedRun) -> list[ProbeAttempt]:
    """The scored attempts at train items, each with the choices that its last call of the policy offered."""
    labels = {example.id: example.label or "" for example in loaded.public.train}
    read_request = request_reader(blobs)
    return [
        ProbeAttempt(
            item=attempt.recorded.item,
            reward=attempt.reward,
            outcome=attempt.outcome,
            choices=read_request(attempt.calls[-1]).choices if attempt.calls else (),
            label=labels[attempt.recorded.item],
            answer=attempt.recorded.answer or "",
            read=sum(call.prompt_tokens for call in attempt.calls),
            tokens=sum(
                len(call.tokens[use.completion])
                for use, call in zip(attempt.recorded.calls, attempt.calls, strict=True)
            ),
        )
        for attempt in attempts
        if attempt.reward is not None
    ]


def earlier_choices(history: Sequence[Event], generation: int) -> list[PastChoice]:
    """The choices before this generation, and what came of each."""
    chosen: dict[int, LeverChosen] = {}
    scores: dict[int, float] = {}
    accepted: set[int] = set()
    starts: set[int] = set()
    """Generations that changed nothing: the first, and a fork's under whose verifier or policy scores mean something
    else.
    """
    for event in history:
        match event.data:
            case LeverChosen() as lever:
                chosen[lever.generation] = lever
            case CandidateEvaluated(generation=number, score=score, lever=origin):
                scores[number] = score
                starts |= {number} if origin == "start" else set()
            case CandidateAccepted(generation=number):
                accepted.add(number)
    tried = []
    best = scores.get(0, 0.0)
    for number in sorted(chosen.keys() | starts):
        if number >= generation:
            break
        if number in starts:
            best = scores[number]
            continue
        after = scores.get(number, best)
        choice = chosen[number]
        tried.append(
            PastChoice(lever=choice.lever, action=choice.action, accepted=number in accepted, before=best, after=after)
        )
        best = after if number in accepted else best
    return tried


def diagnosis(seen: Evidence) -> dict[str, float]:
    """The evidence as the figures that a `LeverChosen` records."""
    figures = {name: float(value) for name, value in msgspec.structs.asdict(seen).items() if name != "signal"}
    return {**figures, "scored": float(seen.signal == "scores"), "compared": float(seen.signal == "comparisons")}


def _change(blobs: Blobs, loaded: LoadedRun, requested: FeedbackRequested, choice: Choice) -> list[Fact]:
    match choice.lever:
        case "scaffold":
            edit = next(edit for edit in loaded.task.edits() if edit.name == choice.action)
            files = {path: data.decode() for path, data in blobs.get_tree(requested.scaffold).items()}
            tree = blobs.put_tree({path: text.encode() for path, text in edit.apply(files).items()})
            return [
                ScaffoldProposed(
                    generation=requested.generation,
                    scaffold=tree,
                    parent=requested.scaffold,
                    summary=edit.summary,
                    reason=choice.reason,
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


class ProbeRecord(NamedTuple):
    """What is recorded that a language model chooses by."""

    history: Sequence[Event]
    """The run's events of `feedback.HISTORY_TYPES`."""
    diagnosis: Mapping[str, float]
    """The figures of the probe."""
    attempts: Sequence[RecordedAttempt]
    failures: Mapping[str, RolloutFailed]
    """By id; with `attempts`, what came of the probe."""


class ChoiceHost(NamedTuple):
    """What a language model's choice needs of the host, while it talks and at its end."""

    find: Callable[[str], RecordedAttempt | None]
    """Any attempt by its id."""
    query: Callable[[str], feedback.Table]
    """Asks the run's tables in SQL."""
    inspector: Inspector
    """What a scaffold that it proposes is checked against, with the files of the present one."""
    record: Callable[[Fact], object]
    """Appends what the model is shown, before it is asked."""


def choose_by_model(
    session: AgentSession, requested: FeedbackRequested, loaded: LoadedRun, recorded: ProbeRecord, host: ChoiceHost
) -> list[Fact]:
    """What a language model chose, and the change itself."""
    reader = AttemptReader(session.blobs, loaded)

    def fetch(id: str) -> ShownAttempt | None:
        attempt = host.find(id)
        return reader.ran(attempt) if attempt and attempt.recorded.split == "train" else None

    shown_attempts = [
        *map(reader.ran, recorded.attempts),
        *(reader.failed(id, failure) for id, failure in recorded.failures.items()),
    ]
    case = feedback.FeedbackInput(
        requested.generation,
        requested.scaffold,
        requested.levers,
        task_text(loaded.task.description, loaded.public, loaded.started.policy),
        recorded.diagnosis,
        budget_text(requested, loaded),
        recorded.history,
    )
    return feedback.advise(
        session,
        case,
        feedback.Library(shown_attempts, fetch, host.query, host.inspector.present),
        host.inspector,
        host.record,
    )


class AttemptReader:
    """Describes attempts at train items as an agent reads them."""

    def __init__(self, blobs: Blobs, loaded: LoadedRun) -> None:
        self._loaded = loaded
        self._examples = {example.id: example for example in loaded.shown_public.train}
        self._read_request = request_reader(blobs)

    def ran(self, attempt: RecordedAttempt) -> ShownAttempt:
        """An attempt that ran, with its calls of the policy."""
        recorded = attempt.recorded
        calls = []
        for use, call in zip(recorded.calls, attempt.calls, strict=True):
            request = self._read_request(call)
            calls.append(
                ShownCall(self._loaded.shown_text(request.prompt), request.choices, call.texts[use.completion])
            )
        shown_attempt = self._shown_attempt(
            attempt.id, recorded.item, recorded.attempt, attempt.outcome or "not scored", ""
        )
        return msgspec.structs.replace(
            shown_attempt,
            answer=recorded.answer,
            reward=attempt.reward,
            details=attempt.details,
            calls=tuple(calls),
        )

    def failed(self, id: str, failed: RolloutFailed) -> ShownAttempt:
        """An attempt that did not run to its end."""
        return self._shown_attempt(id, failed.item, failed.attempt, failed.kind, failed.reason)

    def _shown_attempt(self, id: str, item: str, attempt: int, outcome: str, reason: str) -> ShownAttempt:
        example = self._examples[item]
        return ShownAttempt(
            id=id,
            item=item,
            attempt=attempt,
            prompt=example.prompt,
            label=example.label or "",
            answer=None,
            reward=None,
            outcome=outcome,
            reason=reason,
        )


def budget_text(requested: FeedbackRequested, loaded: LoadedRun) -> str:
    """What is left to spend, in a sentence."""
    left = "no limit on rollouts" if requested.rollouts_left is None else f"{requested.rollouts_left:,} rollouts left"
    round_cost = loaded.started.group_size * len(loaded.public.train)
    return f"{requested.generations_left} generations left, {left}; a round of a weight update plays {round_cost:,}."
