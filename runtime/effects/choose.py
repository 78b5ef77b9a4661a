"""Choosing the next lever and the change itself from a candidate's trajectories, by the rules or by a
language model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from algorithms.levers import rules
from algorithms.levers.rules import Choice, PastChoice, ProbeAttempt
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted, CandidateKept
from events.rollouts import RolloutFailed
from events.run import RunStarted
from events.weights import WeightUpdateFinished
from runtime.agents import feedback
from runtime.agents.ancestry import ancestry
from runtime.agents.artefacts import left_by
from runtime.agents.context import ShownAttempt, ShownCall, task_text
from runtime.agents.endings import ChildRunLimits, Inspector
from runtime.agents.policy_text import policy_text
from runtime.agents.session import AgentSession
from runtime.agents.trials import Workbench
from runtime.blobs.directory import Blobs
from runtime.policies.bases import CLOSED
from runtime.rollouts.attempt import RecordedAttempt, request_reader
from runtime.run.loading import LoadedRun
from runtime.run.state import evaluation_cost
from tasks.contract import Evidence

UNLIMITED = 10**9
"""Rollouts left where the run has no limit on them."""
HISTORY_TYPES = (
    ParentSelected,
    FeedbackRequested,
    LeverChosen,
    CandidateEvaluated,
    CandidateAccepted,
    CandidateKept,
    WeightUpdateFinished,
)
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
    tried = earlier_choices(history, requested)
    seen = evidence(probe, history, loaded, requested)
    choice = choice_beside(
        lambda past: with_ordered_algorithm(
            rules.choose(seen, past, requested.levers, loaded.task.edits()), loaded.started.algorithm
        ),
        tried,
        seen.dev,
        rivals(history, requested),
    )
    if choice.lever == "stop" and requested.beside:
        return [ProposalFailed(generation=requested.generation, reason=_nothing_beside(requested.beside, choice))]
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
            propensities=dict(requested.propensities) or {choice.lever: 1.0},
            diagnosis=diagnosis(seen),
        ),
        *_change(blobs, loaded, requested, choice),
    ]


def rivals(history: Sequence[Event], requested: FeedbackRequested) -> int:
    """How many of the generations beside this one choose among levers that it may pull too."""
    levers = {
        event.data.generation: event.data.levers for event in history if isinstance(event.data, FeedbackRequested)
    }
    return sum(
        not set(requested.levers).isdisjoint(levers.get(number, requested.levers)) for number in requested.beside
    )


def choice_beside(
    choose: Callable[[Sequence[PastChoice]], Choice], tried: Sequence[PastChoice], dev: float, others: int
) -> Choice:
    """The choice of an agent beside which others choose by the same rules, for the same candidate: the best after
    theirs, without waiting for any of them.

    What each of them takes counts as tried and rejected. Where nothing is left, a weight update is ordered once more:
    with another seed it trains otherwise.
    """
    first = choice = choose(tried)
    past = list(tried)
    for _ in range(others):
        past.append(PastChoice(lever=choice.lever, action=choice.action, accepted=False, before=dev, after=dev))
        choice = choose(past)
    if others and choice.lever == "stop" and first.lever == "weights":
        choice = first
    if not others or choice.lever == "stop":
        return choice
    reason = f"{choice.reason} (Beside this one, {others} more change the same candidate: this is what is left to try.)"
    return msgspec.structs.replace(choice, reason=reason)


def _nothing_beside(beside: Collection[int], choice: Choice) -> str:
    numbers = ", ".join(map(str, beside))
    return f"nothing is left to try beside generations {numbers}, which change the same candidate: {choice.reason}"


def with_ordered_algorithm(choice: Choice, algorithm: str) -> Choice:
    """The choice with the algorithm that the run was ordered to train by, and that algorithm's default settings.

    What belongs to another algorithm goes with it: hints, and the rounds of an update that a round of STaR would end.
    """
    if choice.lever != "weights" or algorithm in ("", choice.action):
        return choice
    reason = f"{choice.reason} (The rules would take {choice.action}; this run is to train by {algorithm}.)"
    if choice.hints:  # the rules order them for STaR alone
        choice = msgspec.structs.replace(choice, hints=False, restart=False, rounds=max(choice.rounds, 3))
    return msgspec.structs.replace(choice, action=algorithm, hyper={}, reason=reason)


def evidence(
    probe: Sequence[ProbeAttempt], history: Sequence[Event], loaded: LoadedRun, requested: FeedbackRequested
) -> Evidence:
    """What the probe's attempts show, with the run's own figures."""
    scores = {event.data.candidate: event.data for event in history if isinstance(event.data, CandidateEvaluated)}
    tried = ancestry(history, requested).tried
    finished = {event.data.generation: event.data for event in history if isinstance(event.data, WeightUpdateFinished)}
    updates = [finished[generation] for generation in tried if generation in finished]  # not as they ended
    return rules.evidence(
        probe,
        dev=scores[requested.candidate].score,
        labels=len(loaded.public.labels),
        train_items=len(loaded.public.train),
        found=updates[-1].solved / len(loaded.public.train) if updates else 0.0,
        rollouts_used=scores[requested.candidate].rollouts,
        rollouts_left=UNLIMITED if requested.rollouts_left is None else requested.rollouts_left,
        signal=loaded.task.signal,
        solved=loaded.started.solved,
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


def earlier_choices(history: Sequence[Event], requested: FeedbackRequested) -> list[PastChoice]:
    """The choices of changes to the candidate that is to be changed, or to an ancestor of it, and what came of each: by
    ancestor, and of each ancestor the one that led on last. In a chain these are all choices in their order.
    """
    line = ancestry(history, requested)
    chosen: dict[int, LeverChosen] = {}
    scores: dict[int, float] = {}
    standing: set[int] = set()
    for event in history:
        match event.data:
            case LeverChosen() as choice:
                chosen[choice.generation] = choice
            case CandidateEvaluated(generation=number, score=score):
                scores[number] = score
            case CandidateAccepted(generation=number) | CandidateKept(generation=number):
                standing.add(number)
    return [
        PastChoice(
            lever=chosen[number].lever,
            action=chosen[number].action,
            accepted=number in standing,
            before=(before := scores[line.parents[number]]),
            after=scores.get(number, before),
            other_branch=number in standing and number not in line.path,
        )
        for number in line.tried
        if number in chosen
    ]


def diagnosis(seen: Evidence) -> dict[str, float]:
    """The evidence as the figures that a `LeverChosen` records."""
    figures = {
        name: float(value) for name, value in msgspec.structs.asdict(seen).items() if name not in ("signal", "solved")
    }
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
        case "stop" | "child":
            return []  # the rules order no run of its own


class ProbeRecord(NamedTuple):
    """What is recorded that a language model chooses by."""

    history: Sequence[Event]
    """The run's events of `feedback.HISTORY_TYPES` that the agent may know."""
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
    record: Callable[[Fact], Fact | None]
    """Appends what the model is shown before it is asked, and what it publishes; gives what stood there already."""
    workbench: Workbench | None = None
    """Where something can be tried out, if it can."""


def choose_by_model(
    session: AgentSession, requested: FeedbackRequested, loaded: LoadedRun, recorded: ProbeRecord, host: ChoiceHost
) -> list[Fact]:
    """What a language model chose, and the change itself."""
    reader = AttemptReader(session.blobs, loaded)

    def fetch(id: str) -> ShownAttempt | None:
        attempt = host.find(id)
        if attempt is None or attempt.recorded.split != "train" or attempt.recorded.generation > requested.known:
            return None  # of what is under way beside it, there is more or less by now, as it happens
        return reader.ran(attempt)

    shown_attempts = [
        *map(reader.ran, recorded.attempts),
        *(reader.failed(id, failure) for id, failure in recorded.failures.items()),
    ]
    case = feedback.FeedbackInput(
        requested,
        task_text(loaded.task.description, loaded.public, policy_text(loaded.started)),
        recorded.diagnosis,
        budget_text(requested, loaded),
        recorded.history,
        child_run_limits(requested, loaded.started),
    )
    second = session.blobs.get_tree(requested.second_scaffold) if requested.second_scaffold else {}
    library = feedback.Library(
        shown_attempts,
        fetch,
        host.query,
        host.inspector.present,
        {path: data.decode() for path, data in second.items()},
        left_by(recorded.history, ancestry(recorded.history, requested).generations, session.blobs),
        feedback.scaffolds_of(recorded.history, requested.known),
        host.workbench,
    )
    return feedback.advise(session, case, library, host.inspector, host.record)


def child_run_limits(requested: FeedbackRequested, started: RunStarted) -> ChildRunLimits | None:
    """What an agent may order a child run with; None where it may order none: in a child run, and where the rollouts
    left are too few to judge its start and one candidate.
    """
    least = 2 * evaluation_cost(started)
    if started.owner or (requested.rollouts_left is not None and requested.rollouts_left < least):
        return None
    return ChildRunLimits(requested.levers, least)


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
        return self.unrun(id, failed.item, failed.attempt, failed.kind, failed.reason)

    def unrun(self, id: str, item: str, attempt: int, kind: str, reason: str) -> ShownAttempt:
        """An attempt that failed to run, by the kind of failure."""
        return self._shown_attempt(id, item, attempt, kind, reason)

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
