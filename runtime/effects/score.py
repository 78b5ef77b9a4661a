"""Scoring: the reward of each attempt, or why it could not be given."""

from collections.abc import Mapping
from typing import Any

from events.judgement import ScoringFailed, TrajectoryScored
from events.rollouts import TrajectoryRecorded
from runtime.effects.scoring import AnswerScorer, Failed
from runtime.run.loading import LoadedRun


def score(
    attempts: Mapping[str, TrajectoryRecorded], loaded: LoadedRun, labels: Mapping[str, str], scorer: AnswerScorer
) -> list[TrajectoryScored | ScoringFailed]:
    """The reward that the run's verifier gives each attempt, which are given by the trajectory's id; `labels` are the
    true ones by item.

    A verifier that fails, or gives no finite number, is a failure and never a reward of 0. What is raised is the host's
    own (`raise_if_hosts`).
    """
    judged = {id: recorded for id, recorded in attempts.items() if recorded.item in labels}
    calls = [(recorded.answer, labels[recorded.item]) for recorded in judged.values()]
    scores = dict(zip(judged, scorer(loaded.task.score, calls), strict=True))
    facts: list[TrajectoryScored | ScoringFailed] = []
    for id, recorded in attempts.items():
        attempt_fields: dict[str, Any] = {
            "trajectory": id,
            "request": recorded.request,
            "item": recorded.item,
            "attempt": recorded.attempt,
        }
        scored = scores.get(id) or Failed(f"item {recorded.item} has no label on this host")
        facts.append(
            ScoringFailed(**attempt_fields, reason=scored.reason)
            if isinstance(scored, Failed)
            else TrajectoryScored(
                **attempt_fields,
                reward=scored.reward,
                outcome=scored.outcome,
                verifier=loaded.started.verifier,
            )
        )
    return facts
