"""The loop around a loss, with a model of three logits and a value, so that every figure of a step can be worked by
hand.
"""

from collections.abc import Sequence
from itertools import chain
from math import exp, log
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from algorithms.learning import algorithm  # noqa: E402
from algorithms.learning.batch import Mismatch, NothingToLearn, Rollout  # noqa: E402
from algorithms.learning.update import Outputs, UpdateResult, update  # noqa: E402

UNIFORM = -log(3)


class Three:
    """Tokens 0 to 2, whatever the prompt; the base finds them equally likely, and the adapter is their logits."""

    def __init__(self, logits: Sequence[float] = (0.0, 0.0, 0.0), value: float | None = None) -> None:
        self.adapter = [torch.nn.Parameter(torch.tensor(logits))]
        self.critic = [] if value is None else [torch.nn.Parameter(torch.tensor([value]))]
        self.seen: list[list[str]] = []

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        self.seen.append([r.item for r in rollouts])
        logs = torch.log_softmax(torch.zeros(3) if base else self.adapter[0], 0)
        logp = logs[torch.tensor([r.tokens for r in rollouts])]
        entropy = -(logs.exp() * logs).sum().expand_as(logp)
        return Outputs(logp, entropy, self.critic[0].expand_as(logp) if self.critic else torch.zeros_like(logp))


def rollout(token: int, reward: float, logprob: float = UNIFORM, **more: Any) -> Rollout:
    given: dict[str, Any] = {
        "group": "g",
        "item": f"{token}",
        "prompt": "p",
        "tokens": (token,),
        "logprobs": (logprob,),
        "reward": reward,
        "adapter": "a",
    }
    return Rollout(**{**given, **more})


def run(name: str, rollouts: list[Rollout], model: Three | None = None, **hyper: float) -> UpdateResult:
    return update(model or Three(), algorithm(name), rollouts, {"epochs": 1, **hyper}, seed=0, parent="a")


PAIR = [rollout(0, 1.0), rollout(1, 0.0)]


def test_a_first_step_on_policy_has_ratio_1_clips_nothing_and_has_left_the_base_by_nothing() -> None:
    (step,) = run("grpo", PAIR).steps
    assert [step.ratio_mean, step.ratio_max] == pytest.approx([1, 1])
    assert (step.clip_share, step.tokens) == (0, 2) and step.kl_to_base == pytest.approx(0, abs=1e-6)
    assert step.entropy == pytest.approx(log(3))


def test_rollouts_of_an_older_adapter_weigh_what_the_parent_would_give_for_them() -> None:
    older = [rollout(0, 1.0, log(2 / 3), adapter="older"), rollout(1, 0.0, log(1 / 12), adapter="older")]
    (step,) = run("dr_grpo", older, length=1.0).steps  # weights 1/2 and 4, truncated to 2; advantages 1/2 and -1/2
    assert step.loss == pytest.approx((-0.5 * 0.5 + 2 * 0.5) / 2, abs=1e-5)
    assert step.ratio_max == pytest.approx(4)
    assert step.clip_share == 0  # the ratio that is clipped is the one to the parent


def test_kl_is_to_the_base_and_not_to_the_parent() -> None:
    model = Three((log(2), 0.0, 0.0))  # 1/2, 1/4, 1/4
    batch = [rollout(0, 1.0, log(1 / 2)), rollout(1, 0.0, log(1 / 4))]
    (step,) = run("grpo", batch, model).steps
    k3 = [(1 / 3) / p - 1 - log((1 / 3) / p) for p in (1 / 2, 1 / 4)]
    assert step.kl_to_base == pytest.approx(sum(k3) / 2, abs=1e-5)
    assert step.entropy == pytest.approx(1.5 * log(2))


def test_kl_weighs_each_token_by_its_ratio() -> None:
    model = Three((log(2), 0.0, 0.0))
    older = [rollout(0, 1.0, log(1 / 3), adapter="older"), rollout(1, 0.0, log(1 / 3), adapter="older")]
    k3 = [(1 / 3) / p - 1 - log((1 / 3) / p) for p in (1 / 2, 1 / 4)]
    assert run("rloo", older, model).steps[0].kl_to_base == pytest.approx((1.5 * k3[0] + 0.75 * k3[1]) / 2, abs=1e-5)


def test_dpo_measures_from_the_base_and_spin_from_the_parent() -> None:
    def batch() -> list[Rollout]:
        return [rollout(0, 1.0, log(1 / 2), real=(2,)), rollout(1, 0.0, log(1 / 4), real=(1,))]

    dpo = run("dpo", batch(), Three((log(2), 0.0, 0.0)), beta=1.0).steps[0].loss
    assert dpo == pytest.approx(log(1 + 1 / 2), abs=1e-5)  # gains log 3/2 and log 3/4
    assert run("spin", batch(), Three((log(2), 0.0, 0.0))).steps[0].loss == pytest.approx(log(2), abs=1e-5)


def test_the_critic_takes_part_in_the_advantage_and_is_restored() -> None:
    whole = run("ppo", PAIR, Three(value=0.25), lam=1.0, value=1.0, critic_lr=0.5)
    (step,) = whole.steps
    assert step.loss == pytest.approx(
        (0.75**2 + 0.25**2) / 2 / 2, abs=1e-5
    )  # standardised advantages cancel; returns 1 and 0
    fresh = Three(value=9.0)
    update(
        fresh,
        algorithm("ppo"),
        PAIR,
        {"epochs": 1, "critic_lr": 1e-9, "lr": 1e-9},
        seed=0,
        parent="a",
        state=whole.state,
    )
    assert float(fresh.critic[0].detach()) == pytest.approx(float(whole.state["critic.0"]))
    assert float(whole.state["critic.0"]) != 0.25


def test_the_value_is_clipped_about_what_it_was_before_the_update() -> None:
    steps = run(
        "ppo", PAIR, Three(value=0.0), lam=1.0, value=1.0, critic_lr=0.4, epochs=2, clip_value=0.1, lr=1e-9
    ).steps
    # after one step of .4 the value stands at .4, clipped to .1: the worse of (.4 - 1)^2 and (.1 - 1)^2, and of .4^2
    # and .1^2
    assert steps[1].loss == pytest.approx((0.81 + 0.16) / 2 / 2, abs=1e-3)


def test_the_weight_of_kl_goes_up_above_its_target_and_is_handed_on_only_while_it_is_steered() -> None:
    far = [rollout(0, 1.0, log(1 / 2)), rollout(1, 0.0, log(1 / 4))]
    steered = {"kl": 0.5, "kl_target": 1e-4, "lr": 1e-9}
    left = run("grpo", far, Three((log(2), 0.0, 0.0)), **steered).state
    assert float(left["kl"]) == pytest.approx(0.5 * 1.02)

    def again(**hyper: float) -> UpdateResult:
        how = {"epochs": 1, **hyper}
        return update(Three((log(2), 0.0, 0.0)), algorithm("grpo"), far, how, seed=0, parent="a", state=left)

    assert float(again(**steered).state["kl"]) == pytest.approx(0.5 * 1.02**2)
    fixed = again(kl=0.5)
    assert "kl" not in fixed.state
    assert fixed.steps[0].loss == pytest.approx(
        0.5 * fixed.steps[0].kl_to_base, abs=1e-5
    )  # the advantages cancel at ratio 1


def test_a_large_gradient_is_scaled_down_before_the_step() -> None:
    moved = {}
    for limit in (10.0, 1e-12):
        model = Three()
        moved[limit] = (
            float(run("grpo", PAIR, model, max_grad_norm=limit).steps[0].grad_norm),
            float(model.adapter[0].detach().abs().max()),
        )
    assert moved[10.0][0] == moved[1e-12][0] > 0.1
    assert moved[1e-12][1] < 0.01 * moved[10.0][1]


def test_minibatches_are_drawn_anew_each_epoch_and_keep_units_together() -> None:
    model = Three()
    batch = [rollout(token, float(token == 0), group=f"g{n}", item=f"g{n}") for n in range(6) for token in (0, 1)]
    run("grpo", batch, model, epochs=2, batch_groups=2)
    steps = model.seen[2:]
    assert all(len(items) == 4 and len(set(items)) == 2 for items in steps)
    assert sorted(chain(*steps[:3])) == sorted(chain(*steps[3:])) and steps[:3] != steps[3:]


def test_where_no_attempt_did_better_than_expected_nothing_moves() -> None:
    model = Three()
    with pytest.raises(NothingToLearn, match="did better or worse"):
        run("reinforce", [rollout(0, 1.0), rollout(1, 1.0)], model)
    with pytest.raises(NothingToLearn, match="did better or worse"):
        run("reinforce", [rollout(0, 1.0), rollout(1, 0.0, group="h")], model)
    assert not model.adapter[0].any()


def test_a_recorded_log_probability_that_is_not_finite_is_named() -> None:
    with pytest.raises(Mismatch, match="is not finite"):
        run("grpo", [*PAIR, rollout(2, 0.0, float("-inf"), adapter="older")])


def test_demonstrations_are_not_held_against_what_was_sampled() -> None:
    shown = [msgspec.structs.replace(of, own=False, logprobs=(0.0,)) for of in PAIR]
    (step,) = run("test_time", shown).steps
    assert step.loss == pytest.approx(log(3)) and step.ratio_mean == pytest.approx(1)
    assert exp(-step.loss) == pytest.approx(1 / 3)
