"""The final table of a finished run: the start, the start asked again, each lever alone, the final candidate and a
random policy, beside the task's baselines.

The start asked again is the sceptic's row (arXiv 2607.12227): what as many rollouts as the run used come to without any
change. It has k attempts at each test item. The most frequent answer needs no verifier. The best answer by the verifier
is an upper bound: no user can ask the verifier about the items in question.
"""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from algorithms.statistics import majority, mcnemar, mean_reward
from events import codec
from events.errors import Misconfigured, raise_if_hosts
from events.fact import Fact, NotFinite
from events.gold import VERIFIER, GoldFailed, GoldScored, PoliciesCompared
from events.kinds import SplitName
from events.run import RunFinished
from replay.audit.pair import PairKey
from replay.report import BEST_OF_K, REFERENCE, START_OF_K, VOTE_OF_K
from runtime.agents.providers import RULES
from runtime.effects.scoring import Failed
from runtime.log.lookup import facts_by_id
from runtime.policies.bases import UNIFORM
from runtime.policies.client import model_name
from runtime.run.loading import LoadedRun
from services.auditor.measure import AnswerSheet, RunAudit, read_answers, reward_of, score_answers, why_unscored
from services.host.settings import START_ATTEMPTS_VARIABLE
from tasks.contract import Item
from tasks.loading import SECONDS, Task

SPLITS: tuple[SplitName, ...] = ("dev", "test")


class Cell(NamedTuple):
    """A scaffold with a policy, to be scored; `uniform` has the policy answer at random."""

    name: str
    scaffold: str
    adapter: str
    uniform: bool = False

    @property
    def pair(self) -> PairKey:
        return PairKey(self.scaffold, self.adapter)

    @property
    def is_measured(self) -> bool:
        """Whether its pair is one of the run's, which gold and the task's other measures score too."""
        return not self.uniform and self.name != REFERENCE


def cells_of(start: PairKey, finished: RunFinished, reference: str = "") -> list[Cell]:
    """The cells of a run that began with the pair `start`: the start, each lever alone where both moved, the final
    candidate, and last the final scaffold with the uniformly random policy, which shows what of the score the model is
    responsible for. A `reference` scaffold is one that the start is to be compared with.
    """
    cells = [Cell("start", *start)]
    if reference:
        cells.append(Cell(REFERENCE, reference, ""))
    if finished.scaffold != start.scaffold and finished.adapter != start.adapter:
        cells += [
            Cell("scaffold", finished.scaffold, start.adapter),
            Cell("weights", start.scaffold, finished.adapter),
        ]
    return [
        *cells,
        Cell("final", finished.scaffold, finished.adapter),
        Cell("uniform_policy", finished.scaffold, "", uniform=True),
    ]


async def reference_of(audit: RunAudit, start: PairKey) -> str:
    """The digest of the task's reference scaffold where a Meta-Agent wrote another start; else empty."""
    context = audit.host.context
    past = await context.past(audit.run)  # a fork may have another agent than the run that its start was written for
    started = await context.started(past[-1].run) if past else audit.loaded.started
    if started.agent == RULES or started.start_scaffold:
        return ""
    files = {path: text.encode() for path, text in audit.loaded.task.scaffold().items()}
    digest = await asyncio.to_thread(context.blobs.put_tree, files)
    return "" if digest == start.scaffold else digest


async def score_cell(audit: RunAudit, cell: Cell, split: SplitName) -> Sequence[Fact]:
    """The mean reward of a cell on a split with its interval, or why there is none; nothing where it is recorded
    already.

    The answers, one attempt at each item at temperature 0, are those that were measured already, else new ones.
    """
    if await audit.is_recorded(GoldScored, cell.name, split):
        return []
    policy = model_name(audit.loaded.started.base_model, UNIFORM if cell.uniform else cell.adapter)
    if split == "test" and not cell.uniform and (measured := await audit.measured(cell.pair)):
        sheet = AnswerSheet(read_answers(audit.host.blobs, measured.blob), measured.blob)
    else:
        sheet = await audit.collect_answers(f"audit-{cell.name}-{split}", cell.pair, policy, split, audit.loaded.public)
    return [await audit.host.with_task_code(lambda: _scored_sheet(audit, sheet, cell, split, policy))]


async def score_start_of_k(audit: RunAudit, start: PairKey, rollouts: int, most: int) -> Sequence[Fact]:
    """The start with as many attempts at each test item as `rollouts` buy, `most` at most, at temperature 1: the mean
    reward of the most frequent answers and of the best, or why there is none; nothing where both are recorded.
    """
    if await audit.is_recorded(GoldScored, VOTE_OF_K, "test") and await audit.is_recorded(
        GoldScored, BEST_OF_K, "test"
    ):
        return []
    attempts = min(most, rollouts // max(1, len(audit.loaded.public.test)))
    if reason := why_not_asked_again(audit.loaded.task, attempts, most):
        return [GoldFailed(cell=START_OF_K, split="test", reason=reason)]
    policy = model_name(audit.loaded.started.base_model, start.adapter)
    sheet = await audit.collect_attempts("audit-start-of-k", start, policy, attempts)

    def scored() -> list[Fact]:
        votes, best = _scored(audit, vote_among(sheet.attempts)), _best(audit, sheet.attempts)
        played = len(audit.loaded.public.test) * attempts
        return [
            _mean(audit, votes, Cell(VOTE_OF_K, *start), "test", policy, sheet.blob, attempts, played),
            _mean(audit, best, Cell(BEST_OF_K, *start), "test", policy, sheet.blob, attempts),
        ]

    return await audit.host.with_task_code(scored)


def why_not_asked_again(task: Task, attempts: int, most: int) -> str:
    """Why the start is not asked again, in words; empty where it is."""
    if task.submissions:
        return "the verifier judges whole submissions, and no answer by itself"
    if task.judge_model:
        return f"the verifier asks {task.judge_model}, which costs money for each answer"
    if task.needs:
        return f"the verifier needs {' and '.join(task.needs)} for each answer"
    if task.seconds > SECONDS:
        return f"the verifier may take {task.seconds:g} s for each answer"
    if not most:
        return f"{START_ATTEMPTS_VARIABLE} is 0"
    return "" if attempts else "the run used fewer rollouts than test has items"


def vote_among(attempts: Sequence[Mapping[str, str | None]]) -> dict[str, str | None]:
    """Of each item the most frequent answer, of several the one that was given first; None where no attempt gave one.
    An attempt that failed has no vote, and an item of which all failed is left out.
    """
    answers: dict[str, list[str]] = {}
    for attempt in attempts:
        for item, answer in attempt.items():
            answers.setdefault(item, []).append(answer or "")
    return {item: majority(given)[0] or None for item, given in answers.items()}


def best_among(rewards: Sequence[Mapping[str, float | Failed]]) -> dict[str, float | Failed]:
    """Of each item the highest reward of several attempts; why there is none where none of its answers could be
    scored. An item of which all attempts failed is left out.
    """
    best: dict[str, float | Failed] = {}
    for attempt in rewards:
        for item, reward in attempt.items():
            other = best.get(item)
            if other is None or isinstance(other, Failed) or (not isinstance(reward, Failed) and reward > other):
                best[item] = reward
    return best


def _best(audit: RunAudit, attempts: Sequence[Mapping[str, str | None]]) -> dict[str, float | Failed]:
    """The best rewards; an answer that is given again is scored once."""
    rewards, known = [], set[tuple[str, str | None]]()
    for attempt in attempts:
        rewards.append(_scored(audit, {item: given for item, given in attempt.items() if (item, given) not in known}))
        known.update(attempt.items())
    return best_among(rewards)


async def score_baselines(audit: RunAudit) -> Sequence[Fact]:
    """The mean reward of each of the task's baselines on dev and test, or why there is none."""
    return await audit.host.with_task_code(lambda: _baselines(audit))


async def compare_policies(audit: RunAudit) -> Sequence[Fact]:
    """The final candidate against the uniformly random policy, item by item (McNemar's test), where both
    are recorded.
    """
    facts: list[Fact] = []
    for split in SPLITS:
        ids = [codec.event_id(audit.run, GoldScored, cell, split) for cell in ("final", "uniform_policy")]
        scored = await facts_by_id(audit.host.gold, audit.run, GoldScored, ids)
        if len(scored) == len(ids):
            rewards = functools.partial(_rewards, audit, [scored[id].blob for id in ids])
            final, uniform = await audit.host.with_task_code(rewards)
            wins = sum(final[item] > uniform[item] for item in final.keys() & uniform.keys())
            losses = sum(final[item] < uniform[item] for item in final.keys() & uniform.keys())
            facts.append(PoliciesCompared(split=split, wins=wins, losses=losses, p_value=mcnemar(wins, losses)))
    return facts


def _rewards(audit: RunAudit, blobs: Sequence[str]) -> list[dict[str, float]]:
    """Of each blob's answers the rewards of those that can be scored."""
    results = [_scored(audit, read_answers(audit.host.blobs, blob)) for blob in blobs]
    return [{item: reward for item, reward in of.items() if not isinstance(reward, Failed)} for of in results]


def _scored(audit: RunAudit, answers: Mapping[str, str | None]) -> dict[str, float | Failed]:
    items = list(audit.loaded.items(answers).values())
    ask = audit.ask_judge(VERIFIER)
    return score_answers(reward_of(audit.loaded.task), items, answers, audit.labels, audit.host.scorer, ask)


def _scored_sheet(audit: RunAudit, sheet: AnswerSheet, cell: Cell, split: SplitName, policy: str = "") -> Fact:
    """Without a policy nothing was played: a baseline's."""
    rollouts = len(_items(audit.loaded, split)) if policy else 0
    return _mean(audit, _scored(audit, sheet.answers), cell, split, policy, sheet.blob, rollouts=rollouts)


def _mean(
    audit: RunAudit,
    results: Mapping[str, float | Failed],
    cell: Cell,
    split: SplitName,
    policy: str,
    blob: str,
    attempts: int = 1,
    rollouts: int = 0,
) -> Fact:
    if reason := why_unscored(list(results.values())):
        return GoldFailed(cell=cell.name, split=split, reason=reason)
    rewards = [result for result in results.values() if not isinstance(result, Failed)]
    if not rewards:
        return GoldFailed(cell=cell.name, split=split, reason="no attempt ran to its end")
    try:
        estimate = mean_reward(rewards)
        items = len(_items(audit.loaded, split))
        return GoldScored(
            cell=cell.name,
            split=split,
            scaffold=cell.scaffold,
            adapter=cell.adapter,
            policy=policy,
            score=estimate.mean,
            low=estimate.low,
            high=estimate.high,
            items=items,
            failed=items - len(rewards),
            rollouts=rollouts,
            blob=blob,
            attempts=attempts,
        )
    except (NotFinite, ArithmeticError) as wrong:
        return GoldFailed(cell=cell.name, split=split, reason=f"{type(wrong).__name__}: {wrong}")


def _items(loaded: LoadedRun, split: SplitName) -> Sequence[Item]:
    return loaded.public.dev if split == "dev" else loaded.public.test


def _baselines(audit: RunAudit) -> list[Fact]:
    loaded = audit.loaded
    facts: list[Fact] = []
    try:
        baselines = loaded.task.baselines()
    except Misconfigured as wrong:
        return [GoldFailed(cell="baselines", split="test", reason=str(wrong))]
    for name, predict in baselines.items():
        items = [*loaded.public.dev, *loaded.public.test]
        try:
            predicted = predict(loaded.public, items)
            answers = {item.id: predicted[item.id] for item in items}
        except Exception as wrong:  # the task's own code
            raise_if_hosts(wrong)
            reason = f"{type(wrong).__name__}: {wrong}"
            facts += [GoldFailed(cell=f"baseline:{name}", split=split, reason=reason) for split in SPLITS]
            continue
        for split in SPLITS:
            sheet = AnswerSheet({item.id: answers[item.id] for item in _items(loaded, split)}, blob="")
            facts.append(_scored_sheet(audit, sheet, Cell(f"baseline:{name}", "", ""), split))
    return facts
