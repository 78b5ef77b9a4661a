"""The learning algorithms, worked by hand on a few numbers."""

from math import exp, isclose, log, sqrt

import pytest

from algorithms import learning
from algorithms.learning import credit
from algorithms.learning.batch import NothingToLearn, Rollout

torch = pytest.importorskip("torch")


def rollout(item: str, token: int, reward: float, group: str = "") -> Rollout:
    return Rollout(group=group or item, item=item, prompt=item, token=token, logprob=log(0.5), reward=reward)


def terms_of(logp: list[float], sampled: list[float], base: list[float], advantages: list[float], mask: list[float]):
    from algorithms.learning.batch import Terms

    def column(values: list[float]):
        return torch.tensor(values).reshape(-1, 1)

    return Terms(column(logp), column(sampled), column(base), column(advantages), column(mask))


def test_group_advantages_are_deviations_over_the_population_standard_deviation() -> None:
    assert credit.normalised([1.0, 0.0, 0.0], eps=0.0) == pytest.approx([2 / sqrt(2), -1 / sqrt(2), -1 / sqrt(2)])


def test_grpo_clips_the_ratio_only_where_that_lowers_the_objective() -> None:
    algorithm = learning.algorithm("grpo")
    hyper = {**algorithm.defaults, "beta": 0.5}
    # ratios 2, .5 and .5 at advantages 1, 1 and -1: -min(2, 1.28), -min(.5, .8), -min(-.5, -.8)
    of = terms_of([log(0.4), log(0.2), log(0.2)], [log(0.2), log(0.4), log(0.4)], [log(0.4), log(0.2), log(0.1)], [1, 1, -1], [1, 1, 1])
    k3 = exp(log(0.5)) - log(0.5) - 1  # the third alone has left the base
    assert isclose(float(algorithm.loss(of, hyper)), (-1.28 - 0.5 + 0.8 + 0.5 * k3) / 3, abs_tol=1e-6)


def test_grpo_drops_tied_groups_and_counts_them() -> None:
    algorithm = learning.algorithm("grpo")
    selected = algorithm.select([rollout("a", 0, 1), rollout("a", 1, 0), rollout("b", 0, 1), rollout("b", 1, 1)], algorithm.defaults)
    assert [r.item for r in selected.rollouts] == ["a", "a"]
    assert selected.advantages == pytest.approx((1, -1), abs=1e-3)
    assert selected.tied_groups == 0.5


def test_grpo_with_tied_groups_only_has_nothing_to_learn() -> None:
    algorithm = learning.algorithm("grpo")
    with pytest.raises(NothingToLearn, match="1 groups"):
        algorithm.select([rollout("a", 0, 0), rollout("a", 1, 0)], algorithm.defaults)


def test_cloning_keeps_each_distinct_right_answer_once_over_all_rounds() -> None:
    algorithm = learning.algorithm("best_of_n")
    rounds = [
        rollout("a", 3, 1, "1 a"),
        rollout("a", 3, 1, "1 a"),
        rollout("b", 2, 0, "1 b"),
        rollout("a", 3, 1, "2 a"),
        rollout("b", 5, 1, "2 b"),
    ]
    selected = algorithm.select(rounds, algorithm.defaults)
    assert [(r.item, r.token) for r in selected.rollouts] == [("a", 3), ("b", 5)]


def test_cloning_averages_the_negative_log_probability_over_masked_tokens() -> None:
    algorithm = learning.algorithm("best_of_n")
    of = terms_of([log(0.5), log(0.25), log(0.1)], [0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0])
    assert isclose(float(algorithm.loss(of, algorithm.defaults)), (log(2) + log(4)) / 2, abs_tol=1e-6)


def test_cloning_without_a_right_answer_has_nothing_to_learn() -> None:
    algorithm = learning.algorithm("best_of_n")
    with pytest.raises(NothingToLearn, match="None of 1 attempts"):
        algorithm.select([rollout("a", 0, 0)], algorithm.defaults)


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    assert learning.names() == ("best_of_n", "grpo")
    with pytest.raises(KeyError, match="best_of_n, grpo"):
        learning.algorithm("ppo2")
