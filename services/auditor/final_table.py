"""The final table of a finished run: the start, each lever alone, the final candidate and a random policy, beside the
task's baselines.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from algorithms.statistics import mcnemar, mean_reward
from events import codec
from events.errors import Misconfigured, raise_if_hosts
from events.fact import Fact, NotFinite
from events.gold import VERIFIER, GoldFailed, GoldScored, PoliciesCompared
from events.kinds import SplitName
from events.run import RunFinished
from replay.audit.pair import PairKey
from runtime.effects.scoring import Failed
from runtime.log.lookup import facts_by_id
from runtime.policies.bases import UNIFORM
from runtime.policies.client import model_name
from runtime.run.loading import LoadedRun
from services.auditor.measure import AnswerSheet, RunAudit, read_answers, reward_of, score_answers, why_unscored
from tasks.contract import Item

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


def cells_of(start: PairKey, finished: RunFinished) -> list[Cell]:
    """The cells of a run that began with the pair `start`: the start, each lever alone where both moved, the final
    candidate, and last the final scaffold with the uniformly random policy, which shows what of the score the model is
    responsible for.
    """
    cells = [Cell("start", *start)]
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
    return [await audit.host.with_task_code(lambda: _mean(audit, sheet, cell, split, policy))]


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


def _mean(audit: RunAudit, sheet: AnswerSheet, cell: Cell, split: SplitName, policy: str = "") -> Fact:
    """Without a policy nothing was played: a baseline's."""
    results = list(_scored(audit, sheet.answers).values())
    if reason := why_unscored(results):
        return GoldFailed(cell=cell.name, split=split, reason=reason)
    rewards = [result for result in results if not isinstance(result, Failed)]
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
            rollouts=items if policy else 0,
            blob=sheet.blob,
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
            facts.append(_mean(audit, sheet, Cell(f"baseline:{name}", "", ""), split))
    return facts
