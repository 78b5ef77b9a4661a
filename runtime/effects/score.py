"""Scoring: the reward of one attempt, or why it could not be given."""

from collections.abc import Mapping

from events.errors import NotFound, UserError
from events.fact import NotFinite
from events.judgement import ScoringFailed, TrajectoryScored
from events.rollouts import TrajectoryRecorded
from runtime.run.loading import LoadedRun


def score(
    trajectory: str, recorded: TrajectoryRecorded, loaded: LoadedRun, labels: Mapping[str, str]
) -> TrajectoryScored | ScoringFailed:
    """The reward that the run's verifier gives the attempt recorded as `trajectory`; `labels` are the true ones by
    item.

    A verifier that fails, or gives no finite number, is a failure and never a reward of 0. Nothing is raised for it.
    """
    try:
        if recorded.item not in labels:
            raise NotFound(f"item {recorded.item} has no label on this host")
        scored = loaded.task.score(recorded.answer, labels[recorded.item])
        return TrajectoryScored(
            trajectory=trajectory,
            request=recorded.request,
            item=recorded.item,
            attempt=recorded.attempt,
            reward=scored.reward,
            outcome=scored.outcome,
            verifier=loaded.started.verifier,
        )
    except (UserError, NotFinite) as wrong:  # whatever else a verifier raises comes as Misconfigured
        return scoring_failed(trajectory, recorded, str(wrong))


def scoring_failed(trajectory: str, recorded: TrajectoryRecorded, reason: str) -> ScoringFailed:
    """The fact that an attempt could not be scored."""
    return ScoringFailed(
        trajectory=trajectory, request=recorded.request, item=recorded.item, attempt=recorded.attempt, reason=reason
    )
