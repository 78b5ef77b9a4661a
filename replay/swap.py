"""What would have come out differently with another verifier, or another table of rules, in the place of the one that a
run had.

Recorded trajectories are scored by the other verifier, and the decider goes through the run twice, side by side: with
the rewards as recorded, and with the others, as far as both decide the same; the rules agent chooses twice likewise.
Beyond that nothing is recorded, and only a fork can tell. Nothing is written where the run is.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import fsum
from pathlib import Path
from typing import NamedTuple

import msgspec

from algorithms.levers.rules import Choice
from events import codec
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import ContextAssembled, FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.errors import Misconfigured, NotFound, UsageError, why
from events.fact import Fact
from events.judgement import CandidateEvaluated, CandidateRechecked, ScoringFailed, StageEvaluated, TrajectoryScored
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import RolloutsRequested, TrajectoryRecorded
from events.run import AuditReleased, RunFinished
from events.weights import TrainingBatchSealed
from replay.perform import CHOSEN, Stage, choose_again, probed
from replay.recorded import EventIndex, Judgements, StoredEvent
from replay.report import STANDINGS
from runtime.agents.providers import model_of
from runtime.blobs.directory import Blobs
from runtime.effects.choose import (
    HISTORY_TYPES,
    choice_beside,
    earlier_choices,
    evidence,
    probe_attempts,
    rivals,
)
from runtime.effects.score import score
from runtime.log.lineage import in_folding_order
from runtime.log.port import Stored
from runtime.run.decide import DECIDER
from runtime.run.decider import DecisionSession
from runtime.run.loading import LoadedRun, TaskAccess
from runtime.run.state import RunState
from tasks.loading import from_source

SERVICES = ("verifier", "feedback_agent")
EXAMPLES = 5
FIGURES: Mapping[type[Fact], tuple[str, ...]] = {
    CandidateEvaluated: ("score", "low", "high", "failed", "pass_at_1", "pass_at_k", "tied_groups"),
    StageEvaluated: ("score", "failed", "reason"),
    CandidateRechecked: ("difference", "low", "high"),
    ParentSelected: ("probabilities",),
    CandidateAccepted: ("score", "reason"),
    CandidateKept: ("score", "reason"),
    CandidateRejected: ("reason",),
    RunFinished: ("score",),
    LeverChosen: ("reason", "diagnosis"),
    ScaffoldProposed: ("reason",),
    WeightUpdateRequested: ("reason",),
}
"""The fields of a fact that only report scores, and are no part of what was decided."""


class RewardComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The rewards of all attempts of one purpose: how many differ, and the means of those that each verifier could
    score.
    """

    purpose: str
    attempts: int
    differ: int
    recorded: float | None
    now: float | None


class DifferingReward(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt whose reward differs; None: it could not be scored."""

    sequence: int
    purpose: str
    item: str
    answer: str | None
    recorded: float | None
    now: float | None


class ScoreComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's mean reward on dev."""

    generation: int
    candidate: str
    lever: str
    standing: str
    """`accepted`, `kept` or `rejected`; `not judged` where the run ended before."""
    recorded: float
    now: float | None


class TurningPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The first decision or choice that would have come out differently: where it is recorded, and what, in words."""

    sequence: int
    words: str


class ChangedChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the Feedback-Agent was asked, recorded to have chosen, and would choose."""

    sequence: int
    generation: int
    recorded_lever: str
    recorded_action: str
    recorded_reason: str
    lever: str
    action: str
    reason: str


class SwapReport(msgspec.Struct, frozen=True, kw_only=True):
    """What would have come out differently. Of the two services, what concerns the other is empty."""

    run: str
    service: str
    path: str
    performed: int
    """Trajectories scored, or requests for feedback answered."""
    differ: int
    cannot: dict[str, int] = {}
    """What could not be: how many, by the reason."""
    recorded_name: str = ""
    name: str = ""
    """Of the verifiers, with their versions."""
    rewards: list[RewardComparison] = []
    examples: list[DifferingReward] = []
    scores: list[ScoreComparison] = []
    turn: TurningPoint | None = None
    fork: str = ""
    """The command that goes on from where nothing has come out differently yet."""
    unknown: str = ""
    """What is not known of choices before the turn."""
    choices: list[ChangedChoice] = []
    """Those that differ."""


def swap(
    messages: Sequence[Stored],
    blobs: Blobs,
    work: Path,
    service: str,
    path: Path,
    access: TaskAccess = TaskAccess(),
    scoring_limit: float | None = None,
) -> SwapReport:
    """Put the code at `path` in a service's place: a verifier.py or a task folder with one, or a Python file with
    `choose`.

    The messages are one run's, in the order of the log, with those of its past first if it is a fork; `work` is a
    folder that is no one else's, `access` says whose code is run beside that, and a verifier has `scoring_limit`
    seconds an answer. Raises UsageError for another service, NotFound where nothing is at the path, and Misconfigured
    where it is no such code.
    """
    path, source = read_replacement(service, path)
    with contextlib.closing(Stage(EventIndex(messages), blobs, work, access, scoring_limit)) as stage:
        if not stage.recorded.started:
            raise NotFound("There is no beginning of a run among the messages.")
        run = list(stage.recorded.started)[-1]  # a fork's own comes after those of its past
        return _verifier(stage, run, source, path) if service == "verifier" else _rules(stage, run, source, path)


def read_replacement(service: str, path: Path) -> tuple[Path, str]:
    """The file at a path that is to stand in a service's place, and its text; of a task folder its verifier.

    Raises UsageError for another service, and NotFound where nothing is at the path.
    """
    if service not in SERVICES:
        raise UsageError(
            f"{service!r} cannot be swapped; expected {' or '.join(SERVICES)}, as in --swap verifier=PATH."
        )
    if service == "verifier" and path.is_dir():
        path /= "verifier.py"
    return path, _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise NotFound(f"{path} cannot be read ({wrong}); give a Python file that is there.") from wrong


class RescoredAttempt(NamedTuple):
    """An attempt with both rewards; None where it could not be scored."""

    entry: StoredEvent
    attempt: TrajectoryRecorded
    recorded: float | None
    now: float | None

    @property
    def differs(self) -> bool:
        """Whether the two rewards differ."""
        return self.recorded != self.now


def _verifier(stage: Stage, run: str, source: str, path: Path) -> SwapReport:
    loaded, labels = stage.loaded(run), stage.labels(run)
    replacement = loaded._replace(task=loaded.task.with_verifier(source, str(path)))
    judged = [
        (entry, entry.event.data, recorded)
        for entry in stage.recorded.events
        if isinstance(entry.event.data, TrajectoryRecorded)
        and (recorded := stage.recorded.judgements.get(entry.event.id))
    ]
    attempts = {entry.event.id: attempt for entry, attempt, _ in judged}
    facts = score(
        attempts, replacement, labels, stage.scorer, stage.recorded.items_by_request(), stage.recorded_judge(run)
    )
    judgements: dict[str, Fact] = {fact.trajectory: fact for fact in facts}
    pairs = [
        RescoredAttempt(entry, attempt, _reward(recorded), _reward(judgements[entry.event.id]))
        for entry, attempt, recorded in judged
    ]
    failed = Counter(fact.reason for fact in judgements.values() if isinstance(fact, ScoringFailed))
    if failed and failed.total() == len(pairs):
        raise Misconfigured(f"{path} scored none of {len(pairs):,} trajectories. {next(iter(failed))}")
    turn, unknown = _turn(stage, judgements)
    return SwapReport(
        run=run,
        service="verifier",
        path=str(path),
        performed=len(pairs) - failed.total(),
        differ=sum(pair.differs for pair in pairs),
        cannot=dict(failed),
        recorded_name=loaded.started.verifier,
        name=replacement.task.verifier,
        rewards=list(_rewards(pairs)),
        examples=list(_examples([pair for pair in pairs if pair.differs])),
        scores=list(_scores(stage.recorded, pairs)),
        turn=turn,
        unknown=unknown,
        fork=_fork(stage.recorded, pairs, path),
    )


def _reward(judgement: Fact) -> float | None:
    return judgement.reward if isinstance(judgement, TrajectoryScored) else None


def _mean(rewards: Sequence[float | None]) -> float | None:
    given = [reward for reward in rewards if reward is not None]
    return fsum(given) / len(given) if given else None


def _examples(differing: Sequence[RescoredAttempt]) -> Iterator[DifferingReward]:
    """The first few that differ otherwise than those before them."""
    firsts = {(pair.recorded, pair.now): pair for pair in reversed(differing)}
    for pair in sorted(firsts.values(), key=lambda pair: pair.entry.sequence)[:EXAMPLES]:
        attempt = pair.attempt
        yield DifferingReward(
            sequence=pair.entry.sequence,
            purpose=attempt.purpose,
            item=attempt.item,
            answer=attempt.answer,
            recorded=pair.recorded,
            now=pair.now,
        )


def _rewards(pairs: Sequence[RescoredAttempt]) -> Iterator[RewardComparison]:
    for purpose in dict.fromkeys(pair.attempt.purpose for pair in pairs):
        purpose_pairs = [pair for pair in pairs if pair.attempt.purpose == purpose]
        yield RewardComparison(
            purpose=purpose,
            attempts=len(purpose_pairs),
            differ=sum(pair.differs for pair in purpose_pairs),
            recorded=_mean([pair.recorded for pair in purpose_pairs]),
            now=_mean([pair.now for pair in purpose_pairs]),
        )


def _scores(recorded: EventIndex, pairs: Sequence[RescoredAttempt]) -> Iterator[ScoreComparison]:
    facts = [event.data for event in recorded.of_types(CandidateEvaluated, *STANDINGS)]
    standings = {
        fact.candidate: STANDINGS[type(fact)]
        for fact in facts
        if isinstance(fact, CandidateAccepted | CandidateKept | CandidateRejected)
    }
    for fact in facts:
        if isinstance(fact, CandidateEvaluated):
            rewards = {  # by item and attempt, since a fork plays again what its past had not finished
                (pair.attempt.item, pair.attempt.attempt): pair.now
                for pair in pairs
                if pair.attempt.purpose == "dev" and pair.attempt.generation == fact.generation
            }
            yield ScoreComparison(
                generation=fact.generation,
                candidate=fact.candidate,
                lever=fact.lever,
                standing=standings.get(fact.candidate, "not judged"),
                recorded=fact.score,
                now=_mean(list(rewards.values())),
            )


def _fork(recorded: EventIndex, pairs: Sequence[RescoredAttempt], path: Path) -> str:
    """The command that goes on from the last decision before the first reward that differs; rewards of two verifiers
    would not mix.
    """
    differing = {pair.entry.event.id for pair in pairs if pair.differs}
    decided = 0
    for stored, event in recorded.events:
        if isinstance(event.data, TrajectoryScored | ScoringFailed) and event.data.trajectory in differing:
            return f"evolog fork {event.run} --at {decided} --set verifier={path}"
        if event.source == "controller":
            decided = stored.sequence
    return ""


def _turn(stage: Stage, judgements: Judgements) -> tuple[TurningPoint | None, str]:
    """The first decision or choice that differs; and what is not known of the choices before it."""
    recorded, unknown = stage.recorded, ""
    run = next(iter(recorded.started))
    agent = recorded.started[run].agent
    sequences = {entry.event.id: entry.sequence for entry in recorded.events}
    answers = {
        entry.event.id: answer
        for entry, answer in recorded.answered_requests("feedback_agent", FeedbackRequested, answers=CHOSEN)
    }
    with_recorded, with_new = (
        RunWithRewards(DecisionSession(DECIDER, run), rewards, []) for rewards in (recorded.judgements, judgements)
    )
    for number, entry in enumerate(recorded.events):
        if entry.event.run != run:
            run = entry.event.run
            with_recorded, with_new = (
                variant.forked(run, recorded.events[:number]) for variant in (with_recorded, with_new)
            )
        recorded_events, new_events = with_recorded.feed(entry), with_new.feed(entry)
        if words := _words([event.data for event in recorded_events], [event.data for event in new_events]):
            differing_sequences = [sequences[event.id] for event in recorded_events if event.id in sequences]
            return TurningPoint(sequence=min(differing_sequences, default=entry.sequence), words=words), unknown
        for request in new_events:
            if not isinstance(request.data, FeedbackRequested) or request.id not in answers:
                continue
            generation = request.data.generation
            if any(isinstance(row.event.data, AuditReleased) for row in recorded.events[:number]):
                unknown = (
                    unknown or f"What the auditor would have had done from generation {generation} on is not known."
                )
            if model_of(agent) is not None:
                sentence = (
                    f"What {agent} would have chosen from generation {generation} on, had it been shown these "
                    "rewards, is not known."
                )
                unknown = unknown or sentence
            elif words := _choice(
                generation,
                *(
                    choose_again(stage, request, variant.history, variant.judgements)
                    for variant in (with_recorded, with_new)
                ),
            ):
                return TurningPoint(sequence=answers[request.id][0].sequence, words=words), unknown
    return None, unknown


class RunWithRewards(NamedTuple):
    """A run decided again with some rewards: how far its decider is, and the history that its Feedback-Agent reads."""

    session: DecisionSession[RunState]
    judgements: Judgements
    history: list[Event]

    def forked(self, run: str, past: Sequence[StoredEvent]) -> "RunWithRewards":
        """The fork of that name, which goes on from this past."""
        session = DecisionSession(DECIDER, run)
        events = [_with_judgement(entry.event, self.judgements) for entry in past]
        messages = [
            msgspec.structs.replace(entry.stored, data=codec.encode(event))
            for entry, event in zip(past, events, strict=True)
        ]
        session.inherit(in_folding_order(messages))
        return self._replace(session=session)

    def feed(self, entry: StoredEvent) -> list[Event]:
        """What is decided at the next event."""
        event = _with_judgement(entry.event, self.judgements)
        decision = self.session.feed(entry.stored, event)
        decided = decision.events[1:] if decision else []
        events = [*decided] if event.source == "controller" else [event, *decided]
        self.history.extend(each for each in events if isinstance(each.data, HISTORY_TYPES))
        return decided


def _with_judgement(event: Event, judgements: Judgements) -> Event:
    if isinstance(event.data, TrajectoryScored | ScoringFailed) and event.data.trajectory in judgements:
        return msgspec.structs.replace(event, data=judgements[event.data.trajectory])
    return event


def _decided(fact: Fact) -> tuple[object, ...]:
    """What was decided, without the scores that it reports."""
    return type(fact), *(
        getattr(fact, name) for name in fact.__struct_fields__ if name not in FIGURES.get(type(fact), ())
    )


def _first_divergence(recorded: Sequence[Fact], now: Sequence[Fact]) -> tuple[Fact | None, Fact | None] | None:
    pairs = zip_longest(recorded, now)
    return next(
        ((old, new) for old, new in pairs if old is None or new is None or _decided(old) != _decided(new)), None
    )


def _words(recorded: Sequence[Fact], now: Sequence[Fact]) -> str:
    """What would have been decided and was not, in a sentence; empty if both are the same but for scores."""
    match _first_divergence(recorded, now):
        case None:
            return ""
        case CandidateEvaluated(generation=generation), CandidateRejected(reason=reason):
            return f"generation {generation} could not have been evaluated: {reason}"
        case (
            CandidateAccepted(generation=generation)
            | CandidateKept(generation=generation)
            | CandidateRejected(generation=generation),
            CandidateAccepted(reason=reason) | CandidateKept(reason=reason) | CandidateRejected(reason=reason) as new,
        ):
            return f"generation {generation} would have been {STANDINGS[type(new)]}: {reason}"
        case StageEvaluated(generation=generation), StageEvaluated(passed=passed, reason=reason):
            went_on = "gone on" if passed else "been left"
            return f"generation {generation} would have {went_on} after its first items: {reason}"
        case ParentSelected(generation=generation), ParentSelected():
            return f"generation {generation} would have been made from another candidate"
        case TrainingBatchSealed() as old, TrainingBatchSealed() as new:
            content = (
                f"{new.trajectories:,} trajectories in place of {old.trajectories:,}"
                if old.trajectories != new.trajectories
                else "other rewards"
            )
            return f"the batch of generation {old.generation}, round {old.round}, would have held {content}"
        case RolloutsRequested(generation=generation, purpose=purpose, round=number), RolloutsRequested():
            return f"generation {generation} would have played other {purpose} items in round {number}"
        case old, new:
            tags = [fact.tag() if fact else "nothing" for fact in (old, new)]
            return f"{tags[1]} would have been decided, and {tags[0]} was"


def _choice(generation: int, recorded: Sequence[Fact], now: Sequence[Fact]) -> str:
    """How the Feedback-Agent's choice would have differed, in a sentence; empty if it is the same."""
    choices = [[fact for fact in facts if not isinstance(fact, ContextAssembled)] for facts in (recorded, now)]
    if _first_divergence(*choices) is None:
        return ""
    old, new = map(_chosen_action, choices)
    return (
        f"in generation {generation} the Feedback-Agent would have chosen {new.text} and not {old.text}: {new.reason}"
    )


class ChosenAction(NamedTuple):
    """The change that a Feedback-Agent chose: lever, action and reason."""

    lever: str
    action: str
    reason: str

    @property
    def text(self) -> str:
        """Lever and action."""
        return f"{self.lever} {self.action}".strip()


def _chosen_action(facts: Sequence[Fact]) -> ChosenAction:
    chosen = ChosenAction("", "nothing", "")
    for fact in facts:
        match fact:
            case LeverChosen(lever=lever, action=action, reason=reason):
                chosen = ChosenAction(lever, action, reason)
            case WeightUpdateRequested(algorithm=algorithm) as update:
                chosen = chosen._replace(action=_update_in_words(algorithm, update))
            case ProposalFailed(reason=reason):
                chosen = chosen._replace(reason=reason)
    return chosen


def _update_in_words(algorithm: str, update: WeightUpdateRequested | Choice) -> str:
    words = [
        algorithm,
        f"{update.rounds} rounds",
        *(f"{name} {value!r}" for name, value in sorted(update.hyper.items())),
    ]
    words += [f"items {update.resample}", f"memory {update.memory}"]
    return ", ".join(words + ["from the base"] * update.restart + ["with hints"] * update.hints)


def _rules(stage: Stage, run: str, source: str, path: Path) -> SwapReport:
    choose = from_source(source, str(path), "evolog_rules", ["choose"]).choose
    requests = stage.recorded.answered_requests("feedback_agent", FeedbackRequested, answers=CHOSEN)
    known = stage.recorded.of_types(*HISTORY_TYPES)
    choices: list[ChangedChoice] = []
    cannot: Counter[str] = Counter()
    for entry, answer in requests:
        requested, loaded = entry.event.data, stage.loaded(entry.event.run)
        assert isinstance(requested, FeedbackRequested)
        attempts = probe_attempts(stage.blobs, probed(stage.recorded, requested, stage.recorded.judgements), loaded)
        if not attempts:
            cannot["no attempt at the probe was scored, so there is nothing to go by"] += 1
            continue
        figures, history = evidence(attempts, known, loaded, requested), earlier_choices(known, requested)
        try:
            output = choice_beside(
                lambda past: choose(figures, past, requested.levers, loaded.task.edits()),  # noqa: B023
                history,
                figures.dev,
                rivals(known, requested),
            )
        except Exception as wrong:
            raise Misconfigured(
                f"{path}: choose raised {why(wrong)} in generation {requested.generation}; mend it and try again."
            ) from wrong
        new_choice, recorded_choice = (
            _chosen(output, loaded, path),
            _chosen_action([reply.event.data for reply in answer]),
        )
        if new_choice[:2] != recorded_choice[:2]:
            choices.append(
                ChangedChoice(
                    sequence=answer[0].sequence,
                    generation=requested.generation,
                    recorded_lever=recorded_choice.lever,
                    recorded_action=recorded_choice.action,
                    recorded_reason=recorded_choice.reason,
                    lever=new_choice.lever,
                    action=new_choice.action,
                    reason=new_choice.reason,
                )
            )
    performed = len(requests) - cannot.total()
    return SwapReport(
        run=run,
        service="feedback_agent",
        path=str(path),
        performed=performed,
        differ=len(choices),
        cannot=dict(cannot),
        choices=choices,
    )


def _chosen(given: object, loaded: LoadedRun, path: Path) -> ChosenAction:
    try:
        choice = msgspec.convert(msgspec.to_builtins(given), Choice)  # a file may have a Choice of its own
    except (msgspec.ValidationError, TypeError) as wrong:
        raise Misconfigured(
            f"{path}: choose gave {given!r:.100}; expected a Choice as algorithms/levers/rules.py has it ({wrong}); "
            "mend it and try again."
        ) from wrong
    edits = [edit.name for edit in loaded.task.edits()]
    if choice.lever == "scaffold" and choice.action not in edits:
        raise Misconfigured(
            f"{path}: choose named the edit {choice.action!r}; expected one of {', '.join(edits) or 'none'}; mend it "
            "and try again."
        )
    return ChosenAction(
        choice.lever,
        _update_in_words(choice.action, choice) if choice.lever == "weights" else choice.action,
        choice.reason,
    )
