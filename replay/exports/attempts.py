"""The attempts of a recorded run, each with what the policy was asked and said, and its reward: what exports write."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from events.choice import AgentCalled
from events.errors import NotFound, UserError
from events.gold import DevAnswersScored
from events.judgement import CandidateEvaluated, JudgeCalled, ScoringFailed, TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from replay.history import History
from runtime.agents.conversation import ModelRequest, ModelTurn
from runtime.log.port import readable
from runtime.policies.interface import SampleRequest

PRIVATE = "[left out: the prompts of this task are private]"
"""What stands in an export for a prompt of a task that does not want its prompts shown."""
MISSING = "[left out: what the policy was asked is not among these blobs]"


class ExportedCall(NamedTuple):
    """A call of the policy, and which of its completions an attempt was given."""

    id: str
    called: ModelCalled
    time: int
    """When it was recorded, in nanoseconds since 1970."""
    completion: int

    @property
    def text(self) -> str:
        """The completion; empty for a call that asked for none."""
        return self.called.texts[self.completion] if 0 <= self.completion < len(self.called.texts) else ""

    @property
    def cut(self) -> bool:
        """Whether the completion ended because it reached its limit; False where the log does not say."""
        return self.completion < len(self.called.cut) and self.called.cut[self.completion]


class ExportedAttempt(NamedTuple):
    """One attempt at one item: its request, what it called and answered or how it failed, and the verifier's word."""

    id: str
    """The id of its `trajectory_recorded` or `rollout_failed`."""
    time: int
    """When it was recorded, in nanoseconds since 1970."""
    sequence: int
    """The sequence that the log gave it."""
    request: str
    requested: RolloutsRequested
    recorded: TrajectoryRecorded | RolloutFailed
    calls: tuple[ExportedCall, ...]
    judgement: TrajectoryScored | ScoringFailed | None

    @property
    def answer(self) -> str | None:
        """What the scaffold answered; None for nothing."""
        return self.recorded.answer if isinstance(self.recorded, TrajectoryRecorded) else None

    @property
    def seconds(self) -> float:
        """Seconds from its start to its answer; 0 where it failed."""
        return self.recorded.seconds if isinstance(self.recorded, TrajectoryRecorded) else 0.0

    @property
    def reward(self) -> float | None:
        """The verifier's reward; None where there is none."""
        return self.judgement.reward if isinstance(self.judgement, TrajectoryScored) else None

    @property
    def failure(self) -> str:
        """Why it did not run or could not be scored, in a sentence; empty where neither is so."""
        if isinstance(self.recorded, RolloutFailed):
            return f"{self.recorded.kind}: {self.recorded.reason}"
        return self.judgement.reason if isinstance(self.judgement, ScoringFailed) else ""


def exported_attempts(history: History) -> Iterator[ExportedAttempt]:
    """The run's own attempts in the order of the log; of a fork's past, only what they use."""
    requests: dict[str, RolloutsRequested] = {}
    calls: dict[str, tuple[ModelCalled, int]] = {}
    judgements: dict[str, TrajectoryScored | ScoringFailed] = {}
    attempts: dict[str, tuple[int, int, TrajectoryRecorded | RolloutFailed]] = {}
    for stored in history.everything:
        for event in readable([stored]):
            match event.data:
                case RolloutsRequested() as requested:
                    requests.setdefault(event.id, requested)
                case ModelCalled() as called:
                    calls.setdefault(event.id, (called, stored.time))
                case (TrajectoryScored() | ScoringFailed()) as judgement:
                    judgements.setdefault(judgement.trajectory, judgement)
                case (TrajectoryRecorded() | RolloutFailed()) as recorded if event.run == history.run:
                    attempts.setdefault(event.id, (stored.time, stored.sequence, recorded))
    for id, (time, sequence, recorded) in attempts.items():
        if (asked := requests.get(recorded.request)) is None:
            continue  # made up: no executor answers what nobody asked for
        used = recorded.calls if isinstance(recorded, TrajectoryRecorded) else ()
        own = tuple(ExportedCall(use.call, *calls[use.call], use.completion) for use in used if use.call in calls)
        yield ExportedAttempt(id, time, sequence, recorded.request, asked, recorded, own, judgements.get(id))


def prompts(history: History) -> Callable[[ModelCalled], SampleRequest]:
    """A function from a recorded call to what the policy was asked: of private prompts, and of those that are not
    among the blobs, a word in their place.
    """
    private = history.started.private_prompts

    @lru_cache(maxsize=8)  # calls of a group commit stand together
    def asked(body: str) -> list[SampleRequest]:
        try:
            return msgspec.json.decode(history.blobs.get(body), type=list[SampleRequest])
        except (NotFound, msgspec.DecodeError, UnicodeDecodeError):
            return []

    def prompt(called: ModelCalled) -> SampleRequest:
        if private:
            return SampleRequest(prompt=PRIVATE, n=len(called.texts), temperature=called.temperature)
        requests = asked(called.body)
        if 0 <= called.index < len(requests):
            return requests[called.index]
        return SampleRequest(prompt=MISSING, n=len(called.texts), temperature=called.temperature)

    return prompt


def conversations(history: History) -> Callable[[AgentCalled | JudgeCalled], tuple[ModelRequest, ModelTurn] | None]:
    """A function from a call of an agent's or a judge's language model to what it was told and answered; None where the
    blobs lack it. Of private prompts an agent is told digests alone.
    """

    def conversation(called: AgentCalled | JudgeCalled) -> tuple[ModelRequest, ModelTurn] | None:
        try:
            return (
                msgspec.json.decode(history.blobs.get(called.request), type=ModelRequest),
                msgspec.json.decode(history.blobs.get(called.response), type=ModelTurn),
            )
        except (UserError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    return conversation


def gold_of_attempts(history: History) -> dict[str, float]:
    """Gold's score of each attempt at dev for which a candidate was rewarded, by the id of its trajectory.

    The auditor has scored the attempts that have a reward, in the order of the attempts at an item.
    """
    scored: dict[int, dict[str, tuple[float, ...]]] = {}
    for event in readable(history.gold):
        if isinstance(event.data, DevAnswersScored):
            scored[event.data.generation] = event.data.scores
    rewarded: dict[tuple[int, str], list[ExportedAttempt]] = {}
    for attempt in exported_attempts(history) if scored else ():
        if attempt.requested.purpose == "dev" and attempt.reward is not None:
            rewarded.setdefault((attempt.requested.generation, attempt.recorded.item), []).append(attempt)
    gold: dict[str, float] = {}
    for (generation, item), attempts in rewarded.items():
        scores = scored.get(generation, {}).get(item, ())
        if len(scores) == len(attempts):
            attempts.sort(key=lambda attempt: attempt.recorded.attempt)
            gold |= dict(zip((attempt.id for attempt in attempts), scores, strict=True))
    return gold


def candidate_levers(history: History) -> dict[int, str]:
    """What made each generation's candidate, by generation."""
    return {
        event.data.generation: event.data.lever
        for stored in history.messages
        if stored.subject.endswith(f".{CandidateEvaluated.tag()}")
        for event in readable([stored])
        if isinstance(event.data, CandidateEvaluated)
    }
