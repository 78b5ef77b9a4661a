"""Best-of-N behavioural cloning: raise the probability of the best answers found for each item, and of nothing else.

    L = mean_t [ -log pi(y_t) + kl KL_t ]  over the distinct best answers y of each item, those with a positive reward

Nakano 2021 (WebGPT, arXiv 2112.09332) answers with the best of N; Dong 2023 (RAFT, arXiv 2304.06767) trains on it, as
here. Departures: an item's answers are pooled over all the batch's groups, and equal answers count once; an item of
several attempts that all have the same reward is dropped, right ones too, since none of them is the best. (What is
right in every attempt needs no cloning. An item that is solved in one round of an update and not in another stays, and
so does one of a single attempt, which has nothing to tie with.) `best` is how
many distinct answers of an item are kept (sequences, where an attempt has several), and with the last of them those of
the same reward: 1 keeps the best and equals. KL_t is on the answers that are cloned, which are no sample of the policy:
it holds their probability back, and estimates no divergence (`terms.kl_penalty`).
"""

from collections.abc import Sequence

import torch

from algorithms.learning import credit, terms
from algorithms.learning.batch import COMMON, Algorithm, Hyper, NothingToLearn, Rollout, Selection, Terms
from algorithms.statistics import magnitude, tied


def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
    """The first rollout of each distinct best answer of each item; raises NothingToLearn if no reward is positive and
    better than another.
    """
    scale = magnitude(r.reward for r in rollouts)
    pooled: dict[str, dict[tuple[str, str], float]] = {}
    for index, rollout in enumerate(rollouts):
        pooled.setdefault(rollout.item, {})[rollout.group, rollout.attempt or str(index)] = rollout.reward
    live = {item for item, pool in pooled.items() if len(pool) == 1 or not tied(list(pool.values()), scale)}
    distinct: dict[tuple[str, str, tuple[int, ...]], Rollout] = {}
    for rollout in rollouts:
        key = (rollout.item, rollout.prompt, rollout.tokens)
        if key not in distinct or distinct[key].reward < rollout.reward:
            distinct[key] = rollout
    rewards: dict[str, list[float]] = {}
    for rollout in distinct.values():
        rewards.setdefault(rollout.item, []).append(rollout.reward)
    floor = {item: sorted(each, reverse=True)[: int(hyper["best"])][-1] for item, each in rewards.items()}
    best = tuple(
        r
        for r in distinct.values()
        if r.item in live and r.reward > 0 and (r.reward >= floor[r.item] or tied((r.reward, floor[r.item]), scale))
    )
    if not best:
        raise NothingToLearn(
            f"None of {len(rollouts)} attempts at {len(rewards)} items has a positive reward that is better than "
            "another attempt's at its item."
        )
    return Selection(best, (1.0,) * len(best), credit.tied_groups(rollouts))


def loss(minibatch: Terms, hyper: Hyper) -> torch.Tensor:
    """The loss L above, a scalar."""
    return terms.masked_mean(-minibatch.logp + terms.kl_penalty(minibatch, hyper), minibatch.mask)


ALGORITHM = Algorithm(
    name="best_of_n",
    defaults={**COMMON, "lr": 5e-4, "epochs": 4.0, "best": 1.0},
    select=select,
    loss=loss,
    form="cloning",
)

if __name__ == "__main__":
    from algorithms.demos import curves, toys

    curves.main("best_of_n", toys.dense(), hyper={"best": 8.0})
