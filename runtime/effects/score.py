"""Scoring: the reward of each attempt, or why it could not be given."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from algorithms.statistics import mean_interval
from events.judgement import ScoringFailed, TrajectoryScored
from events.rollouts import TrajectoryRecorded
from runtime.effects.scoring import QUESTIONS, AnswerScorer, AskJudge, Failed
from runtime.run.loading import LoadedRun
from tasks.contract import Scored, Submission

AskAbout = Callable[[str, int, str, int], str]
"""The judge model's answer: from the trajectory that is judged, the question's place in its judgement, the prompt, and
the most tokens. Raises UserError where there is none.
"""
Scores = dict[str, Scored | Failed]
"""By the trajectory's id."""


def score(
    attempts: Mapping[str, TrajectoryRecorded],
    loaded: LoadedRun,
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    shards: Mapping[str, Sequence[str]] = {},
    ask: AskAbout | None = None,
) -> list[TrajectoryScored | ScoringFailed]:
    """The reward that the run's verifier gives each attempt, which are given by the trajectory's id; `labels` are the
    true ones by item. Of a verifier that judges whole submissions, each must be given whole; `shards` holds the items
    of each request, without which they are those of its attempts. `ask` asks the judge model.

    A verifier that fails, or gives no finite number, is a failure and never a reward of 0. What is raised is the host's
    own (`raise_if_hosts`).
    """
    known = loaded.items([recorded.item for recorded in attempts.values()])
    judged = {
        id: recorded
        for id, recorded in attempts.items()
        if recorded.item in known and (recorded.item in labels or not labels)
    }
    if loaded.task.submissions:
        scores = _score_submissions(judged, loaded, labels, scorer, shards, ask)
    else:
        scores = _score_answers(judged, loaded, labels, scorer, ask)
    facts: list[TrajectoryScored | ScoringFailed] = []
    for id, recorded in attempts.items():
        attempt_fields: dict[str, Any] = {
            "trajectory": id,
            "request": recorded.request,
            "item": recorded.item,
            "attempt": recorded.attempt,
        }
        scored = scores.get(id) or Failed(f"item {recorded.item} has no label on this host")
        if isinstance(scored, Failed):
            facts.append(ScoringFailed(**attempt_fields, reason=scored.reason))
            continue
        low, high = scored.interval or (None, None)
        facts.append(
            TrajectoryScored(
                **attempt_fields,
                reward=scored.reward,
                outcome=scored.outcome,
                verifier=loaded.started.verifier,
                details=scored.details,
                low=low,
                high=high,
                micro_usd=scored.micro_usd,
            )
        )
    return facts


def _score_answers(
    attempts: Mapping[str, TrajectoryRecorded],
    loaded: LoadedRun,
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    ask: AskAbout | None,
) -> Scores:
    """Each answer by itself, as often as a noisy verifier wants."""
    repeats = loaded.task.repeats
    items = loaded.items([recorded.item for recorded in attempts.values()])
    calls = [
        (items[recorded.item], recorded.answer, labels.get(recorded.item))
        for recorded in attempts.values()
        for _ in range(repeats)
    ]
    results = scorer(loaded.task.score, calls, _asking(ask, list(attempts), repeats))
    return {id: _mean(results[index * repeats : (index + 1) * repeats]) for index, id in enumerate(attempts)}


def _mean(repeated: Sequence[Scored | Failed]) -> Scored | Failed:
    """The mean of some judgements of one answer, with its 95 % t interval; one that failed fails it."""
    scored = [one for one in repeated if isinstance(one, Scored)]
    if len(scored) < len(repeated):
        return next(one for one in repeated if isinstance(one, Failed))
    if len(scored) == 1:
        return scored[0]
    mean, half = mean_interval([one.reward for one in scored])
    outcome, _ = Counter(one.outcome for one in scored).most_common(1)[0]
    details = next(one.details for one in scored if one.outcome == outcome)
    return Scored(mean, outcome, details, (mean - half, mean + half), sum(one.micro_usd for one in scored))


def _score_submissions(
    attempts: Mapping[str, TrajectoryRecorded],
    loaded: LoadedRun,
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    shards: Mapping[str, Sequence[str]],
    ask: AskAbout | None,
) -> Scores:
    """Each submission by itself: the attempts of one number at the items of one request."""
    submissions: dict[tuple[str, int], dict[str, str]] = {}
    for id, recorded in attempts.items():
        submissions.setdefault((recorded.request, recorded.attempt), {})[recorded.item] = id
    calls = []
    for (request, _), ids in submissions.items():
        items = loaded.items(shards.get(request, tuple(ids)))
        answers = {item: attempts[id].answer for item, id in ids.items()}
        calls.append((list(items.values()), answers, {item: labels[item] for item in items if item in labels}))
    scores: Scores = {}
    asking = _asking(ask, [next(iter(ids.values())) for ids in submissions.values()])
    for ids, judged in zip(submissions.values(), scorer(loaded.task.score_submission, calls, asking), strict=True):
        for item, id in ids.items():
            scores[id] = judged if isinstance(judged, Failed) else _credit(judged, item, first=item == next(iter(ids)))
    return scores


def _asking(ask: AskAbout | None, trajectories: Sequence[str], repeats: int = 1) -> AskJudge | None:
    """The questions of calls, each of which judges a trajectory, as questions about that trajectory."""
    if ask is None:
        return None
    return lambda call, number, prompt, most: ask(
        trajectories[call // repeats], call % repeats * QUESTIONS + number, prompt, most
    )


def _credit(submission: Submission, item: str, *, first: bool) -> Scored:
    """The judgement of one item of a submission; what the whole cost is counted once, with the first."""
    own = submission.items.get(item)
    cost = (own.micro_usd if own else 0) + (submission.total.micro_usd if first else 0)
    return replace(own or submission.total, micro_usd=cost)
