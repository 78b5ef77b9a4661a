"""TTRL: without labels, the answer that most attempts agree on is the reward (Zuo 2025, arXiv 2504.16084, section 2.2).

    r_i = 1[answer_i = majority of all answers of the group],   then GRPO on the first `train` attempts of the group

The verifier's rewards are not asked for. The most frequent answers are handed on, so that the log can be asked later
how often they were true. An attempt without an answer has no vote and a reward of 0. Ours: a label has two votes, more
than any other answer, and more than the most frequent of the choices on offer has on average where as many voters
guess. A group without a label is left out. Where no choices are on offer, two guesses do not agree. A group of guesses
may still elect a label: whether all groups together agree more than by chance is asked before the algorithm is chosen
(`levers/rules.py`).
"""

from collections.abc import Sequence

import msgspec

from algorithms.learning import credit, grpo
from algorithms.learning.batch import Algorithm, Hyper, NothingToLearn, Rollout, Selection, Vote, by_group
from algorithms.statistics import MANY_ANSWERS, elected


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """GRPO's selection on elected rewards; raises NothingToLearn if no group elects a label and disagrees."""
    rewarded: list[Rollout] = []
    votes: list[Vote] = []
    for group, indices in by_group(rollouts).items():
        answers = {rollouts[i].attempt or str(i): rollouts[i].answer for i in indices}
        most, count = credit.majority(list(answers.values()))
        votes.append(Vote(group, rollouts[indices[0]].item, most, count, len(answers)))
        label = elected(list(answers.values()), len(rollouts[indices[0]].choices) or MANY_ANSWERS)
        if not label:
            continue
        trained = set(list(answers)[: int(hyper["train"])])
        for index in indices:
            if (rollouts[index].attempt or str(index)) in trained:
                agrees = rollouts[index].answer == label
                rewarded.append(msgspec.structs.replace(rollouts[index], reward=float(agrees)))
    try:
        selected = grpo.select(rewarded, hyper)
    except NothingToLearn:
        raise NothingToLearn(
            f"In each of {len(votes)} groups the attempts all agree, or none has an answer, or no answer has two "
            "votes, more than the others, and more than guesses give.",
            tuple(votes),
        ) from None
    live = len(by_group(selected.rollouts))
    return msgspec.structs.replace(selected, tied_groups=1 - live / len(votes), votes=tuple(votes))


ALGORITHM = Algorithm(
    name="ttrl",
    defaults={**grpo.ALGORITHM.defaults, "train": 32.0},
    select=select,
    loss=grpo.loss,
    form="clipped",
    needs=frozenset(),
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("ttrl", toys.quiz(), rounds=10)
