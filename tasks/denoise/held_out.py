"""Runs a program on the train counts of a data set and scores the output on its held-out molecules; for verifiers and
the auditor.

Data sets and scores are cached, since a run asks for the same programs over and over. Verifiers that runs were ordered
with are kept as text in their logs, and call `judged`: its name and what it returns stay.
"""

from functools import lru_cache
from typing import NamedTuple

from tasks import kit
from tasks.denoise import data, metric, program
from tasks.denoise.metric import Matrix


class Judgement(NamedTuple):
    """The scores of an output, why the gate refuses it (empty: it does not), and how likely it makes what was held out.

    `skill` is 0 for train as it is, and 1 for the true expression.
    """

    scores: metric.Scores
    refused: str
    skill: float


class Bench(NamedTuple):
    """A data set with what runs programs on it and what scores outputs."""

    data: data.DataSet
    workshop: program.Workshop
    judge: metric.Judge
    none: float
    perfect: float
    """The likelihoods of train as it is and of the true expression."""

    def judged(self, output: Matrix) -> Judgement:
        """The judgement of any output (cells, genes) for this data set."""
        scores = self.judge.scores(output)
        return Judgement(
            scores, self.judge.refused(output), (self.none - scores.likelihood) / (self.none - self.perfect)
        )


def bench(name: str) -> Bench:
    """The bench of the data set of this name, under this machine's key."""
    return _bench(kit.key(data.default_root()), name)


def judged(answer: str, name: str) -> Judgement:
    """The judgement of a program's text on the data set of this name; raises ValueError for a text that is
    no program.
    """
    return _judged(kit.key(data.default_root()), " ".join(answer.split()), name)


def output(answer: str, name: str) -> Matrix:
    """The output (cells, genes) of a program on the train counts of a data set; raises ValueError for a text that is no
    program.
    """
    return _output(kit.key(data.default_root()), " ".join(answer.split()), name)


@lru_cache(maxsize=sum(data.SIZES.values()))
def _bench(key: bytes, name: str) -> Bench:
    data_set = data.data_set(key, name)
    judge = metric.Judge(data_set.train, data_set.test)
    return Bench(
        data_set,
        program.Workshop(data_set.train),
        judge,
        judge.likelihood(judge.train),
        judge.likelihood(data_set.truth),
    )


@lru_cache(maxsize=20_000)
def _judged(key: bytes, answer: str, name: str) -> Judgement:
    return _bench(key, name).judged(_output(key, answer, name))


@lru_cache(maxsize=4)  # the auditor asks several measures of one answer, one after the other
def _output(key: bytes, answer: str, name: str) -> Matrix:
    return _bench(key, name).workshop.run(program.parse(answer))
