"""The learning algorithms, worked by hand on a few numbers, and the identities that hold between them."""

import random
from math import comb, exp, isclose, isfinite, log, sqrt
from typing import TYPE_CHECKING, Any

import msgspec
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
from events.errors import UsageError


def rollout(item: str, token: int, reward: float, group: str = "", **more: Any) -> Rollout:
    more = {"tokens": (token,), "logprobs": (log(0.5),), "prompt": item} | more
    return Rollout(group=group or item, item=item, reward=reward, **more)


def table(values: object) -> torch.Tensor:
    found = torch.as_tensor(values, dtype=torch.float64)
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
    teacher: object = None,
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
        teacher=None if teacher is None else table(teacher),
    )


# Advantages


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0), (16384, 0), (18432, -0.5), (20479, -4095 / 4096), (20480, -1), (20481, -1)]
)
def test_the_soft_overlong_punishment_of_dapo(length: int, penalty: float) -> None:
    limit, last = 20480, 4096  # L_max and L_cache, the paper's own
    assert credit.overlong_penalty(length / limit, last / limit) == pytest.approx(penalty)


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


def test_max_rl_divides_by_the_mean() -> None:
    assert credit.over_mean([1.0, 0.0, 0.0, 0.0]) == pytest.approx([3, -1, -1, -1])
    assert credit.over_mean([0.1, 0.5, 0.3, 0.3]) == pytest.approx([-2 / 3, 2 / 3, 0, 0])
    assert credit.over_mean([10.0, 50.0, 30.0, 30.0]) == pytest.approx(credit.over_mean([0.1, 0.5, 0.3, 0.3]))
    assert select("max_rl", [rollout("a", 0, 1), rollout("a", 1, 0)]).advantages == pytest.approx((1, -1))


@pytest.mark.parametrize("attempts", [2, 3, 8])
@pytest.mark.parametrize("p", [0.05, 0.5])
def test_max_rl_is_in_expectation_the_gradient_of_all_but_the_last_term_of_log_p(attempts: int, p: float) -> None:
    # The derivative by p of log of a right answer's probability is 1 / p, of a wrong one's -1 / (1 - p).
    expected = 0.0
    for right in range(1, attempts):  # a group that is all right or all wrong is tied
        rewards = [1.0] * right + [0.0] * (attempts - right)
        advantages = select("max_rl", [rollout("a", at, r) for at, r in enumerate(rewards)]).advantages
        gradient = sum(a * (1 / p if r else -1 / (1 - p)) for a, r in zip(advantages, rewards, strict=True)) / attempts
        expected += comb(attempts, right) * p**right * (1 - p) ** (attempts - right) * gradient
    assert expected == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, attempts)))


def test_max_rl_refuses_rewards_below_0_which_have_no_logarithm() -> None:
    with pytest.raises(UsageError, match=r"must be 0 or more, and one is -0\.5; order another algorithm, such as grpo"):
        select("max_rl", [rollout("a", 0, 1), rollout("a", 1, -0.5)])


def test_a_teachers_advantage_is_what_it_finds_likelier_within_the_bound() -> None:
    old, teacher = [[log(0.2), log(0.8), log(0.5), -1.0]], [[log(0.8), log(0.2), log(1e-9), 99.0]]
    given = before([float("nan")], old, old, [[0.0] * 4], [[1.0, 1.0, 1.0, 0.0]], ("a",), teacher=teacher)
    found = learning.algorithm("opsd")
    assert found.credit is not None
    made = found.credit(given, {**found.defaults, "bound": 3.0})
    assert made.advantages[0].tolist() == pytest.approx([log(4), -log(4), -3, 0])


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
    assert credit.entropic([0.4, 0.4 + 1e-12, 0.4]) == [0.0] * 3
    assert credit.normalised([0.4, 0.4 + 1e-12, 0.4]) == [0.0] * 3


def test_rewards_that_rounding_sets_apart_share_the_weight_of_the_best() -> None:
    assert credit.entropic([1.0, 1 - 1e-12, 1 - 2e-12, 0.0]) == pytest.approx([0.5, 0.5, 0.5, -1.0], abs=1e-5)


def test_one_very_bad_attempt_leaves_the_others_weights_apart() -> None:
    a = credit.entropic([0.1, 0.2, 0.9, -1e6])
    assert a == pytest.approx(credit.entropic([0.1, 0.2, 0.9, -10.0]), abs=1e-3) and a[2] > 1 > 0 > a[1] > a[0]


def test_the_unit_of_rewards_is_the_distance_from_the_means_of_live_groups() -> None:
    # 1 and 3 are 1 from 2, 4 and 10 are 3 from 7; the tied group counts in the mean alone
    assert credit.reward_units([[1, 3], [4, 10], [5, 5]]) == pytest.approx((28 / 6, sqrt((1 + 1 + 9 + 9) / 4)))
    assert credit.reward_units([[2, 2], [4]]) == pytest.approx((8 / 3, 1.0))


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


@pytest.mark.parametrize("lengths", [(1000,) * 8, (1000, 1000, 1000, 30, 700, 5, 1000, 400)])
def test_a_fresh_critic_starts_where_no_token_of_a_long_winner_is_worse_than_expected(lengths: tuple[int, ...]) -> None:
    found = learning.algorithm("ppo")
    rewards = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.25, 0.75]
    mask = table([[1.0] * length + [0.0] * (1000 - length) for length in lengths])
    zeros = torch.zeros_like(mask)
    given = before(rewards, zeros, zeros, zeros, mask, ("a",) * 8)

    def negative(initial: InitialBatch) -> float:
        assert found.credit is not None
        advantages = found.credit(initial, found.defaults).advantages
        winners = torch.tensor(rewards).unsqueeze(1) == 1
        return float((advantages < 0)[winners & (mask > 0)].double().mean())

    assert found.first_value is not None
    value = found.first_value(given, found.defaults)
    assert negative(given) > 0.8
    assert negative(msgspec.structs.replace(given, values=value * mask)) == 0
    if len(set(lengths)) == 1:
        assert value == pytest.approx(0.5)


def test_the_first_value_by_hand() -> None:
    found = learning.algorithm("ppo")
    # lambda .5, rewards 1 and 0, two tokens and one: A sums to (1 - V) 1.5 and -V, so V is .6
    given = before([1.0, 0.0], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, [[1, 1], [1, 0]], ("a", "a"))
    assert found.first_value is not None
    assert found.first_value(given, {**found.defaults, "lam": 0.5}) == pytest.approx(0.6)


def test_a_mean_that_is_rounding_is_not_taken_off() -> None:
    values, mask = table([[0.5, -0.5, 0.0, 1e-9]]), torch.ones(1, 4, dtype=torch.float64)
    assert credit.standardised(values, mask)[0, 2] == 0
    assert credit.standardised(values + 0.1, mask)[0, 2] == pytest.approx(0, abs=1e-6)


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


WITH_KL = sorted(name for name in learning.NAMES if "kl_published" in learning.algorithm(name).defaults)
PI, SAMPLER, BASE = (0.5, 0.25, 0.125, 0.125), (0.25, 0.125, 0.125, 0.5), (0.1, 0.2, 0.3, 0.4)
"""Four tokens under three policies; of the sampler, eight rows hold each token as often as it is drawn."""


def kl_gradient(name: str, sampler: tuple[float, ...], **hyper: float) -> tuple[float, list[float]]:
    """What kl 1 adds to a loss over all that the sampler gives, and to its gradient with respect to PI's logits."""
    tokens = [token for token, share in enumerate(sampler) for _ in range(round(8 * share))]

    def found(kl: float) -> tuple[float, torch.Tensor]:
        logits = torch.tensor(PI, dtype=torch.float64).log().requires_grad_()
        logp = torch.log_softmax(logits, 0)[tokens].unsqueeze(1)
        pi, drawn, base = (table([log(of[token]) for token in tokens]) for of in (PI, sampler, BASE))
        of = msgspec.structs.replace(terms_of(pi, sampled=drawn, old=pi, base=base), logp=logp)
        algorithm = learning.algorithm(name)
        value = algorithm.loss(of, {**algorithm.defaults, "length": 1.0, "truncation": 1e9, **hyper, "kl": kl})
        return float(value.detach()), torch.autograd.grad(value, logits)[0]

    (with_kl, slope), (without, bare) = found(1.0), found(0.0)
    return with_kl - without, (slope - bare).tolist()


def divergence(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(p * log(p / q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("sampler", [PI, SAMPLER], ids=["on policy", "stale"])
@pytest.mark.parametrize("name", WITH_KL)
def test_the_kl_term_has_the_value_and_the_gradient_of_the_policys_divergence_from_the_base(
    name: str, sampler: tuple[float, ...]
) -> None:
    value, slope = kl_gradient(name, sampler)
    kl = divergence(PI, BASE)
    assert value == pytest.approx(kl, abs=1e-12)
    # d KL(pi || base) / d logit_y = pi_y (log(pi_y / base_y) - KL)
    assert slope == pytest.approx([p * (log(p / q) - kl) for p, q in zip(PI, BASE, strict=True)], abs=1e-12)


@pytest.mark.parametrize("sampler", [PI, SAMPLER], ids=["on policy", "stale"])
@pytest.mark.parametrize("name", WITH_KL)
def test_the_published_form_has_the_same_value_and_the_gradient_of_the_other_divergence(
    name: str, sampler: tuple[float, ...]
) -> None:
    value, slope = kl_gradient(name, sampler, kl_published=1.0)
    assert value == pytest.approx(divergence(PI, BASE), abs=1e-12)
    # d KL(base || pi) / d logit_y = pi_y - base_y
    assert slope == pytest.approx([p - q for p, q in zip(PI, BASE, strict=True)], abs=1e-12)


def test_the_weight_of_a_stale_rows_kl_is_truncated_in_both_forms() -> None:
    # pi .4 of a token that was sampled at .1 and that the base gives .2: a ratio of 4, truncated to 1.5
    k3 = 0.5 + log(2) - 1
    for hyper, expected in (({}, 1.5 * log(2)), ({"kl_published": 1.0}, 1.5 * (1 - 0.5))):
        logp = table([log(0.4)]).requires_grad_()
        given = terms_of([log(0.4)], sampled=[log(0.1)], old=[log(0.4)], base=[log(0.2)])
        of = msgspec.structs.replace(given, logp=logp)
        term = terms.kl_penalty(of, {"kl": 1.0, "kl_published": 0.0, "truncation": 1.5, **hyper})
        assert float(term.detach()) == pytest.approx(1.5 * k3)
        assert float(torch.autograd.grad(term.sum(), logp)[0]) == pytest.approx(expected)


def test_no_kl_term_is_computed_where_its_weight_is_0() -> None:
    of = terms_of([log(0.4)], base=[float("-inf")])
    assert not terms.kl_penalty(of, {"kl": 0.0, "kl_published": 0.0, "truncation": 2.0}).any()


def test_reinforce_on_stale_rollouts_has_the_gradient_of_the_trained_policys_divergence() -> None:
    tokens = [token for token, share in enumerate(SAMPLER) for _ in range(round(8 * share))]
    pi, drawn, base = (table([log(of[token]) for token in tokens]) for of in (PI, SAMPLER, BASE))
    count = len(tokens)
    ones, rewards = torch.ones_like(pi), torch.tensor([float(token) for token in tokens], dtype=torch.float64)
    given = msgspec.structs.replace(
        before(rewards.tolist(), drawn, base, torch.zeros_like(pi), ones, ("a",) * count), old=pi
    )
    found = learning.algorithm("reinforce")
    hyper = {**found.defaults, "kl": 0.7, "truncation": 1e9}
    assert found.credit is not None
    logits = torch.tensor(PI, dtype=torch.float64).log().requires_grad_()
    of = terms_of(pi, sampled=drawn, base=base, advantages=found.credit(given, hyper).advantages)
    of = msgspec.structs.replace(of, logp=torch.log_softmax(logits, 0)[tokens].unsqueeze(1))
    (slope,) = torch.autograd.grad(found.loss(of, hyper), logits)
    # d (.7 KL(pi || base) - E r) / d logit_y, whatever the group's mean is: its score has the mean 0 under pi
    kl, mean = divergence(PI, BASE), sum(p * token for token, p in enumerate(PI))
    assert slope.tolist() == pytest.approx(
        [p * (0.7 * (log(p / q) - kl) - (y - mean)) for y, (p, q) in enumerate(zip(PI, BASE, strict=True))], abs=1e-12
    )


@pytest.mark.parametrize("nats", [90.0, 1000.0])
@pytest.mark.parametrize("published", [0.0, 1.0])
@pytest.mark.parametrize("name", WITH_KL)
def test_a_token_that_the_policy_gave_up_leaves_loss_and_gradient_finite(
    name: str, published: float, nats: float
) -> None:
    for sampled in (-1.0, -1.0 - nats):  # by a policy that still gave it, and by the one that is trained
        logp = torch.tensor([[-1.0 - nats, -1.0]], requires_grad=True)
        one, last = torch.ones(1, 2), torch.tensor([[sampled, -1.0]])
        of = Terms(
            logp=logp,
            sampled=last,
            old=last,
            base=-one,
            advantages=-one,
            mask=one,
            **{field: torch.zeros(1, 2) for field in ("entropy", "values", "old_values", "returns")},
        )
        found = learning.algorithm(name)
        value = found.loss(of, {**found.defaults, "kl": 0.05, "kl_published": published})
        (slope,) = torch.autograd.grad(value, logp)
        assert torch.isfinite(value) and torch.isfinite(slope).all()
        # the KL term alone never pushes it further down
        term = terms.kl_penalty(of, {"kl": 0.05, "kl_published": published, "truncation": 2.0})
        assert float(torch.autograd.grad(term.sum(), logp)[0][0, 0]) <= 0


def test_k3_goes_on_as_its_tangent_where_the_exponential_would_overflow() -> None:
    near, far = (float(terms.k3(table([-d]), table([0.0]))) for d in (terms.FAR, terms.FAR + 3))
    assert near == pytest.approx(exp(terms.FAR) - terms.FAR - 1)
    assert far - near == pytest.approx(3 * (exp(terms.FAR) - 1))


def test_a_ratio_beyond_all_bounds_is_a_number_and_has_no_gradient() -> None:
    logp = torch.zeros(1, 1, requires_grad=True)
    rho = terms.ratio(logp, torch.tensor([[-200.0]]))
    assert torch.isfinite(rho).all() and not torch.autograd.grad(rho.sum(), logp)[0].any()


# Losses


def test_grpo_clips_the_ratio_only_where_that_lowers_the_objective() -> None:
    # ratios 2, .5 and .5 at advantages 1, 1 and -1: -min(2, 1.28), -min(.5, .8), -min(-.5, -.8)
    of = terms_of(
        [log(0.4), log(0.2), log(0.2)],
        sampled=[log(0.2), log(0.4), log(0.4)],
        base=[log(0.4), log(0.2), log(0.1)],
        advantages=[1.0, 1.0, -1.0],
    )
    k3 = exp(log(0.5)) - log(0.5) - 1  # the third alone has left the base, and its ratio is .5
    assert isclose(loss("grpo", of, kl=0.5), (-1.28 - 0.5 + 0.8 + 0.5 * 0.5 * k3) / 3, abs_tol=1e-6)
    assert isclose(loss("grpo", of, kl=0.5, kl_published=1.0), (-1.28 - 0.5 + 0.8 + 0.5 * k3) / 3, abs_tol=1e-6)


def test_grpo_weighs_a_stale_rollout_by_how_likely_the_parent_was_to_give_it() -> None:
    of = terms_of([log(0.4), log(0.4)], old=[log(0.4), log(0.4)], sampled=[log(0.8), log(0.1)], advantages=[1.0, 1.0])
    assert loss("grpo", of, truncation=2.0) == pytest.approx(-(0.5 + 2.0) / 2)


def test_grpo_averages_over_tokens_or_within_each_answer_first() -> None:
    of = terms_of([[-1.0] * 3] * 2, advantages=[[1.0] * 3, [-1.0] * 3], mask=[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert loss("grpo", of) == pytest.approx((-3 + 1) / 4)
    assert loss("grpo", of, token_mean=0.0) == pytest.approx((-1 + 1) / 2)
    assert loss("dr_grpo", of, length=2.0) == pytest.approx((-3 / 2 + 1 / 2) / 2)


def test_a_step_of_every_policy_gradient_makes_the_better_answer_likelier() -> None:
    for name in ("grpo", "dr_grpo", "gspo", "rloo", "entropic", "max_rl", "opsd", "reinforce", "ppo", "ttrl"):
        logp = table([log(0.5), log(0.5)]).requires_grad_()
        of = terms_of(logp.detach().flatten().tolist(), advantages=[1.0, -1.0])
        found = learning.algorithm(name)
        value = found.loss(
            Terms(**{field: getattr(of, field) for field in Terms.__struct_fields__} | {"logp": logp}), found.defaults
        )
        (slope,) = torch.autograd.grad(value, logp)
        assert slope[0] < 0 < slope[1], name


def test_gspo_clips_whole_answers_by_the_geometric_mean_of_their_ratios() -> None:
    # ratios 2 and 1 (and one that the policy was told): 2^.5 at advantage 1; .5 at 1; .5 at -1
    of = terms_of(
        [[log(0.4), log(0.2), 0.0], [log(0.2), 0.0, 0.0], [log(0.2), 0.0, 0.0]],
        sampled=[[log(0.2), log(0.2), -99.0], [log(0.4), 0.0, 0.0], [log(0.4), 0.0, 0.0]],
        advantages=[[1.0] * 3, [1.0] * 3, [-1.0] * 3],
        mask=[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
    )
    assert loss("gspo", of, clip_low=0.1, clip_high=0.3) == pytest.approx((-1.3 - 0.5 + 0.9) / 3)
    assert loss("gspo", of, clip_low=0.1, clip_high=0.5) == pytest.approx((-sqrt(2) - 0.5 + 0.9) / 3)


def test_gspo_is_grpo_with_means_by_answer_where_answers_have_one_token() -> None:
    of = terms_of(
        [log(0.4), log(0.2), log(0.2)],
        sampled=[log(0.2), log(0.4), log(0.4)],
        base=[log(0.4), log(0.2), log(0.1)],
        advantages=[1.0, 1.0, -1.0],
    )
    same = {"clip_low": 0.2, "clip_high": 0.28, "kl": 0.5}
    assert loss("gspo", of, **same) == pytest.approx(loss("grpo", of, token_mean=0.0, **same))


def test_gspo_moves_all_tokens_of_an_answer_alike_and_those_of_a_clipped_one_not_at_all() -> None:
    logp = table([[log(0.3), log(0.2)], [log(0.4), log(0.4)]]).requires_grad_()
    old = [[log(0.2), log(0.3)], [log(0.2), log(0.2)]]  # ratios 1.5 and 2/3, and 2 and 2
    of = terms_of(logp.detach().tolist(), sampled=old, advantages=[[1.0, 1.0], [1.0, 1.0]])
    found = learning.algorithm("gspo")
    value = found.loss(
        Terms(**{field: getattr(of, field) for field in Terms.__struct_fields__} | {"logp": logp}), found.defaults
    )
    (slope,) = torch.autograd.grad(value, logp)
    assert slope.tolist() == [pytest.approx([-1 / 4, -1 / 4]), [0, 0]]


def test_gspo_weighs_a_stale_answer_by_the_geometric_mean_too() -> None:
    of = terms_of([[log(0.4), log(0.1)]], old=[[log(0.4), log(0.1)]], sampled=[[log(0.1), log(0.1)]])
    assert loss("gspo", of, truncation=9.0) == pytest.approx(-2)
    assert loss("gspo", of, truncation=1.5) == pytest.approx(-1.5)


def test_rloo_and_its_kin_descend_the_weighted_log_probability() -> None:
    # ratios 2 (truncated to 1.5) and .5
    of = terms_of([log(0.4), log(0.2)], sampled=[log(0.2), log(0.4)], advantages=[2.0, -1.0], base=[log(0.4), log(0.1)])
    k3 = 0.5 + log(2) - 1
    expected = (-1.5 * 2 * log(0.4) + 0.5 * log(0.2) + 0.1 * 0.5 * k3) / 2
    for name in ("rloo", "entropic", "max_rl", "opsd"):
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


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "rloo", "max_rl", "entropic"])
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
        ("gspo", [rollout("a", 0, 0), rollout("a", 1, 0)], "In each of 1 groups"),
        ("max_rl", [rollout("a", 0, 0), rollout("a", 1, 0)], "In each of 1 groups"),
        ("opsd", [rollout("a", 0, 0), rollout("a", 1, 0, hint="b", own=False)], "To none of 2 answers"),
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
        rollout("a", 6, 0, "1 a"),
        rollout("b", 2, 0, "1 b"),
        rollout("a", 3, 1, "2 a"),
        rollout("b", 5, 1, "2 b"),
    ]
    assert [(r.item, r.tokens) for r in select("best_of_n", rounds).rollouts] == [("a", (3,)), ("b", (5,))]


def test_cloning_drops_items_whose_attempts_all_earned_the_same_over_all_rounds() -> None:
    right = [rollout("a", 3, 1, "1 a"), rollout("a", 4, 1, "1 a"), rollout("a", 5, 1, "2 a")]
    graded = [rollout("b", 1, 0.3), rollout("b", 2, 0.1 + 0.2)]  # the same but for rounding
    better = [rollout("c", 1, 0.2, "1 c"), rollout("c", 2, 0.1, "2 c")]
    assert [(r.item, r.tokens) for r in select("best_of_n", right + graded + better).rollouts] == [("c", (1,))]
    with pytest.raises(NothingToLearn, match="None of 5 attempts at 2 items has a positive reward that is better"):
        select("best_of_n", right + graded)
    alone = [rollout("d", t, 1.0, attempt="one") for t in (7, 8)]  # two sequences of one attempt
    assert [r.tokens for r in select("best_of_n", right + alone).rollouts] == [(7,), (8,)]
    with pytest.raises(NothingToLearn, match="positive reward"):
        select("best_of_n", [rollout("a", 1, -2), rollout("a", 2, -1)])


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


def voted(group: str, answers: str, **more: Any) -> list[Rollout]:
    return [rollout(group, t, float("nan"), answer=a.strip("."), **more) for t, a in enumerate(answers)]


def test_ttrl_needs_two_votes_and_more_than_any_other_answer_has() -> None:
    single = voted("a", "xy")  # one vote each: the first would be the label for coming first
    split = voted("b", "xxyy")
    agreed = voted("c", "xxyz.")
    alike = voted("d", "zzzz")
    silent = voted("e", "....")
    selected = select("ttrl", [*single, *split, *agreed, *alike, *silent])
    assert {r.item for r in selected.rollouts} == {"c"} and selected.tied_groups == 0.8
    assert [(v.group, v.answer, v.votes) for v in selected.votes] == [
        ("a", "x", 1),
        ("b", "x", 2),
        ("c", "x", 2),
        ("d", "z", 4),
        ("e", "", 0),
    ]
    with pytest.raises(NothingToLearn, match="two votes, more than the others, and more than guesses give"):
        select("ttrl", [*single, *split])


def test_ttrl_needs_more_votes_than_guesses_among_the_choices_give() -> None:
    two, three = voted("a", "xxyz", choices=("x", "y", "z", "w")), voted("b", "xxxz", choices=("x", "y", "z", "w"))
    many = voted("c", "xxyz", choices=tuple(map(str, range(20))))
    selected = select("ttrl", [*two, *three, *many])  # chance gives 2.13 of 4 votes among 4, 1.29 among 20
    assert {r.item for r in selected.rollouts} == {"b", "c"} and len(selected.votes) == 3
    with pytest.raises(NothingToLearn, match="more than guesses give"):
        select("ttrl", two)


def test_a_teacher_is_asked_about_ones_own_answers_to_items_whose_truth_is_known() -> None:
    rollouts = [rollout("a", 1, 0, hint="x"), rollout("b", 2, 0), rollout("c", 3, 0, hint="z", own=False)]
    assert [r.item for r in select("opsd", rollouts).rollouts] == ["a"]


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


def test_turns_sampled_at_different_temperatures_are_sequences_of_their_own() -> None:
    turns = [
        PolicyTurn((1,), (2,), (-0.1,), 0.7, cut=True),
        PolicyTurn((1, 2, 9), (3,), (-0.2,), 0.7),
        PolicyTurn((1, 2, 9, 3), (4,), (-0.3,), 1.0, cut=True),
    ]
    first, second = merge(turns)
    assert (first.tokens, first.mask, first.temperature, first.cut) == ((2, 9, 3), (1, 0, 1), 0.7, False)
    assert (second.first, second.tokens, second.mask, second.temperature, second.cut) == (2, (4,), (1,), 1.0, True)


def test_what_was_taken_at_temperature_0_is_no_sample_and_what_was_sampled_goes_on_from_it() -> None:
    turns = [
        PolicyTurn((1,), (2,), (-0.1,), 0.0),
        PolicyTurn((1, 2), (3,), (-0.2,), 0.7),
        PolicyTurn((1, 2, 3), (4,), (-0.3,), 0.0),
        PolicyTurn((8,), (9,), (-0.4,), 0.0),
    ]
    first, second = merge(turns)
    assert (first.tokens, first.mask, first.logprobs, first.temperature) == (
        (2, 3, 4),
        (0, 1, 0),
        (0.0, -0.2, 0.0),
        0.7,
    )
    assert (second.mask, second.temperature) == ((0,), 0.0)


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
