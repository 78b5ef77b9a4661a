"""The learning algorithms, worked by hand on a few numbers, and the identities that hold between them."""

import random
from math import exp, isclose, isfinite, log, sqrt
from typing import TYPE_CHECKING, Any

import pytest

from algorithms import learning
from algorithms.learning.batch import NothingToLearn, PolicyTurn, Rollout, Selection, merge

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from algorithms.demos import toys
from algorithms.learning import credit, terms, test_time
from algorithms.learning.batch import InitialBatch, Terms


def rollout(item: str, token: int, reward: float, group: str = "", **more: Any) -> Rollout:
    more = {"tokens": (token,), "logprobs": (log(0.5),), "prompt": item} | more
    return Rollout(group=group or item, item=item, reward=reward, **more)


def table(values: object) -> torch.Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return found if found.dim() == 2 else found.reshape(-1, 1)


def terms_of(logp: object, **more: object) -> Terms:
    """Terms of one token a row unless rows are given; what is not given is as if nothing had changed since the base."""
    logs = table(logp)
    given = {name: table(value) for name, value in more.items()}
    sampled = given.get("sampled", logs)
    defaults = {
        "sampled": sampled,
        "old": sampled,
        "base": logs,
        "advantages": torch.ones_like(logs),
        "mask": torch.ones_like(logs),
        **{name: torch.zeros_like(logs) for name in ("entropy", "values", "old_values", "returns")},
    }
    return Terms(logp=logs, **{**defaults, **given})


def loss(name: str, of: Terms, **hyper: float) -> float:
    found = learning.algorithm(name)
    return float(found.loss(of, {**found.defaults, **hyper}))


def select(name: str, rollouts: list[Rollout], **hyper: float) -> Selection:
    found = learning.algorithm(name)
    return found.select(rollouts, {**found.defaults, **hyper})


def before(
    rewards: list[float],
    sampled: object,
    base: object,
    values: object,
    mask: object,
    groups: tuple[str, ...],
    attempts: str = "",
) -> InitialBatch:
    held = torch.tensor(rewards, dtype=torch.float64)
    return InitialBatch(
        rewards=held,
        advantages=held,
        sampled=table(sampled),
        old=table(sampled),
        base=table(base),
        values=table(values),
        mask=table(mask),
        own=table(mask) > 0,
        attempts=tuple((group, attempts[place] if attempts else str(place)) for place, group in enumerate(groups)),
    )


# Advantages


def test_group_advantages_are_deviations_over_the_population_standard_deviation() -> None:
    assert credit.normalised([1.0, 0.0, 0.0], eps=0.0) == pytest.approx([2 / sqrt(2), -1 / sqrt(2), -1 / sqrt(2)])


def test_dr_grpo_only_centres() -> None:
    assert credit.centred([1.0, 0.0, 0.5]) == pytest.approx([0.5, -0.5, 0.0])
    assert select("dr_grpo", [rollout("a", 0, 1), rollout("a", 1, 0)]).advantages == pytest.approx((0.5, -0.5))


def test_leaving_one_out_compares_with_the_mean_of_the_others() -> None:
    assert credit.leave_one_out([1.0, 0.0, 0.5]) == pytest.approx([0.75, -0.75, 0.0])
    assert select("rloo", [rollout("a", 0, 1), rollout("a", 1, 0), rollout("a", 2, 0)]).advantages == pytest.approx(
        (1, -0.5, -0.5)
    )


def test_entropic_weights_by_hand_at_a_fixed_beta() -> None:
    # beta ln(3): weights 1, 1/3 and 1/9; the others' means are 2/9, 5/9 and 2/3
    assert credit.entropic([2.0, 1.0, 0.0], beta=log(3)) == pytest.approx([9 / 2 - 1, 3 / 5 - 1, 1 / 6 - 1])


def test_the_adaptive_beta_puts_the_divergence_at_ln_2() -> None:
    draw = random.Random(7)
    for size in (3, 8, 64):
        for scale in (1e-3, 1.0, 1e4):
            rewards = [scale * draw.random() for _ in range(size)]
            beta = credit.adaptive_beta(rewards)
            assert abs(credit.divergence_from_uniform(beta, rewards) - log(2)) < 1e-6


def test_divergence_from_uniform_by_hand() -> None:
    q = (0.75, 0.25)
    assert credit.divergence_from_uniform(log(3), [1.0, 0.0]) == pytest.approx(sum(p * log(2 * p) for p in q))


def test_entropic_weights_do_not_depend_on_the_scale_of_rewards() -> None:
    rewards = [0.1, 0.7, 0.3, 0.2, 0.9]
    assert credit.entropic([10 * r + 3 for r in rewards]) == pytest.approx(credit.entropic(rewards), rel=1e-4)


def test_one_win_of_eight_and_of_sixty_four_weighs_as_measured() -> None:
    assert credit.entropic([1.0] + [0.0] * 7)[0] == pytest.approx(10.8, abs=0.1)
    assert credit.entropic([1.0] + [0.0] * 63)[0] == pytest.approx(27.8, abs=0.1)


def test_when_more_than_half_tie_for_the_best_they_share_the_weight() -> None:
    assert credit.adaptive_beta([1.0, 1.0, 1.0, 0.0]) == credit.LARGEST_BETA
    assert credit.entropic([1.0, 1.0, 1.0, 0.0]) == pytest.approx([0.5, 0.5, 0.5, -1.0])


def test_equal_rewards_have_no_entropic_weight_and_noise_counts_as_equal() -> None:
    assert credit.entropic([0.4] * 5) == [0.0] * 5
    assert credit.entropic([0.4, 0.4 + 1e-7, 0.4]) == [0.0] * 3


def test_tiny_groups_are_dropped_by_entropic_weighting_and_no_advantage_exceeds_fifty() -> None:
    with pytest.raises(NothingToLearn, match="fewer than 3"):
        select("entropic", [rollout("a", 0, 1), rollout("a", 1, 0)])
    assert max(credit.entropic([1.0, 0.0, 0.0], beta=60.0)) == 50.0


def test_a_small_beta_gives_leave_one_out_centring() -> None:
    rewards, beta = [0.3, 0.9, 0.1, 0.4], 1e-5
    assert [a / beta for a in credit.entropic(rewards, beta)] == pytest.approx(credit.leave_one_out(rewards), abs=1e-4)


def test_on_binary_rewards_entropic_and_grpo_advantages_are_affine_in_each_other() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    a, b = credit.entropic(rewards), credit.normalised(rewards)
    assert len({round(x, 9) for x in a}) == len({round(x, 9) for x in b}) == 2


def test_the_majority_is_the_most_frequent_answer_and_the_first_of_equals() -> None:
    assert credit.majority(["a", "b", "", "b", ""]) == ("b", 2)
    assert credit.majority(["b", "a"]) == ("b", 1)
    assert credit.majority(["", ""]) == ("", 0)


def test_advantage_estimation_by_hand() -> None:
    # deltas: 0 + .9 * .4 - .5 = -.14, 0 + .9 * .2 - .4 = -.22, 1 - .2 = .8; lambda gamma .72
    found = credit.gae(table([[0.0, 0.0, 1.0]]), table([[0.5, 0.4, 0.2]]), table([[1.0, 1.0, 1.0]]), 0.9, 0.8)
    second = -0.22 + 0.72 * 0.8
    assert found[0].tolist() == pytest.approx([-0.14 + 0.72 * second, second, 0.8])


def test_at_lambda_1_the_advantage_is_the_return_less_the_value() -> None:
    rewards, values = [0.0, 2.0, 1.0], [0.3, -0.2, 0.7]
    found = credit.gae(table([rewards]), table([values]), table([[1.0] * 3]), 0.5, 1.0)
    returns = [0.0 + 0.5 * 2 + 0.25 * 1, 2 + 0.5 * 1, 1.0]
    assert found[0].tolist() == pytest.approx([g - v for g, v in zip(returns, values, strict=True)])


def test_at_lambda_0_the_advantage_is_one_step_of_temporal_difference() -> None:
    found = credit.gae(table([[0.0, 1.0]]), table([[0.25, 0.5]]), table([[1.0, 1.0]]), 1.0, 0.0)
    assert found[0].tolist() == pytest.approx([0.25, 0.5])


def test_tokens_that_the_policy_was_told_are_no_steps() -> None:
    whole = credit.gae(table([[0.0, 1.0]]), table([[0.5, 0.2]]), table([[1.0, 1.0]]), 0.9, 0.8)
    told = credit.gae(
        table([[0.0, 7.0, 7.0, 1.0]]), table([[0.5, 9.0, 9.0, 0.2]]), table([[1.0, 0.0, 0.0, 1.0]]), 0.9, 0.8
    )
    assert told[0].tolist() == pytest.approx([whole[0, 0].item(), 0, 0, whole[0, 1].item()])


def test_the_reward_stands_on_the_last_token_that_the_policy_produced() -> None:
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert credit.rewards_at_end(torch.tensor([2.0, 3.0]), mask).tolist() == [[0, 0, 2, 0], [0, 0, 0, 3]]


def test_ppo_standardises_its_advantages_and_learns_unstandardised_returns() -> None:
    found = learning.algorithm("ppo")
    given = before([1.0, 0.0], [[-1.0], [-1.0]], [[-1.0], [-1.0]], [[0.5], [0.25]], [[1.0], [1.0]], ("a", "a"))
    assert found.credit is not None
    made = found.credit(given, found.defaults)
    assert made.advantages.flatten().tolist() == pytest.approx([1, -1])  # .5 and -.25, standardised
    assert made.returns.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_reinforce_subtracts_the_divergence_from_the_reward_and_the_groups_mean_from_both() -> None:
    found = learning.algorithm("reinforce")
    sampled, base = [[-1.0, -1.0], [-1.0, -3.0]], [[-2.0, -1.5], [-1.0, -1.0]]
    given = before([1.0, 0.0], sampled, base, [[0.0, 0.0]] * 2, [[1.0, 1.0], [1.0, 0.0]], ("a", "a"))
    assert found.credit is not None
    made = found.credit(given, {**found.defaults, "kl": 0.2})  # drifts 1.5 and 0: rewards .7 and 0
    assert made.advantages.tolist() == [pytest.approx([0.35, 0.35]), pytest.approx([-0.35, 0])]


def test_reinforce_counts_an_attempt_of_two_sequences_once_with_the_drift_of_both() -> None:
    found = learning.algorithm("reinforce")
    given = before([1.0, 1.0, 0.0], [-1.0, -1.0, -1.0], [-2.0, -1.5, -1.0], [0.0] * 3, [1.0] * 3, ("a",) * 3, "xxy")
    assert found.credit is not None
    made = found.credit(given, {**found.defaults, "kl": 0.2})  # x: 1 - .2 (1 + .5) = .7, y: 0
    assert made.advantages.flatten().tolist() == pytest.approx([0.35, 0.35, -0.35])


def test_what_stands_outside_the_mask_takes_no_part_not_even_infinity() -> None:
    values, mask = table([[1.0, float("-inf")]]), table([[1.0, 0.0]])
    assert [
        float(of)
        for of in (
            terms.masked_mean(values, mask),
            terms.sequence_mean(values, mask),
            terms.constant_mean(values, mask, 2.0),
        )
    ] == [
        1.0,
        1.0,
        0.5,
    ]
    assert (
        float(
            terms.pair_margin(
                table([[1.0, float("inf")], [0.5, 0.0]]), table([[0.0, 0.0]] * 2), table([[1.0, 0.0]] * 2)
            )
        )
        == 0.5
    )


def test_sequences_of_one_attempt_count_its_reward_once() -> None:
    rollouts = [
        rollout("a", 0, 1, attempt="x"),
        rollout("a", 1, 1, attempt="x"),
        rollout("a", 2, 0, attempt="y"),
        rollout("a", 3, 0.5),
    ]
    assert select("dr_grpo", rollouts).advantages == pytest.approx((0.5, 0.5, -0.5, 0.0))


# Terms


def test_k3_by_hand_and_its_direction() -> None:
    # pi .2, base .4: d = ln 2; the other way round d = -ln 2
    assert float(terms.k3(table([log(0.2)]), table([log(0.4)]))) == pytest.approx(2 - log(2) - 1)
    assert float(terms.k3(table([log(0.4)]), table([log(0.2)]))) == pytest.approx(0.5 + log(2) - 1)


def test_the_mean_of_k3_over_the_policy_is_its_divergence_from_the_base() -> None:
    pi, base = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = (pi * (pi / base).log()).sum()
    assert float((pi * terms.k3(pi.log(), base.log())).sum()) == pytest.approx(float(exact), abs=1e-6)


def test_means_over_tokens_over_sequences_and_over_a_constant() -> None:
    values, mask = table([[1.0, 2.0, 3.0], [8.0, 9.0, 9.0]]), table([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert float(terms.masked_mean(values, mask)) == 14 / 4
    assert float(terms.sequence_mean(values, mask)) == (2 + 8) / 2
    assert float(terms.constant_mean(values, mask, 4.0)) == (6 / 4 + 8 / 4) / 2


def test_the_clipped_value_loss_takes_the_worse_of_the_two() -> None:
    # old .5, now .9, return 1, clip .2: (.9 - 1)^2 against (.7 - 1)^2; and return .6: (.9 - .6)^2 against (.7 - .6)^2
    of = terms.clipped_value(table([0.9, 0.9]), table([0.5, 0.5]), table([1.0, 0.6]), 0.2)
    assert of.flatten().tolist() == pytest.approx([0.09 / 2, 0.09 / 2])


def test_importance_weights_are_truncated_above_and_carry_no_gradient() -> None:
    logp = table([log(0.9), log(0.1)]).requires_grad_()
    weight = terms.truncated(logp, table([log(0.1), log(0.4)]), 2.0)
    assert weight.flatten().tolist() == pytest.approx([2.0, 0.25])
    assert not weight.requires_grad


# Losses


def test_grpo_clips_the_ratio_only_where_that_lowers_the_objective() -> None:
    # ratios 2, .5 and .5 at advantages 1, 1 and -1: -min(2, 1.28), -min(.5, .8), -min(-.5, -.8)
    of = terms_of(
        [log(0.4), log(0.2), log(0.2)],
        sampled=[log(0.2), log(0.4), log(0.4)],
        base=[log(0.4), log(0.2), log(0.1)],
        advantages=[1.0, 1.0, -1.0],
    )
    k3 = exp(log(0.5)) - log(0.5) - 1  # the third alone has left the base
    assert isclose(loss("grpo", of, kl=0.5), (-1.28 - 0.5 + 0.8 + 0.5 * k3) / 3, abs_tol=1e-6)


def test_grpo_weighs_a_stale_rollout_by_how_likely_the_parent_was_to_give_it() -> None:
    of = terms_of([log(0.4), log(0.4)], old=[log(0.4), log(0.4)], sampled=[log(0.8), log(0.1)], advantages=[1.0, 1.0])
    assert loss("grpo", of, truncation=2.0) == pytest.approx(-(0.5 + 2.0) / 2)


def test_grpo_averages_over_tokens_or_within_each_answer_first() -> None:
    of = terms_of([[-1.0] * 3] * 2, advantages=[[1.0] * 3, [-1.0] * 3], mask=[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert loss("grpo", of) == pytest.approx((-3 + 1) / 4)
    assert loss("grpo", of, token_mean=0.0) == pytest.approx((-1 + 1) / 2)
    assert loss("dr_grpo", of, length=2.0) == pytest.approx((-3 / 2 + 1 / 2) / 2)


def test_a_step_of_every_policy_gradient_makes_the_better_answer_likelier() -> None:
    for name in ("grpo", "dr_grpo", "rloo", "entropic", "reinforce", "ppo", "ttrl"):
        logp = table([log(0.5), log(0.5)]).requires_grad_()
        of = terms_of(logp.detach().flatten().tolist(), advantages=[1.0, -1.0])
        found = learning.algorithm(name)
        value = found.loss(
            Terms(**{field: getattr(of, field) for field in Terms.__struct_fields__} | {"logp": logp}), found.defaults
        )
        (slope,) = torch.autograd.grad(value, logp)
        assert slope[0] < 0 < slope[1], name


def test_rloo_and_its_kin_descend_the_weighted_log_probability() -> None:
    # ratios 2 (truncated to 1.5) and .5
    of = terms_of([log(0.4), log(0.2)], sampled=[log(0.2), log(0.4)], advantages=[2.0, -1.0], base=[log(0.4), log(0.1)])
    k3 = 0.5 + log(2) - 1
    expected = (-1.5 * 2 * log(0.4) + 0.5 * log(0.2) + 0.1 * k3) / 2
    for name in ("rloo", "entropic"):
        assert loss(name, of, truncation=1.5, kl=0.1) == pytest.approx(expected), name
    assert loss("reinforce", of, truncation=1.5, kl=0.0) == pytest.approx((-1.5 * 2 * log(0.4) + 0.5 * log(0.2)) / 2)


def test_ppo_adds_the_critics_loss_and_takes_off_the_entropy() -> None:
    of = terms_of([-1.0], advantages=[2.0], values=[0.5], old_values=[0.5], returns=[1.0], entropy=[0.7])
    assert loss("ppo", of, value=0.4, entropy=0.1) == pytest.approx(-2.0 + 0.4 * 0.25 / 2 - 0.1 * 0.7)


def test_cloning_averages_the_negative_log_probability_over_masked_tokens() -> None:
    of = terms_of([log(0.5), log(0.25), log(0.1)], mask=[1.0, 1.0, 0.0])
    for name in ("best_of_n", "star", "test_time"):
        assert loss(name, of) == pytest.approx((log(2) + log(4)) / 2), name


def test_dpo_by_hand() -> None:
    # the better answer gained ln 2, the worse lost ln 4 over two tokens: a margin of ln 8
    of = terms_of(
        [[log(0.4), 0.0], [log(0.1), log(0.2)]],
        base=[[log(0.2), 0.0], [log(0.2), log(0.4)]],
        mask=[[1.0, 0.0], [1.0, 1.0]],
    )
    assert loss("dpo", of, beta=2.0) == pytest.approx(log(1 + exp(-2 * log(8))))


def test_equal_policies_have_a_preference_loss_of_ln_2() -> None:
    of = terms_of([[-1.0, -2.0], [-0.5, -3.0]])
    assert loss("dpo", of, beta=0.3) == pytest.approx(log(2))
    assert loss("spin", of, beta=0.3) == pytest.approx(log(2))


def test_spin_measures_from_the_opponent_and_dpo_from_the_base() -> None:
    of = terms_of([log(0.4), log(0.1)], old=[log(0.2), log(0.1)], base=[log(0.1), log(0.1)])
    assert loss("spin", of, beta=1.0) == pytest.approx(log(1 + 1 / 2))
    assert loss("dpo", of, beta=1.0) == pytest.approx(log(1 + 1 / 4))


def test_a_step_of_preference_raises_the_first_of_a_pair_and_lowers_the_second() -> None:
    for name in ("dpo", "spin"):
        logp = table([log(0.5), log(0.5)]).requires_grad_()
        of = terms_of(logp.detach().flatten().tolist())
        found = learning.algorithm(name)
        value = found.loss(
            Terms(**{field: getattr(of, field) for field in Terms.__struct_fields__} | {"logp": logp}), found.defaults
        )
        (slope,) = torch.autograd.grad(value, logp)
        assert slope[0] < 0 < slope[1], name
        assert float(slope[0]) == pytest.approx(-found.defaults["beta"] / 2)


# What is learned from


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "entropic"])
def test_tied_groups_are_dropped_and_counted(name: str) -> None:
    selected = select(
        name, [rollout("a", t, r) for t, r in enumerate((1, 0, 0))] + [rollout("b", 0, 1), rollout("b", 1, 1)]
    )
    assert [r.item for r in selected.rollouts] == ["a"] * 3
    assert selected.tied_groups == 0.5


@pytest.mark.parametrize(
    "name, rollouts, why",
    [
        ("grpo", [rollout("a", 0, 0), rollout("a", 1, 0)], "In each of 1 groups"),
        ("dr_grpo", [rollout("a", 0, 0), rollout("a", 1, 0)], "In each of 1 groups"),
        ("rloo", [rollout("a", 0, 0)], "In each of 1 groups"),
        ("entropic", [rollout("a", t, 1) for t in range(4)], "In each of 1 groups"),
        ("ppo", [rollout("a", 0, 0.5), rollout("b", 1, 0.5)], "All 2 attempts have the reward 0.5"),
        ("dpo", [rollout("a", 0, 1), rollout("a", 1, 1)], "To none of 1 prompts"),
        ("dpo", [rollout("a", 0, 1), rollout("a", 0, 0)], "To none of 1 prompts"),
        ("best_of_n", [rollout("a", 0, 0)], "None of 1 attempts"),
        ("star", [rollout("a", 0, 0.9)], "None of 1 answers"),
        ("spin", [rollout("a", 3, float("nan"), real=(3,))], "All 1 answers"),
        ("ttrl", [rollout("a", 0, float("nan"), answer="x"), rollout("a", 1, float("nan"), answer="x")], "all agree"),
        ("ttrl", [rollout("a", 0, float("nan")), rollout("a", 1, float("nan"))], "none has an answer"),
        ("test_time", [rollout("a", 0, float("nan"))], "No item has demonstrations"),
    ],
)
def test_a_batch_without_a_gradient_is_refused_with_the_reason(name: str, rollouts: list[Rollout], why: str) -> None:
    with pytest.raises(NothingToLearn, match=why):
        select(name, rollouts)


def test_reinforce_without_kl_has_nothing_to_learn_from_ties() -> None:
    tied = [rollout("a", 0, 1), rollout("a", 1, 1)]
    with pytest.raises(NothingToLearn, match="kl is 0"):
        select("reinforce", tied, kl=0.0)
    assert len(select("reinforce", tied, kl=0.1).rollouts) == 2


def test_cloning_keeps_each_distinct_right_answer_once_over_all_rounds() -> None:
    rounds = [
        rollout("a", 3, 1, "1 a"),
        rollout("a", 3, 1, "1 a"),
        rollout("b", 2, 0, "1 b"),
        rollout("a", 3, 1, "2 a"),
        rollout("b", 5, 1, "2 b"),
    ]
    assert [(r.item, r.tokens) for r in select("best_of_n", rounds).rollouts] == [("a", (3,)), ("b", (5,))]


def test_cloning_keeps_as_many_answers_as_it_is_told_and_the_equals_of_the_last() -> None:
    graded = [rollout("a", t, r) for t, r in enumerate((0.2, 0.9, 0.5, 0.5, 0.0))]
    assert [r.reward for r in select("best_of_n", graded).rollouts] == [0.9]
    assert sorted(r.reward for r in select("best_of_n", graded, best=2.0).rollouts) == [0.5, 0.5, 0.9]


def test_dpo_pairs_the_best_with_the_worst_and_goes_inwards() -> None:
    graded = [rollout("a", t, r) for t, r in enumerate((0.2, 0.9, 0.5, 0.0))]
    selected = select("dpo", graded)
    assert [r.reward for r in selected.rollouts] == [0.9, 0.0, 0.5, 0.2]
    assert selected.units == ((0, 1), (2, 3))
    assert len(select("dpo", graded, pairs=1.0).rollouts) == 2


def test_dpo_pairs_answers_to_the_same_prompt_of_attempts_with_several() -> None:
    calls = [rollout("i", t, r, "g", prompt=p) for p, t, r in (("p", 1, 1), ("q", 2, 1), ("p", 3, 0), ("q", 4, 0))]
    assert [r.tokens for r in select("dpo", calls).rollouts] == [(1,), (3,), (2,), (4,)]


def test_cloning_keeps_the_best_that_an_answer_ever_earned() -> None:
    assert [
        r.reward for r in select("best_of_n", [rollout("a", 1, 0), rollout("a", 1, 1), rollout("a", 2, 0)]).rollouts
    ] == [1]


def test_an_election_without_a_loser_hands_its_votes_on() -> None:
    with pytest.raises(NothingToLearn) as nothing:
        select("ttrl", [rollout("a", 0, float("nan"), answer="x"), rollout("a", 1, float("nan"), answer="x")])
    assert [(vote.answer, vote.votes, vote.answers) for vote in nothing.value.votes] == [("x", 2, 2)]


def test_spin_sets_the_true_answer_against_ones_own() -> None:
    selected = select("spin", [rollout("a", 4, float("nan"), real=(7, 8)), rollout("a", 7, float("nan"), real=(7,))])
    real, own = selected.rollouts
    assert (real.tokens, real.own, own.tokens, own.own) == ((7, 8), False, (4,), True)
    assert selected.units == ((0, 1),)


def test_ttrl_rewards_agreement_with_the_majority_and_never_reads_a_reward() -> None:
    answers = ("x", "y", "x", "", "x")
    selected = select("ttrl", [rollout("a", t, float("nan"), answer=a) for t, a in enumerate(answers)], train=4.0)
    assert [r.reward for r in selected.rollouts] == [1, 0, 1, 0]  # the fifth votes and is not trained on
    assert selected.advantages == pytest.approx((1, -1, 1, -1), abs=1e-3)
    assert [(v.answer, v.votes, v.answers) for v in selected.votes] == [("x", 3, 5)]
    assert all(map(isfinite, selected.advantages))


def test_star_uses_a_hinted_answer_only_where_none_was_right_without() -> None:
    rollouts = [
        rollout("a", 1, 1),
        rollout("a", 2, 1, own=False),
        rollout("b", 3, 0),
        rollout("b", 4, 1, own=False),
        rollout("b", 4, 1, own=False),
        rollout("c", 5, 0, own=False),
    ]
    assert [(r.item, r.tokens) for r in select("star", rollouts).rollouts] == [("a", (1,)), ("b", (4,))]


def test_copies_leave_each_demonstration_out_in_turn_also_when_augmented() -> None:
    def render(shown: object, question: str) -> str:
        return f"{shown} {question}"

    def shout(pair: tuple[str, str]) -> tuple[str, str]:
        return pair[0].upper(), pair[1].upper()

    found = test_time.copies([("p", "q"), ("r", "s")], render, [shout])
    assert found == [("[('r', 's')] p", "q"), ("[('p', 'q')] r", "s"), ("[('R', 'S')] P", "Q"), ("[('P', 'Q')] R", "S")]


def test_turns_that_go_on_from_each_other_become_one_sequence_with_what_was_told_masked() -> None:
    turns = [
        PolicyTurn((1, 2), (3, 4), (-0.1, -0.2)),
        PolicyTurn((1, 2, 3, 4, 9, 9), (5,), (-0.3,)),
        PolicyTurn((1, 7), (6,), (-0.4,)),
    ]
    first, second = merge(turns)
    assert (first.tokens, first.mask, first.logprobs) == (
        (3, 4, 9, 9, 5),
        (1, 1, 0, 0, 1),
        (-0.1, -0.2, 0.0, 0.0, -0.3),
    )
    assert (second.first, second.tokens) == (2, (6,))


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    assert {learning.algorithm(name).name for name in learning.NAMES} == set(learning.NAMES)
    with pytest.raises(KeyError, match=", ".join(learning.NAMES)):
        learning.algorithm("ppo2")


# The toys


def reward(toy: toys.Toy, answer: str) -> float:
    return toy.questions[0].score(answer)


def test_the_toys_reward_what_they_say() -> None:
    assert reward(toys.dense((72, 15)), "72 15") == 1
    assert reward(toys.dense((50, 50)), "35 80") == pytest.approx(1 - 45 / 2 / 75)
    assert reward(toys.dense(), "7 15") == reward(toys.dense(), "72 15 64") == 0
    assert reward(toys.sparse((50, 50)), "52 48") == 1
    assert reward(toys.sparse((50, 50)), "53 50") == 0
    toy = toys.deceptive((10, 10), (90, 90))
    assert [reward(toy, answer) for answer in ("16 04", "90 90", "99 99")] == [
        1,
        0.5,
        pytest.approx(0.5 * (1 - 9 / 75)),
    ]
    assert [question.score(toys.quiz_truth(number)) for number, question in enumerate(toys.quiz().questions)] == [1] * 8


def test_a_shifted_items_demonstrations_follow_its_rule_also_when_moved() -> None:
    question = toys.shifted(3).questions[0]
    shifts = set()
    for pair in (
        *question.demonstrations,
        *(toys.move_pair(pair, 5) for pair in question.demonstrations),
        (question.prompt, question.truth),
    ):
        before, after = toys.parse_numbers(pair[0].removeprefix("near ")), toys.parse_numbers(pair[1])
        assert before and after
        shifts.add(tuple(b - a for a, b in zip(before, after, strict=True)))
    assert len(shifts) == 1


def test_traces_are_the_same_for_a_seed_and_well_formed() -> None:
    found = toys.traces(3, 400)
    assert found == toys.traces(3, 400) != toys.traces(4, 400)
    assert all(toys.parse_numbers(answer) for prompt, answer in found if not prompt.startswith("quiz"))
