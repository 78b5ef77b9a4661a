"""Performs recorded effects again, by the code in `runtime/effects` that performed them, and compares the outcome with
the record.

Everything is compared to the last bit, but for what took how long. Nothing is written where the run's blobs are.
"""

import contextlib
import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested
from events.choice import FeedbackRequested, LeverChosen
from events.codec import Event
from events.errors import CheckFailed, NotFound, UsageError, UserError, why
from events.fact import Fact
from events.judgement import JudgeCalled, ScoringFailed, TrajectoryScored
from events.kinds import BackEnd
from events.rollouts import ModelCalled, TrajectoryRecorded
from events.run import RunStarted
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, TrainingBatchSealed, WeightUpdateFailed
from replay.recorded import EventIndex, Judgements, StoredEvent
from runtime.agents.providers import model_of
from runtime.blobs.directory import Blobs
from runtime.effects.choose import HISTORY_TYPES, choose_by_rules
from runtime.effects.judge import recorded_answers
from runtime.effects.propose import reference_scaffold
from runtime.effects.score import AskAbout, score
from runtime.effects.scoring import ScoringProcess
from runtime.effects.serve import ServedModels, check_adapter
from runtime.log.port import Stored
from runtime.policies.bases import HF, kind_of
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import RecordedAttempt
from runtime.rollouts.calls import EMBEDDINGS
from runtime.run.confined_verifier import ConfinedVerifier
from runtime.run.loading import LoadedRun, TaskAccess, load_run

CHOSEN = (LeverChosen, ProposalFailed)
"""One of these is in every answer to a request for feedback."""
SHORT = 120
"""Most characters of a value in a difference."""
ELSEWHERE = "a model of Hugging Face's format, and the log does not say on what device"

ReportProgress = Callable[[str, int, int], None]
"""Called with the kind, how many of its effects are done, and how many there are."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event that comes out differently: its sequence, the field of its data, and both values."""

    sequence: int
    field: str
    recorded: str
    now: str


class Performed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of performing all effects of one kind again: how many were, how many came out the same, and the first
    that did not.
    """

    kind: str
    performed: int
    same: int
    cannot: dict[str, int]
    """How many cannot be performed again, by the reason."""
    first: Difference | None


class Effect(NamedTuple):
    """One effect: the event that asked for it, what is recorded of it, and what it gives now, or why it cannot be
    performed.
    """

    request: StoredEvent
    recorded: Sequence[StoredEvent]
    now: Sequence[Fact] | str


class Overlay(Blobs):
    """Blobs that are read in one place and written in another."""

    def __init__(self, root: Path, source: Blobs) -> None:
        super().__init__(root)
        self._source = source

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`, of those below."""
        return self._source.get(digest)

    def freed(self, digest: str) -> bool:
        """As `Blobs.freed`, of those below."""
        return self._source.freed(digest)


class Stage:
    """Where effects are performed again: the recorded run, its blobs, its tasks as this host has them, a folder to work
    in, and what calls verifiers.
    """

    def __init__(
        self, recorded: EventIndex, blobs: Blobs, work: Path, access: TaskAccess, scoring_limit: float | None = None
    ) -> None:
        self.recorded, self.blobs, self.work = recorded, Overlay(work / "blobs", blobs), work
        self.access = access
        self.scorer = ScoringProcess(scoring_limit)
        self._loaded: dict[str, LoadedRun | UserError] = {}
        self._labels: dict[str, dict[str, str]] = {}

    def started(self, run: str) -> RunStarted:
        """The beginning of a run; raises CheckFailed if it is not among the messages."""
        if run not in self.recorded.started:
            raise CheckFailed(f"The event that began run {run} is not among the messages.")
        return self.recorded.started[run]

    def loaded(self, run: str) -> LoadedRun:
        """A run with its task; raises UserError where this host's is not what the run was started on."""
        if run not in self._loaded:
            try:
                self._loaded[run] = load_run(run, self.started(run), self.blobs, self.access, self.work / "verifier")
            except UserError as wrong:
                self._loaded[run] = wrong
        loaded = self._loaded[run]
        if isinstance(loaded, UserError):
            raise loaded
        return loaded

    def close(self) -> None:
        """End the processes that verifiers run in."""
        self.scorer.close()
        for loaded in self._loaded.values():
            if isinstance(loaded, LoadedRun) and isinstance(loaded.task.judge, ConfinedVerifier):
                loaded.task.judge.close()

    def labels(self, run: str) -> dict[str, str]:
        """The labels of train and dev, as the verifier has them."""
        if run not in self._labels:
            loaded = self.loaded(run)
            self._labels[run] = loaded.task.labels(loaded.started.seed)
        return self._labels[run]

    def recorded_judge(self, run: str) -> AskAbout:
        """What answers a run's verifier as its judge model did; no model is asked again."""
        return recorded_answers(self.recorded.judge_calls, run, self.blobs)

    def require_embedded(self, base_model: str) -> None:
        """Raise UserError for a base model that is not here or that this machine may compute otherwise."""
        if kind_of(self.blobs.unpack(base_model, self.work / base_model)) == HF:
            raise CheckFailed(ELSEWHERE)

    def require_rules(self, run: str) -> None:
        """Raise CheckFailed where the run's agent is a language model."""
        agent = self.started(run).agent
        if model_of(agent) is not None:
            raise CheckFailed(f"the agent is a language model, {agent}")


def perform(
    messages: Sequence[Stored],
    blobs: Blobs,
    work: Path,
    kinds: Sequence[str],
    report_progress: ReportProgress,
    access: TaskAccess = TaskAccess(),
    scoring_limit: float | None = None,
) -> list[Performed]:
    """Perform all recorded effects of these kinds again, in a folder that is no one else's.

    The messages are one run's, in the order of the log, with those of its past first if it is a fork. `access` says
    whose code is run for it, and a verifier has `scoring_limit` seconds an answer. Raises UsageError for a kind
    that cannot be performed again, whatever is recorded.
    """
    require_kinds(kinds)
    with contextlib.closing(Stage(EventIndex(messages), blobs, work, access, scoring_limit)) as stage:
        return [
            _compared(kind, KINDS[kind](stage), functools.partial(report_progress, kind))
            for kind in dict.fromkeys(kinds)
        ]


def require_kinds(kinds: Sequence[str]) -> None:
    """Raise UsageError for a kind that cannot be performed again, whatever is recorded."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"{unknown[0]!r} cannot be performed again; expected one or more of {', '.join(KINDS)}.")


def _compared(
    kind: str, effects: tuple[int, Iterator[Effect]], report_progress: Callable[[int, int], None]
) -> Performed:
    total, stream = effects
    performed = same = 0
    cannot: Counter[str] = Counter()
    first: Difference | None = None
    for done, effect in enumerate(stream, 1):
        if isinstance(effect.now, str):
            cannot[effect.now] += 1
        else:
            performed += 1
            difference = _difference(effect.request, effect.recorded, effect.now)
            same += difference is None
            if difference and (first is None or difference.sequence < first.sequence):
                first = difference
        report_progress(done, total)
    return Performed(kind=kind, performed=performed, same=same, cannot=dict(cannot), first=first)


def _difference(request: StoredEvent, recorded: Sequence[StoredEvent], facts: Sequence[Fact]) -> Difference | None:
    recorded_facts = {_fact_key(entry.event.data): entry for entry in recorded}
    new_facts = {_fact_key(fact): fact for fact in facts}
    for key in [*recorded_facts, *(key for key in new_facts if key not in recorded_facts)]:
        entry, fact = recorded_facts.get(key), new_facts.get(key)
        sequence = (entry or request).sequence
        if entry is None or fact is None or type(entry.event.data) is not type(fact):
            texts = [_brief(value) if value else "nothing" for value in (entry and entry.event.data, fact)]
            return Difference(sequence=sequence, field="event", recorded=texts[0], now=texts[1])
        if divergence := _first_divergence("", _fields(entry.event.data), _fields(fact)):
            field, recorded_value, new_value = divergence
            return Difference(
                sequence=sequence, field=f"{fact.tag()}{field}", recorded=_brief(recorded_value), now=_brief(new_value)
            )
    return None


def _fact_key(fact: Fact) -> tuple[str | int, ...]:
    return fact.EXCLUSIVE_KEY or fact.tag(), *fact.key()


def _fields(fact: Fact) -> dict[str, Any]:
    """The fields that must be the same: all but the seconds that it took, and the folders of paths in a reason."""
    fields: dict[str, Any] = msgspec.to_builtins(fact)
    fields.pop("seconds", None)
    if "reason" in fields:
        fields["reason"] = re.sub(r"\S*/(?=[0-9a-f]{64}\b)", "", fields["reason"])
    return fields


def _first_divergence(path: str, recorded: Any, now: Any) -> tuple[str, object, object] | None:
    """The path of the first difference between two values, with both values there; None where they are equal."""
    if recorded == now:
        return None
    if isinstance(recorded, dict) and isinstance(now, dict) and recorded.keys() == now.keys():
        parts = [(f".{name}", recorded[name], now[name]) for name in recorded]
    elif isinstance(recorded, list | tuple) and isinstance(now, list | tuple) and len(recorded) == len(now):
        parts = [(f"[{position}]", *pair) for position, pair in enumerate(zip(recorded, now, strict=True))]
    else:
        return path, recorded, now
    return next(
        divergence
        for name, recorded_part, new_part in parts
        if (divergence := _first_divergence(path + name, recorded_part, new_part))
    )


def _brief(value: object) -> str:
    text = f"{value.tag()} {msgspec.json.encode(value).decode()}" if isinstance(value, Fact) else repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def _each(
    requests: Sequence[tuple[StoredEvent, list[StoredEvent]]], perform_one: Callable[[Event], Sequence[Fact]]
) -> tuple[int, Iterator[Effect]]:
    """Perform one after the other; `perform_one` raises UserError for one that cannot be."""

    def outcome(entry: StoredEvent, recorded: Sequence[StoredEvent]) -> Sequence[Fact] | str:
        try:
            return perform_one(entry.event)
        except UserError as wrong:
            return str(wrong)

    return len(requests), (Effect(entry, recorded, outcome(entry, recorded)) for entry, recorded in requests)


def _verifier(stage: Stage) -> tuple[int, Iterator[Effect]]:
    def scored(event: Event) -> list[Fact]:
        loaded, labels = stage.loaded(event.run), stage.labels(event.run)
        assert isinstance(event.data, TrajectoryRecorded)
        if loaded.task.verifier != loaded.started.verifier:
            raise CheckFailed(
                f"the run was scored by {loaded.started.verifier}, and the task has {loaded.task.verifier} now"
            )
        attempts: dict[str, TrajectoryRecorded] = {event.id: event.data}
        shards: dict[str, Sequence[str]] = {}
        if loaded.task.submissions:
            attempts, shards = stage.recorded.submission(event.data)
        return [*score(attempts, loaded, labels, stage.scorer, shards, stage.recorded_judge(event.run))]

    requests = stage.recorded.answered_requests(
        "verifier", TrajectoryRecorded, answers=(TrajectoryScored, ScoringFailed)
    )
    return _each(
        [
            (request, [reply for reply in replies if not isinstance(reply.event.data, JudgeCalled)])
            for request, replies in requests
        ],
        scored,
    )


def _feedback_agent(stage: Stage) -> tuple[int, Iterator[Effect]]:
    known = stage.recorded.of_types(*HISTORY_TYPES)  # of what came after its question, the agent looks at nothing

    def choose(event: Event) -> list[Fact]:
        stage.require_rules(event.run)
        return choose_again(stage, event, known, stage.recorded.judgements)

    return _each(stage.recorded.answered_requests("feedback_agent", FeedbackRequested, answers=CHOSEN), choose)


def probed(recorded: EventIndex, requested: FeedbackRequested, judgements: Judgements) -> list[RecordedAttempt]:
    """The attempts that show the Feedback-Agent how a candidate fares, with these rewards."""
    return [attempt for request in requested.probe_requests for attempt in recorded.attempts(request, judgements)]


def choose_again(stage: Stage, event: Event, known: Sequence[Event], judgements: Judgements) -> list[Fact]:
    """What the rules agent answers to a request for feedback, by these scores and rewards."""
    requested = event.data
    assert isinstance(requested, FeedbackRequested)
    attempts, loaded = probed(stage.recorded, requested, judgements), stage.loaded(event.run)
    try:
        return choose_by_rules(stage.blobs, known, attempts, loaded, requested)
    except NotFound:
        raise  # a blob that is not here
    except Exception as wrong:
        return [ProposalFailed(generation=requested.generation, reason=why(wrong))]


def _meta_agent(stage: Stage) -> tuple[int, Iterator[Effect]]:
    def propose(event: Event) -> list[Fact]:
        assert isinstance(event.data, ScaffoldRequested)
        stage.require_rules(event.run)
        return [reference_scaffold(stage.blobs, stage.loaded(event.run), event.data)]

    return _each(
        stage.recorded.answered_requests("meta_agent", ScaffoldRequested, answers=(ScaffoldProposed, ProposalFailed)),
        propose,
    )


def _policy(stage: Stage) -> tuple[int, Iterator[Effect]]:
    """The calls of each model together, those of a group commit at once; then the checks of the adapters."""
    models = ServedModels(stage.blobs, stage.work)
    calls = [entry for entry in stage.recorded.events if isinstance(entry.event.data, ModelCalled)]

    def vouch(event: Event) -> list[Fact]:
        assert isinstance(event.data, AdapterPublished)
        stage.require_embedded(event.data.base_model)
        with contextlib.suppress(CheckFailed):  # of a damaged adapter, the policy says so
            stage.blobs.unpack(event.data.adapter, stage.work / event.data.adapter)
        return [check_adapter(models, event.data)]

    adapters, checks = _each(
        stage.recorded.answered_requests("policy", AdapterPublished, answers=(AdapterServed, AdapterRejected)), vouch
    )

    def effects() -> Iterator[Effect]:
        for (model, body), group in groupby(sorted(calls, key=_model_and_body), key=_model_and_body):
            yield from _sampled(stage, models, model, body, list(group))
        yield from checks

    return len(calls) + adapters, effects()


def _model_and_body(entry: StoredEvent) -> tuple[str, str]:
    assert isinstance(entry.event.data, ModelCalled)
    return entry.event.data.model, entry.event.data.body


def _sampled(
    stage: Stage, models: ServedModels, model: str, body: str, calls: Sequence[StoredEvent]
) -> Iterator[Effect]:
    facts = [entry.event.data for entry in calls if isinstance(entry.event.data, ModelCalled)]
    try:
        if model == EMBEDDINGS:
            raise CheckFailed("the vectors of embeddings are not recorded")
        stage.require_embedded(model.partition("@")[0])
        policy = models.find(model)
        bodies = msgspec.json.decode(stage.blobs.get(body), type=list[SampleRequest])
        requests = [bodies[fact.index] for fact in facts]
    except UserError as wrong:
        yield from (Effect(entry, [entry], str(wrong)) for entry in calls)
        return
    try:
        sampled = policy.sample([as_sent(request) for request in requests])
    except UserError:
        if len(calls) > 1:
            for entry in calls:
                yield from _sampled(stage, models, model, body, [entry])
        else:
            yield Effect(calls[0], calls, [])
        return
    for entry, fact, request, completion in zip(calls, facts, requests, sampled, strict=True):
        result_fields = {
            "texts": completion.texts,
            "tokens": completion.tokens,
            "logprobs": completion.logprobs,
            "prompt_tokens": completion.prompt_tokens,
            "cut": completion.cut if fact.cut else (),  # which older logs do not say
        }
        request_fields = {
            "sampling_seed": request.seed,
            "temperature": request.temperature,
            "completion_tokens": sum(map(len, completion.tokens)),
        }
        yield Effect(entry, [entry], [msgspec.structs.replace(fact, **result_fields, **request_fields)])


def as_sent(request: SampleRequest) -> SampleRequest:
    """A request as the policy's server reads it, to which the client has sent prompt and hint as one."""
    return msgspec.structs.replace(request, prompt=request.prompt + request.hint, hint="")


def _trainer(stage: Stage) -> tuple[int, Iterator[Effect]]:
    from runtime.effects.train import AttemptsByRequest, TrainingHost, train_round  # with torch, which only this needs

    def train(event: Event) -> list[Fact]:
        sealed = event.data
        assert isinstance(sealed, TrainingBatchSealed)
        started = stage.started(event.run)
        base_model = started.base_model
        stage.require_embedded(base_model)
        if sealed.parent_adapter:
            stage.blobs.unpack(sealed.parent_adapter, stage.work / sealed.parent_adapter)
        if sealed.parent_state:
            if stage.blobs.freed(sealed.parent_state):
                raise NotFound("the optimiser state that it starts from was freed by `evolog gc`")
            stage.blobs.get(sealed.parent_state)
        attempts: AttemptsByRequest = {
            request: stage.recorded.attempts(request, stage.recorded.judgements) for request in sealed.requests
        }
        load_errors: list[UserError] = []

        def load() -> LoadedRun:
            try:
                return stage.loaded(event.run)
            except UserError as wrong:
                load_errors.append(wrong)
                raise

        facts = train_round(
            TrainingHost(stage.blobs, stage.work, _back_end(published.get(event.id))),
            attempts,
            sealed,
            base_model,
            load,
            private=started.private_prompts,
        )
        if load_errors:
            raise load_errors[0]
        return facts

    requests = stage.recorded.answered_requests(
        "trainer", TrainingBatchSealed, answers=(AdapterPublished, WeightUpdateFailed)
    )
    published = {
        entry.event.id: reply.event.data
        for entry, answers in requests
        for reply in answers
        if isinstance(reply.event.data, AdapterPublished)
    }
    return _each(requests, train)


def _back_end(published: AdapterPublished | None) -> BackEnd:
    """Which back end trained; raises CheckFailed where it is not to be had here."""
    if published is None:
        return "native"
    if published.processes > 1:
        raise CheckFailed(
            f"it was trained by {published.processes} processes, whose accelerate configuration the log does not hold"
        )
    if published.back_end == "native":
        return "native"
    if importlib.util.find_spec("trl") is None:
        raise CheckFailed("it was trained by trl, which is not installed: pip install 'evolog[train]'")
    return "trl"


KINDS: dict[str, Callable[[Stage], tuple[int, Iterator[Effect]]]] = {
    "verifier": _verifier,
    "meta_agent": _meta_agent,
    "feedback_agent": _feedback_agent,
    "policy": _policy,
    "trainer": _trainer,
}
"""What can be performed again, by the service that performed it."""
