"""A task's verifier and gold in one process, for benchmarks: which of several attempts is the best, and what it is
worth.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from msgspec.structs import replace

from events.errors import Misconfigured
from runtime.effects.tools import SandboxTools
from tasks.contract import Item
from tasks.loading import Task

Answers = Mapping[str, str | None]
"""The answers of one attempt by item id; an item at which it failed has none."""


class Judging:
    """What verifier and gold say of answers to items of any split. An answer is judged once, also where the verifier is
    noisy: a run keeps a measurement too.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = replace(task, tools=SandboxTools(_nobody))
        train = {example.id: example.label for example in task.public(seed).train if example.label is not None}
        self._labels = train | task.labels(seed) | task.gold(seed)
        self._rewards: dict[tuple[str, str | None], float] = {}
        self._gold: dict[tuple[str, str | None], float] = {}

    def best(self, items: Sequence[Item], attempts: Sequence[Answers]) -> Answers:
        """The best whole submission, where the verifier judges those; else the best answer to each item."""
        if self.task.submissions:
            return max(attempts, key=lambda answers: self.reward(items, answers))
        return {
            item.id: max(
                (answers[item.id] for answers in attempts if item.id in answers),
                key=lambda answer: self._reward(item, answer),
                default=None,
            )
            for item in items
        }

    def reward(self, items: Sequence[Item], answers: Answers) -> float:
        """The verifier's mean over all items, or its total of a submission."""
        if self.task.submissions:
            return self.task.score_submission(items, answers, self._labels).total.reward
        return fmean(self._reward(item, answers.get(item.id)) for item in items)

    def gold(self, items: Sequence[Item], answers: Answers) -> float:
        """Gold's mean over all items; what a submission leaves out counts as 0."""
        if self.task.gold_judges_submissions:
            return sum(self.task.gold_submission(items, answers, self._labels).values()) / len(items)
        return fmean(self._gold_score(item, answers.get(item.id)) for item in items)

    def _reward(self, item: Item, answer: str | None) -> float:
        key = item.id, answer
        if key not in self._rewards:
            self._rewards[key] = self.task.reward(item, answer, self._labels.get(item.id))
        return self._rewards[key]

    def _gold_score(self, item: Item, answer: str | None) -> float:
        key = item.id, answer
        if key not in self._gold:
            self._gold[key] = self.task.gold_score(item, answer, self._labels.get(item.id))
        return self._gold[key]


def _nobody(prompt: str, max_tokens: int) -> str:
    raise Misconfigured("No judge model is asked in a benchmark.")
