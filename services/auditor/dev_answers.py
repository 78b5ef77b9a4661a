"""What the auditor says of gold itself, and gold's scores of the answers to dev that the loop was rewarded for.

No rollout is spent for these, and there is nothing that a scaffold could recognise: the answers are given already.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from algorithms.statistics import cohens_kappa
from events import codec
from events.choice import FeedbackRequested, ParentSelected
from events.errors import CheckFailed, Misconfigured, NotFound, raise_if_hosts
from events.fact import Fact
from events.gold import DESCRIPTION, GOLD, DevAnswersScored, GoldDescribed, GoldFailed
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.ancestry import evaluations
from runtime.effects.scoring import Failed
from runtime.log.lookup import attempts_of_request, events_of_types, facts_by_id
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.fork import comparable_from
from services.auditor.measure import RunAudit, gold_of, score_answers
from tasks.contract import Item

MIN_SECOND = 20
"""Of fewer items with two labels gold's reliability is not estimated."""


async def describe_gold(audit: RunAudit) -> Sequence[Fact]:
    """What gold is for this run; nothing where it is recorded already."""
    if await audit.is_recorded(GoldDescribed):
        return []
    return [await audit.host.with_task_code(lambda: _described(audit))]


async def score_dev_answers(audit: RunAudit) -> None:
    """Record gold's scores of the answers to dev of each candidate that has none yet.

    Nothing is recorded where gold is the run's own verifier: it would say the same once more.
    """
    if audit.loaded.task.gold_is_runs_verifier:
        return
    context = audit.host.context
    past = await context.past(audit.run)
    kinds: list[type[Fact]] = [
        RunStarted,
        CandidateAccepted,
        CandidateEvaluated,
        FeedbackRequested,
        ParentSelected,
        RolloutsRequested,
    ]
    events = await events_of_types(context.log, audit.run, kinds, past)
    events = events[comparable_from(event.data for event in events) :]
    requests: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event.data, RolloutsRequested) and event.data.purpose == "dev":
            requests.setdefault(event.data.generation, []).append(event.id)
    candidates = evaluations(event.data for event in events)
    ids = {one.candidate: codec.event_id(audit.run, DevAnswersScored, one.candidate) for one in candidates}
    recorded = await facts_by_id(audit.host.gold, audit.run, DevAnswersScored, list(ids.values()))
    for candidate in candidates:
        if ids[candidate.candidate] not in recorded:
            attempts: list[RecordedAttempt] = []
            for request in requests.get(candidate.generation, ()):
                attempts += await attempts_of_request(context.log, audit.run, request, past)
            if any(attempt.reward is not None for attempt in attempts):
                await audit.record([await audit.host.with_task_code(lambda: _scored(audit, candidate, attempts))])  # noqa: B023


def _described(audit: RunAudit) -> Fact:
    task, seed = audit.loaded.task, audit.loaded.started.seed
    items = [*audit.loaded.public.dev, *audit.loaded.public.test]
    try:
        reliability = task.gold_reliability()
        if reliability is None:
            second = task.gold_second_labels(seed)
            pairs = [(audit.labels[item], label) for item, label in second.items() if item in audit.labels]
            kappa = cohens_kappa(pairs) if len(pairs) >= MIN_SECOND else None
            # the agreement of two raters who err independently is the square of what either of them knows
            reliability = -1.0 if kappa is None else math.sqrt(max(0.0, kappa))
    except (Misconfigured, CheckFailed, NotFound) as wrong:
        raise_if_hosts(wrong)
        return GoldFailed(cell=DESCRIPTION, split="test", reason=str(wrong))
    return GoldDescribed(own=task.gold_is_runs_verifier, groups=_groups(items), reliability=reliability)


def _groups(items: Sequence[Item]) -> dict[str, str]:
    sizes = Counter(item.group for item in items if item.group)
    return {item.id: item.group for item in items if sizes[item.group] > 1}


def _scored(audit: RunAudit, candidate: CandidateEvaluated, attempts: Sequence[RecordedAttempt]) -> Fact:
    """Gold of the attempts that have a reward, each number of attempt as one sheet of answers."""
    sheets: dict[int, dict[str, str | None]] = {}
    for attempt in attempts:
        if attempt.reward is not None:
            recorded = attempt.recorded
            sheets.setdefault(recorded.attempt, {})[recorded.item] = recorded.answer
    ask = audit.ask_judge(GOLD)
    scores: dict[str, list[float | Failed]] = {}
    for _, answers in sorted(sheets.items()):
        items = list(audit.loaded.items(answers).values())
        scored = score_answers(gold_of(audit.loaded.task), items, answers, audit.labels, audit.host.scorer, ask)
        for item, score in scored.items():
            scores.setdefault(item, []).append(score)
    known: Mapping[str, tuple[float, ...]] = {
        item: tuple(score for score in each if not isinstance(score, Failed))
        for item, each in sorted(scores.items())
        if not any(isinstance(score, Failed) for score in each)
    }
    return DevAnswersScored(
        generation=candidate.generation,
        candidate=candidate.candidate,
        scores=dict(known),
        unscored=len(scores) - len(known),
    )
