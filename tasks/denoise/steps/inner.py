"""Cross-validation inside train: a tenth of its molecules is held back once more, and programs are run on the rest."""

from functools import lru_cache
from typing import Any

from denoising import counts, metric, program

SEED = 1


class Inner:
    """One data set's inner split, and the scores that programs have come to on it."""

    def __init__(self, prompt: str) -> None:
        train, test, _ = metric.split(counts.read(prompt.partition("\n")[2]), SEED)
        self._workshop, self._judge = program.Workshop(train), metric.Judge(train, test)
        self._memo: dict[str, tuple[metric.Scores, str]] = {}

    def scores(self, text: str) -> tuple[metric.Scores, str]:
        """The scores of a program, and why the gate refuses it if it does; raises ValueError for what is no program."""
        if text not in self._memo:
            output = self._workshop.run(program.parse(text))
            self._memo[text] = self._judge.scores(output), self._judge.refused(output)
        return self._memo[text]


@lru_cache(maxsize=64)
def inner(prompt: str) -> Inner:
    """That of an item's prompt."""
    return Inner(prompt)


def ranked(item: Any, programs: list[str], value: Any) -> list[str]:
    """The programs that can be read, the largest value of (scores, refusal) first."""
    of = inner(item.prompt)
    found = []
    for text in dict.fromkeys(programs):
        try:
            found.append((value(*of.scores(text)), text))
        except ValueError:
            continue
    return [text for _, text in sorted(found, key=lambda pair: pair[0], reverse=True)]
