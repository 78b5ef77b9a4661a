"""Runs a program on the train counts of a data set and scores the output on its held-out molecules; for verifiers and the auditor.

Both data sets and scores are remembered: a run asks for the same programs over and over.
"""

from functools import lru_cache
from typing import NamedTuple

from tasks.denoise import data, metric, program
from tasks.denoise.metric import Matrix


class Judged(NamedTuple):
    """What became of a program: its scores, why the gate refuses it (empty: it does not), and how likely it makes what was held out.

    `skill` is 0 for train as it is, and 1 for the true expression.
    """

    scores: metric.Scores
    refused: str
    skill: float


class Bench(NamedTuple):
    """A data set with what runs programs on it and what judges outputs."""

    data: data.DataSet
    workshop: program.Workshop
    judge: metric.Judge
    none: float
    perfect: float
    """The likelihoods of train as it is and of the true expression."""

    def judged(self, output: Matrix) -> Judged:
        """Of any output for this data set."""
        scores = self.judge.scores(output)
        return Judged(scores, self.judge.refused(output), (self.none - scores.likelihood) / (self.none - self.perfect))


def bench(name: str) -> Bench:
    """That of the data set of this name, under this machine's key."""
    return _bench(data.key(data.default_root()), name)


def judged(answer: str, name: str) -> Judged:
    """Of a program's text; raises ValueError for one that is none."""
    return _judged(data.key(data.default_root()), " ".join(answer.split()), name)


def output(answer: str, name: str) -> Matrix:
    """What a program makes of the train counts; raises ValueError for a text that is none."""
    return _output(data.key(data.default_root()), " ".join(answer.split()), name)


@lru_cache(maxsize=sum(data.SIZES.values()))
def _bench(key: bytes, name: str) -> Bench:
    of = data.data_set(key, name)
    judge = metric.Judge(of.train, of.test)
    return Bench(of, program.Workshop(of.train), judge, judge.likelihood(judge.train), judge.likelihood(of.truth))


@lru_cache(maxsize=20_000)
def _judged(key: bytes, answer: str, name: str) -> Judged:
    return _bench(key, name).judged(_output(key, answer, name))


@lru_cache(maxsize=4)  # for those that ask of one answer one after the other
def _output(key: bytes, answer: str, name: str) -> Matrix:
    return _bench(key, name).workshop.run(program.parse(answer))
