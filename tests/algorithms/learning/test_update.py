"""The loop around a loss, with a model of three logits and a value, so that every figure of a step can be worked by
hand.
"""

import itertools
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from math import exp, log
from statistics import fmean
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from algorithms import learning  # noqa: E402
from algorithms.learning import algorithm  # noqa: E402
from algorithms.learning.batch import Mismatch, NothingToLearn, Rollout, Terms  # noqa: E402
from algorithms.learning.update import (  # noqa: E402
    WARMUP,
    Outputs,
    TrainingState,
    UpdateResult,
    adam,
    pack,
    prepare,
    report,
    settings,
    steer_kl,
    update,
    version_lags,
)
from events.errors import UsageError  # noqa: E402

UNIFORM = -log(3)


class Three:
    """Tokens 0 to 2, whatever the prompt; the base finds them equally likely, and the adapter is their logits."""

    width = 128

    def __init__(self, logits: Sequence[float] = (0.0, 0.0, 0.0), value: float | None = None) -> None:
        self.adapter = [torch.nn.Parameter(torch.tensor(logits))]
        self.critic = [] if value is None else [torch.nn.Parameter(torch.tensor([value]))]
        self.seen: list[list[str]] = []

    @property
    def at_base(self) -> bool:
        return not bool(self.adapter[0].any())

    def prompts_read_once(self) -> AbstractContextManager[None]:
        return nullcontext()

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        lengths = {index: len(rollout.tokens) for index, rollout in enumerate(rollouts)}
        return pack([range(at, at + width) for at in range(0, len(rollouts), width)], lengths, tokens)

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        self.seen.append([r.item for r in rollouts])
        longest = max(len(r.tokens) for r in rollouts)
        mask = torch.tensor([[*[1.0] * len(r.tokens), *[0.0] * (longest - len(r.tokens))] for r in rollouts])
        temperature = torch.tensor([[r.temperature] for r in rollouts])
        logs = torch.log_softmax((torch.zeros(3) if base else self.adapter[0]) / temperature, 1)
        logp = logs.gather(1, torch.tensor([[*r.tokens, *[0] * (longest - len(r.tokens))] for r in rollouts])) * mask
        entropy = -(logs.exp() * logs).sum(1, keepdim=True) * mask
        return Outputs(logp, entropy, self.values(logp) * mask)

    def values(self, logp: Any) -> Any:
        return self.critic[0].expand_as(logp) if self.critic else torch.zeros_like(logp)


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
    units = {"scale": 1.0} if "scale" in algorithm(name).defaults else {}
    return update(model or Three(), algorithm(name), rollouts, {"epochs": 1, **units, **hyper}, seed=0, parent="a")


PAIR = [rollout(0, 1.0), rollout(1, 0.0)]


def test_a_first_step_on_policy_has_ratio_1_clips_nothing_and_has_left_the_base_by_nothing() -> None:
    (step,) = run("grpo", PAIR).steps
    assert [step.ratio_mean, step.ratio_max] == pytest.approx([1, 1])
    assert (step.clip_share, step.tokens) == (0, 2) and step.kl_to_base == pytest.approx(0, abs=1e-6)
    assert step.entropy == pytest.approx(log(3))


def test_rollouts_of_an_older_adapter_weigh_what_the_parent_would_give_for_them() -> None:
    older = [rollout(0, 1.0, log(2 / 3), adapter="older"), rollout(1, 0.0, log(1 / 12), adapter="older")]
    (step,) = run(
        "dr_grpo", older, length=1.0, scale=1.0
    ).steps  # weights 1/2 and 4, truncated to 2; advantages 1/2 and -1/2
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
    whole = run("ppo", PAIR, Three(value=0.25), scale=1.0, lam=1.0, value=1.0, critic_lr=0.5)
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


def test_a_critic_learns_rewards_less_their_mean_over_their_spread_and_goes_on_in_that_unit() -> None:
    left = run("ppo", [rollout(0, 30.0), rollout(1, 10.0)], Three(value=0.25), scale=0.0, lam=1.0, value=1.0)
    # mean 20, standard deviation 10: returns of 1 and -1
    assert left.steps[0].loss == pytest.approx((0.75**2 + 1.25**2) / 2 / 2, abs=1e-5)
    assert left.state["rewards"].tolist() == [20.0, 10.0]

    def again(state: TrainingState) -> float:
        value = Three(value=0.0)
        batch, how = [rollout(0, 60.0), rollout(1, 40.0)], {"epochs": 1, "lam": 1.0, "value": 1.0}
        return update(value, algorithm("ppo"), batch, how, seed=0, parent="a", state=state).steps[0].loss

    stood = float(left.state["critic.0"])
    assert again(left.state) == pytest.approx(((4 - stood) ** 2 + (2 - stood) ** 2) / 2 / 2, abs=1e-4)
    older = {name: value for name, value in left.state.items() if name != "rewards"}  # as states were, in raw rewards
    assert again(older) == pytest.approx(((60 - stood) ** 2 + (40 - stood) ** 2) / 2 / 2, rel=1e-4)


def test_a_critic_begins_anew_where_the_spread_of_rewards_is_of_another_order() -> None:
    batch = [rollout(0, 1e6), rollout(1, 0.0)]
    first = run("ppo", batch, Three(value=0.0), scale=0.0, lam=1.0, value=1.0).state
    assert first["rewards"].tolist() == [5e5, 5e5]
    model = Three(value=9.0)
    later = prepare(model, algorithm("ppo"), PAIR, {"lam": 1.0}, parent="a", state=first)
    assert later.units == (0.5, 0.5) and later.state
    assert [float(later.state[name]) for name in ("critic.0", "step.1", "exp_avg.1", "exp_avg_sq.1")] == [0] * 4
    assert float(model.critic[0].detach()) == pytest.approx(0, abs=1e-6)  # the value at which 1 and -1 have the mean 0
    assert later.credit.advantages.flatten().tolist() == pytest.approx([1, -1], abs=1e-5)
    near = [rollout(0, 3e6), rollout(1, 0.0)]
    assert prepare(Three(value=9.0), algorithm("ppo"), near, {}, parent="a", state=first).units == (5e5, 5e5)


def test_a_critics_large_gradient_does_not_scale_the_adapters_down() -> None:
    steps = [
        run("ppo", PAIR, Three(value=value), lam=1.0, value=1.0, max_grad_norm=0.1).state["exp_avg.0"]
        for value in (1e-9, 1e6)
    ]
    assert float(steps[0].norm()) == pytest.approx(0.01, rel=1e-3) == float(steps[1].norm())


def test_the_unit_of_rewards_is_their_spread_within_groups_unless_it_is_given() -> None:
    batch = [rollout(0, 7.0), rollout(1, 3.0), rollout(0, 11.0, group="h"), rollout(1, 1.0, group="h")]
    unit = ((2**2 + 2**2 + 5**2 + 5**2) / 4) ** 0.5
    for name, distances in (("dr_grpo", (2, -2, 5, -5)), ("reinforce", (2, -2, 5, -5)), ("rloo", (4, -4, 10, -10))):
        found = [
            prepare(Three(), algorithm(name), batch, {"kl": 0.0, **given}, parent="a").credit.advantages.flatten()
            for given in ({}, {"scale": 2.0})
        ]
        assert found[0].tolist() == pytest.approx([one / unit for one in distances]), name
        assert found[1].tolist() == pytest.approx([one / 2 for one in distances]), name
    tiny = [rollout(0, 3e-9), rollout(1, 1e-9)]
    assert prepare(Three(), algorithm("rloo"), tiny, {"scale": 1.0}, parent="a").credit.advantages.any()


UNITS = (1e-6, 1e-3, 1.0, 1e3, 1e6)
SHIFTED = {"grpo", "gspo", "dr_grpo", "rloo", "entropic", "reinforce", "ppo", "dpo"}
"""The algorithms to which it is nothing if all rewards are larger by as much; the others know a zero, or no rewards."""


@pytest.mark.parametrize("name", [name for name in learning.NAMES if name != "opsd"])  # which asks for no rewards
def test_nothing_depends_on_the_unit_of_rewards(name: str) -> None:
    """Groups of eight, with rewards near to each other, a tie, a lone best and an outlier."""
    draw = random.Random(3)
    groups = [
        [draw.random() for _ in range(8)],
        [0.5, 0.50001, *[0.5] * 6],
        [0.25] * 8,
        [0.0] * 7 + [1.0],
        [0.1 + 0.2, *[0.3] * 7],
        [40.0, *(draw.random() for _ in range(7))],
    ]

    def learned(unit: float, shift: float = 0.0) -> tuple[list[Rollout], list[float]]:
        batch = [
            rollout(
                draw.randrange(3),
                unit * (reward + shift),
                group=f"g{number}",
                item=f"g{number}",
                answer="x" if place < 5 else f"{place}",
                real=(place % 3,),
                own=name != "test_time",
            )
            for number, rewards in enumerate(groups)
            for place, reward in enumerate(rewards)
        ]
        hyper = {"right": 0.5 * unit} if name == "star" else {"fixed_beta": 0.0} if name == "entropic" else {}
        ready = prepare(Three(value=0.0), algorithm(name), batch, hyper, parent="a")
        return [
            msgspec.structs.replace(r, reward=0.0) for r in ready.selected.rollouts
        ], ready.credit.advantages.tolist()

    draw.seed(4)
    rollouts, advantages = learned(1.0)
    for unit, shift in itertools.product(UNITS, (0.0, 3.0) if name in SHIFTED else (0.0,)):
        draw.seed(4)
        found = learned(unit, shift)
        assert found[0] == rollouts, (unit, shift)
        assert torch.tensor(found[1]).allclose(torch.tensor(advantages), rtol=1e-3, atol=1e-5), (unit, shift)


def test_the_value_is_clipped_about_what_it_was_before_the_update() -> None:
    hyper = {"scale": 1.0, "lam": 1.0, "value": 1.0, "critic_lr": 0.4, "epochs": 2, "clip_value": 0.1, "lr": 1e-9}
    steps = run("ppo", PAIR, Three(value=1e-9), **hyper).steps
    # after one step of .4 the value stands at .4, clipped to .1: the worse of (.4 - 1)^2 and (.1 - 1)^2, and of .4^2
    # and .1^2
    assert steps[1].loss == pytest.approx((0.81 + 0.16) / 2 / 2, abs=1e-3)


def test_the_weight_of_kl_goes_up_above_its_target_and_is_handed_on_only_while_it_is_steered() -> None:
    far = [rollout(0, 1.0, log(1 / 2)), rollout(1, 0.0, log(1 / 4))]
    steered = {"kl": 0.5, "kl_target": 1e-4, "lr": 1e-9}
    left = run("grpo", far, Three((log(2), 0.0, 0.0)), **steered).state
    assert float(left["kl"]) == pytest.approx(0.5 * exp(0.1))

    def again(**hyper: float) -> UpdateResult:
        how = {"epochs": 1, **hyper}
        return update(Three((log(2), 0.0, 0.0)), algorithm("grpo"), far, how, seed=0, parent="a", state=left)

    assert float(again(**steered).state["kl"]) == pytest.approx(0.5 * exp(0.1) ** 2)
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
    steps = model.seen[1:]
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


class Shown(Three):
    """As `Three`, but its base finds token 0 as likely as the others together where the prompt shows the answer."""

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        found = super().outputs(rollouts, base=base, dropout=dropout)
        if base and {r.prompt for r in rollouts} == {"p, it is 0"}:
            logs = torch.tensor([log(1 / 2), log(1 / 4), log(1 / 4)])
            found = msgspec.structs.replace(found, logp=logs[torch.tensor([r.tokens for r in rollouts])])
        return found


TAUGHT = [rollout(token, float("nan"), hint=", it is 0") for token in (0, 1, 2)]


def test_a_teacher_sees_the_hint_and_the_policy_does_not() -> None:
    (step,) = run("opsd", TAUGHT, Shown()).steps
    advantages = [log(1 / 2) - UNIFORM, log(1 / 4) - UNIFORM, log(1 / 4) - UNIFORM]
    assert step.loss == pytest.approx(-sum(a * UNIFORM for a in advantages) / 3, abs=1e-5)
    with pytest.raises(NothingToLearn, match="did better or worse"):
        run("opsd", [msgspec.structs.replace(r, hint="?") for r in TAUGHT], Shown())  # which changes nothing here


def test_a_policy_that_is_taught_ends_where_the_teacher_is() -> None:
    model, state = Shown(), None
    batch = [msgspec.structs.replace(r, adapter="older") for r in TAUGHT]  # weighed to the policy of each update
    for _ in range(150):
        how = {"epochs": 1, "lr": 0.05, "truncation": 1e6}
        state = update(model, algorithm("opsd"), batch, how, seed=0, parent="a", state=state).state
    assert torch.softmax(model.adapter[0].detach(), 0).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4], abs=0.02)


def test_where_answers_are_clipped_whole_the_share_is_that_of_answers() -> None:
    logs = [[log(0.4), log(0.1)], [log(0.4), log(0.4)]]  # ratios 2 and 1/2, whose geometric mean is 1, and 2 and 2
    tables = {name: torch.zeros(2, 2) for name in Terms.__struct_fields__}
    tables |= {"logp": torch.tensor(logs), "old": torch.full((2, 2), log(0.2)), "mask": torch.ones(2, 2)}
    tables |= {"sampled": tables["old"], "base": tables["logp"]}
    of, hyper = Terms(**tables), dict(algorithm("gspo").defaults)
    by_token, by_answer = (
        report(of, torch.ones(2, 2) > 0, 0.0, 0.0, 0.0, hyper, 0.0, sequences).clip_share for sequences in (False, True)
    )
    assert (by_token, by_answer) == (1.0, 0.5)


def test_demonstrations_are_not_held_against_what_was_sampled() -> None:
    shown = [msgspec.structs.replace(of, own=False, logprobs=(0.0,)) for of in PAIR]
    (step,) = run("test_time", shown).steps
    assert step.loss == pytest.approx(log(3)) and step.ratio_mean == pytest.approx(1)
    assert exp(-step.loss) == pytest.approx(1 / 3)


def long(tokens: tuple[int, ...], reward: float, **more: Any) -> Rollout:
    return rollout(0, reward, tokens=tokens, logprobs=tuple(log(1 / 2 if t == 0 else 1 / 4) for t in tokens), **more)


UNEVEN = [long((0,), 1.0, item="short"), long((1, 1, 1), 0.0, item="long")]
"""One answer of one token and one of three, to a model that gives 1/2, 1/4, 1/4."""


def of_parts(name: str, rollouts: list[Rollout], **hyper: float) -> tuple[Three, UpdateResult, list[float]]:
    """The model, the result, and the gradient of the one step; without bias correction AdamW's first moment is .1 of
    it.
    """
    model = Three((log(2), 0.0, 0.0))
    done = run(name, rollouts, model, max_grad_norm=1e9, **hyper)
    return model, done, (done.state["exp_avg.0"] / 0.1).tolist()


@pytest.mark.parametrize("forward_tokens", [1.0, 1e6])
def test_a_mean_over_tokens_is_that_of_one_forward_however_it_is_cut(forward_tokens: float) -> None:
    rewarded = [msgspec.structs.replace(of, reward=1.0, group=of.item) for of in UNEVEN]
    model, done, gradient = of_parts("best_of_n", rewarded, forward_tokens=forward_tokens)
    assert done.steps[0].loss == pytest.approx((log(2) + 3 * log(4)) / 4, abs=1e-6)
    assert gradient == pytest.approx([1 / 2 - 1 / 4, 1 / 4 - 3 / 4, 1 / 4], abs=1e-6)
    assert done.steps[0].grad_norm == pytest.approx((1 / 16 + 1 / 4 + 1 / 16) ** 0.5, abs=1e-6)
    assert done.steps[0].tokens == 4 and done.steps[0].ratio_max == pytest.approx(1)
    cut = [["long"], ["short"]] if forward_tokens == 1 else [["short", "long"]]
    assert model.seen == cut * 3  # under the parent, under the base, and for the step


@pytest.mark.parametrize("forward_tokens", [1.0, 1e6])
@pytest.mark.parametrize("token_mean", [1.0, 0.0])
def test_a_mean_within_each_answer_first_weighs_parts_by_rows(forward_tokens: float, token_mean: float) -> None:
    _, done, gradient = of_parts("grpo", UNEVEN, forward_tokens=forward_tokens, token_mean=token_mean)
    a = 1.0
    if token_mean:  # -(a (e_0 - p) - 3 a (e_1 - p)) / 4
        assert gradient == pytest.approx([-a / 2, 2.5 * a / 4, -a / 8], abs=1e-6)
        assert done.steps[0].loss == pytest.approx(2 * a / 4, abs=1e-6)
    else:  # -(a (e_0 - p) - a (e_1 - p)) / 2
        assert gradient == pytest.approx([-a / 2, a / 2, 0.0], abs=1e-6)
        assert done.steps[0].loss == pytest.approx(0.0, abs=1e-6)


def test_no_pair_is_divided_between_forwards() -> None:
    batch = [long((t,), float(t == 0), group=g, item=g + str(t)) for g in ("g", "h") for t in (0, 1)]
    model, done, gradient = of_parts("dpo", batch, beta=1.0, forward_tokens=1)
    assert sorted(map(sorted, model.seen[-2:])) == [["g0", "g1"], ["h0", "h1"]]
    margin = log(3 / 2) - log(3 / 4)
    assert done.steps[0].loss == pytest.approx(log(1 + exp(-margin)), abs=1e-6)
    weight = 1 / (1 + exp(margin))
    assert gradient == pytest.approx([-weight, weight, 0.0], abs=1e-6)


def test_a_part_in_which_the_policy_said_nothing_adds_nothing() -> None:
    told = long((2, 2), 1.0, item="told", mask=(0, 0))
    _, done, gradient = of_parts("grpo", [*UNEVEN, told], forward_tokens=2)
    assert gradient == pytest.approx(of_parts("grpo", [*UNEVEN, told], forward_tokens=1e6)[2], abs=1e-6)
    assert done.steps[0].tokens == 4 and any(gradient)


def test_a_fresh_adapter_is_the_base_and_is_not_looked_at_twice() -> None:
    fresh, moved = Three(), Three((log(2), 0.0, 0.0))
    run("grpo", PAIR, fresh)
    run("grpo", PAIR, moved, mismatch=1e9)
    assert (len(fresh.seen), len(moved.seen)) == (2, 3)


def test_rows_of_like_lengths_share_a_forward_as_far_as_tokens_go() -> None:
    lengths = dict(enumerate([3, 9, 2, 10, 3, 12]))
    singles = [(i,) for i in lengths]
    assert pack(singles, lengths, 20) == [[5], [1, 3], [0, 2, 4]]
    assert pack(singles, lengths, 1) == [[5], [3], [1], [0], [4], [2]]
    assert pack(singles, lengths, 72) == [[0, 1, 2, 3, 4, 5]]
    assert pack([(0, 1), (2, 3), (4, 5)], lengths, 48) == [[2, 3, 4, 5], [0, 1]]
    assert pack([(5, 0), (1, 4)], lengths, 48) == [[5, 0, 1, 4]]


# Step sizes


class Wide(Three):
    """The same on a wide base, with a critic that reads states of its width: a part that all have, and noise."""

    width = 4096

    def __init__(self) -> None:
        super().__init__()
        self.critic = [torch.nn.Parameter(torch.zeros(1, self.width)), torch.nn.Parameter(torch.zeros(1))]

    def values(self, logp: Any) -> Any:
        if not self.critic:
            return torch.zeros_like(logp)
        draw = torch.Generator().manual_seed(0)
        states = 0.5 + 0.87 * torch.randn(*logp.shape, self.width, generator=draw)
        return states @ self.critic[0][0] + self.critic[1]


def test_default_rates_fall_with_the_width_of_the_base_and_ordered_ones_do_not() -> None:
    ppo = algorithm("ppo")
    for width, lr, critic_lr, warmup in ((32, 1e-3, 1e-2, 0), (128, 1e-3, 1e-2, 0), (2048, 6.25e-5, 6.25e-4, WARMUP)):
        hyper = settings(ppo, {}, width)
        assert [hyper[name] for name in ("lr", "critic_lr", "warmup")] == pytest.approx([lr, critic_lr, warmup])
    ordered = settings(ppo, {"lr": 1e-3, "warmup": 0}, 2048)
    assert (ordered["lr"], ordered["warmup"]) == (1e-3, 0)
    assert settings(algorithm("best_of_n"), {}, 1280)["lr"] == pytest.approx(5e-5)


def test_a_scaled_rate_is_a_multiple_of_the_bases_default() -> None:
    moved = {}
    for name, more in {"half": {"lr_scale": 0.5}, "one": {}, "ordered": {"lr": 2e-4, "lr_scale": 3.0}}.items():
        model = Wide()
        model.critic = []
        run("grpo", PAIR, model, warmup=0, **more)
        moved[name] = float(model.adapter[0].detach().abs().max())  # Adam's first step is the rate
    rate = 1e-3 * 128 / 4096
    assert moved == pytest.approx({"half": rate / 2, "one": rate, "ordered": 6e-4}, rel=1e-3)


def test_the_rate_warms_up_over_the_steps_of_all_rounds() -> None:
    hyper = {**settings(algorithm("grpo"), {}), "lr": 1.0, "warmup": 4.0}
    state: dict[str, Any] | None = None
    moved = []
    for _ in range(2):  # rounds of three steps each
        model = Three()
        optimiser = adam(model, hyper, state)
        for _ in range(3):
            start = model.adapter[0].detach().clone()
            model.adapter[0].grad = torch.ones(3)
            optimiser.step()
            moved.append(float((start - model.adapter[0].detach())[0]))
        state = {f"{name}.0": value for name, value in optimiser.state[model.adapter[0]].items()}
    assert moved == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], rel=1e-4)


def test_the_critic_of_a_wide_base_keeps_to_the_range_of_rewards() -> None:
    def largest(**hyper: float) -> float:
        model = Wide()
        batch = [rollout(n % 3, 0.5 + n / 30, group=f"{n}") for n in range(16)]
        run("ppo", batch, model, epochs=5, **hyper)
        return float(model.outputs(batch).values.detach().abs().max())

    assert largest() < 2 < 5 < largest(critic_lr=1e-2)


def test_a_fresh_critic_knows_the_return_before_it_gives_advantages_and_a_trained_one_is_left_alone() -> None:
    def batch() -> list[Rollout]:
        return [rollout(0, reward, tokens=(0,) * 1000, logprobs=(UNIFORM,) * 1000) for reward in (1.0, 0.0, 1.0, 0.0)]

    fresh, trained = Wide(), Wide()
    with torch.no_grad():
        trained.critic[0][0, 0] = 1e-3
    ready = prepare(fresh, algorithm("ppo"), batch(), {"scale": 1.0}, parent="a")
    assert float(fresh.critic[1].detach()) == pytest.approx(0.5)
    assert torch.allclose(ready.initial.values, fresh.outputs(batch()).values)
    assert (ready.credit.advantages[0::2] >= 0).all() and (ready.credit.advantages[1::2] <= 0).all()
    prepare(trained, algorithm("ppo"), batch(), {}, parent="a")
    assert not trained.critic[1].any()


def test_a_token_90_nats_below_the_base_leaves_a_step_and_weights_that_are_finite() -> None:
    for nats in (90.0, 1000.0):
        model = Three((0.0, -nats, 0.0))
        logs = torch.log_softmax(torch.tensor((0.0, -nats, 0.0)), 0).tolist()
        batch = [rollout(0, 1.0, logs[0]), rollout(1, 0.0, logs[1])]
        for published in (0.0, 1.0):
            (step,) = run("grpo", batch, model, kl=0.1, kl_published=published).steps
            assert step.kl_to_base > 1 and torch.isfinite(model.adapter[0]).all()


def test_the_weight_of_kl_follows_its_distance_from_the_target_and_at_once_a_change_of_it() -> None:
    step = run("grpo", PAIR).steps[0]

    def after(nats: float, last: float | None, kl: float = 0.5) -> float:
        return steer_kl(kl, msgspec.structs.replace(step, kl_to_base=nats), last, {"kl_target": 0.1})

    assert after(0.1, 0.1) == 0.5
    assert after(0.2, None) == pytest.approx(0.5 * 2**0.1)
    assert after(0.2, 0.1) == pytest.approx(0.5 * 2**0.1 * 2**4)
    assert after(9.0, 0.1) == pytest.approx(0.5 * exp(0.1 + 4))  # no further than one nat of the ratio
    assert after(0.0, 0.1) == pytest.approx(0.5 * exp(-0.1 - 4))
    assert (after(9.0, None, 1e4), after(0.0, None, 1e-6)) == (1e4, 1e-6)


class Ten(Three):
    """Tokens 0 to 9; the base finds them equally likely."""

    def __init__(self) -> None:
        super().__init__((0.0,) * 10)

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        logs = torch.log_softmax(torch.zeros(10) if base else self.adapter[0], 0)
        logp = logs[torch.tensor([r.tokens for r in rollouts])]
        return Outputs(logp, -(logs.exp() * logs).sum().expand_as(logp), torch.zeros_like(logp))


@pytest.mark.parametrize(
    "name, kl, target", [("grpo", 0.05, 0.1), ("grpo", 0.01, 0.3), ("grpo", 0.5, 0.1), ("reinforce", 0.05, 0.1)]
)
def test_kl_reaches_its_target_within_tens_of_steps_and_stays_about_it(name: str, kl: float, target: float) -> None:
    """Rewards that grow with the token pull the policy away from the base for ever: untouched, KL ends at ln 10."""
    model, state, seen = Ten(), None, []
    draw = torch.Generator().manual_seed(0)
    for number in range(30):
        logs = torch.log_softmax(model.adapter[0].detach(), 0)
        tokens = torch.multinomial(logs.exp(), 64, replacement=True, generator=draw).tolist()
        batch = [rollout(t, t / 9, float(logs[t]), group=f"{n // 8}") for n, t in enumerate(tokens)]
        hyper = {"lr": 0.05, "kl": kl, "kl_target": target}
        state = update(model, algorithm(name), batch, hyper, seed=number, parent="a", state=state).state
        logs = torch.log_softmax(model.adapter[0].detach(), 0)
        seen.append(float((logs.exp() * (logs + log(10))).sum()))
    assert target / 1.6 < fmean(seen[15:]) < 1.6 * target
    assert max(seen) < 4 * target


# What was recorded against what the trainer computes


def long_answers(off: int, by: float = 8.0) -> list[Rollout]:
    """100 answers of 100 tokens, the first half right; the first tokens of `off` answers are recorded `by` nats off."""
    return [
        rollout(
            0,
            float(row < 50),
            tokens=(0, 1) * 50,
            logprobs=(UNIFORM + by if row < off else UNIFORM, *(UNIFORM,) * 99),
        )
        for row in range(100)
    ]


@pytest.mark.parametrize("by", [8.0, -8.0])
def test_one_token_in_10_000_that_is_off_is_left_out_and_counted(by: float) -> None:
    done = run("rloo", long_answers(1, by))
    (step,) = done.steps
    assert (done.masked_tokens, step.tokens, done.trained_on) == (1, 9_999, 100)
    # advantages of 50/99 and -50/99: those of the answers cancel but for the token that is left out
    advantage = 50 / 99
    assert step.loss == pytest.approx(advantage * UNIFORM / 9_999, abs=1e-6)
    assert step.ratio_max == pytest.approx(1)


def test_one_token_is_left_out_of_a_small_batch_too_and_two_are_not() -> None:
    few = [rollout(0, float(row < 32), UNIFORM + 8 * (row < 1)) for row in range(64)]
    assert run("rloo", few).masked_tokens == 1
    with pytest.raises(Mismatch, match="2 are off by more than 1 nats"):
        run("rloo", [rollout(0, float(row < 32), UNIFORM - 8 * (row < 2)) for row in range(64)])


def test_a_tokens_share_above_which_they_are_no_single_ones_refuses_the_batch_with_the_figures() -> None:
    assert run("rloo", long_answers(100)).masked_tokens == 100  # 1 % of 10,000
    with pytest.raises(
        Mismatch, match=r"mean k3 is 0\.066\d* nats, at most 0\.05 may be, and 100 are off by more than 1"
    ):
        run("rloo", long_answers(100, by=-2.3), off_share=0.0)  # (e^2.3 - 3.3) / 100
    with pytest.raises(Mismatch, match="50 are off by more than 1 nats"):
        run("rloo", long_answers(50, by=-8.0), off_share=0.001)
    assert run("rloo", long_answers(50, by=-8.0), off_share=0.001, mismatch=1e9).masked_tokens == 0


def test_the_other_tokens_must_still_be_the_parents() -> None:
    off = [rollout(0, float(row < 50), UNIFORM - 0.4) for row in range(100)]
    with pytest.raises(Mismatch, match=r"mean k3 is 0\.09\d* nats.* and 0 are off"):
        run("rloo", off)  # e^.4 - 1.4


def test_a_token_that_an_older_adapter_found_less_likely_is_not_off() -> None:
    done = run("rloo", [msgspec.structs.replace(r, adapter="older") for r in long_answers(1)])
    assert done.masked_tokens == 0 and done.steps[0].tokens == 10_000


def test_an_answer_of_which_no_token_is_left_is_no_row_of_a_mean_over_answers() -> None:
    batch = [rollout(0, 1.0), rollout(1, 0.0), rollout(2, 1.0, UNIFORM + 8)]
    done = run("grpo", batch, token_mean=0.0, off_share=0.5)
    assert (done.masked_tokens, done.trained_on, done.steps[0].tokens) == (1, 2, 2)
    # rewards 1, 0, 1: the third counts in the mean of 2/3 all the same
    assert done.steps[0].loss == pytest.approx(-(1 / 3 - 2 / 3) / 2 / (2**0.5 / 3), abs=1e-3)


def test_where_the_drift_is_in_the_reward_a_token_that_is_off_drifts_by_nothing() -> None:
    ready = prepare(Three(), algorithm("reinforce"), long_answers(1), {"kl": 0.1, "scale": 1.0}, parent="a")
    assert ready.credit.advantages[:50, 1].tolist() == pytest.approx([0.5] * 50, abs=1e-4)


# Versions of the adapter


def test_lags_are_counted_in_the_order_in_which_the_batch_shows_versions() -> None:
    batch = [rollout(0, 1.0, adapter=adapter) for adapter in ("", "a", "b", "a", "c")]
    assert version_lags(batch, "c") == [3, 2, 1, 2, 0]
    assert version_lags(batch, "d") == [4, 3, 2, 3, 1]  # nothing of the parent's own
    assert version_lags(batch, "") == [3, 2, 1, 2, 0]  # as where each round starts from the base again
    hinted = msgspec.structs.replace(batch[0], own=False)
    assert version_lags([hinted, *batch[1:]], "c") == [0, 2, 1, 2, 0]


@pytest.mark.parametrize(
    ("hyper", "left_out"),
    [({"max_lag": 0}, 4), ({"max_lag": 1}, 2), ({"max_lag": 2}, 0), ({}, 0), ({"stale": 0}, 4), ({"stale": 1}, 0)],
)
def test_rollouts_of_too_old_a_version_are_left_out_and_counted(hyper: dict[str, Any], left_out: int) -> None:
    batch = [msgspec.structs.replace(r, adapter=adapter) for adapter in ("", "older", "a") for r in PAIR]
    assert run("rloo", batch, **hyper).left_out == left_out


def test_where_all_are_too_old_the_reason_says_how_far_and_a_stale_of_2_is_out_of_range() -> None:
    older = [msgspec.structs.replace(r, adapter="older") for r in PAIR]
    with pytest.raises(NothingToLearn, match=r"1 versions or more from the parent, .* more than 0 away"):
        run("rloo", older, max_lag=0)
    with pytest.raises(UsageError, match="stale is 2; expected 0 to 1"):
        run("rloo", older, stale=2)


# Temperatures


def test_each_answer_is_trained_at_the_temperature_that_it_was_sampled_at() -> None:
    model = Three((2 * log(2), 0.0, 0.0))  # 2/3, 1/6, 1/6 at temperature 1; 1/2, 1/4, 1/4 at 2
    batch = [rollout(0, 1.0, log(2 / 3), temperature=2.0), rollout(1, 0.0, log(1 / 6))]
    (step,) = run("dr_grpo", batch, model, length=1.0).steps
    assert [step.ratio_mean, step.ratio_max] == pytest.approx([1, 1])
    first = -(1 / 2 * log(1 / 2) + 2 / 4 * log(1 / 4))
    second = -(2 / 3 * log(2 / 3) + 2 / 6 * log(1 / 6))
    assert step.entropy == pytest.approx((first + second) / 2)
    k3 = [(1 / 3) / p - 1 - log((1 / 3) / p) for p in (1 / 2, 1 / 6)]
    assert step.kl_to_base == pytest.approx(sum(k3) / 2, abs=1e-5)


def test_the_gradient_is_that_of_the_tempered_distribution() -> None:
    moved = Three((2 * log(2), 0.0, 0.0))
    batch = [rollout(0, 1.0, log(2 / 3), temperature=2.0), rollout(1, 0.0, log(1 / 6), temperature=2.0)]
    (step,) = run("rloo", batch, moved, lr=1e-9).steps
    # -A d log p / dz = -A ([j = y] - p_j) / 2, of tokens 0 and 1 with A = 1 and -1, over 2 tokens
    gradient = [-(1 - 1 / 2 - (0 - 1 / 2)) / 4, -(-1 / 4 - (1 - 1 / 4)) / 4, 0.0]
    assert step.grad_norm == pytest.approx(sum(g * g for g in gradient) ** 0.5, rel=1e-4)


def test_recorded_log_probabilities_are_compared_at_temperature_1_whatever_the_answers() -> None:
    with pytest.raises(Mismatch):  # those of temperature 2
        batch = [rollout(0, 1.0, log(1 / 2), temperature=2.0), rollout(1, 0.0, log(1 / 4), temperature=2.0)]
        run("rloo", batch, Three((2 * log(2), 0.0, 0.0)), mismatch=0.01)


def test_an_older_adapters_answers_at_another_temperature_have_no_ratio_and_are_refused_in_words() -> None:
    warm = [msgspec.structs.replace(r, adapter="older", temperature=0.5) for r in PAIR]
    with pytest.raises(UsageError, match=r"2 rollouts of older adapters were sampled at temperature 0\.5.*max_lag 0"):
        run("grpo", [*warm, *PAIR])
    assert run("best_of_n", [msgspec.structs.replace(r, item="one") for r in (*warm, *PAIR)]).trained_on == 1
    assert run("grpo", [*warm, *PAIR], max_lag=0).left_out == 2


# Answers that were cut at their limit


def test_a_cut_answer_gives_no_gradient_where_that_is_ordered_and_counts_in_its_groups_baseline() -> None:
    batch = [*PAIR, rollout(2, 1.0, cut=True)]
    assert run("rloo", batch).trained_on == 3
    done = run("rloo", batch, mask_cut=1)
    assert (done.trained_on, done.steps[0].tokens) == (2, 2)
    # less the mean of the others: 1 - 1/2 and 0 - 1
    assert done.steps[0].loss == pytest.approx(-(1 / 2 - 1) * UNIFORM / 2, abs=1e-5)


def test_a_pair_goes_as_a_whole_and_where_all_are_cut_there_is_nothing_to_learn() -> None:
    pairs = [rollout(t, float(t == 0), group=g, item=g, cut=g == "h" and t == 1) for g in ("g", "h") for t in (0, 1)]
    assert run("dpo", pairs, mask_cut=1).trained_on == 2
    with pytest.raises(NothingToLearn, match="All 2 sequences are left out of the loss: 2 were cut at their limit"):
        run("grpo", [msgspec.structs.replace(r, cut=True) for r in PAIR], mask_cut=1)


def test_a_long_answers_reward_falls_in_the_last_part_of_the_limit() -> None:
    batch = [rollout(0, 1.0, fill=0.9), rollout(1, 1.0, fill=0.4)]
    with pytest.raises(NothingToLearn):
        run("rloo", batch)
    ready = prepare(Three(), algorithm("rloo"), batch, {"overlong": 0.2, "scale": 1.0}, parent="a")
    assert [r.reward for r in ready.selected.rollouts] == pytest.approx([0.5, 1.0])
    assert ready.selected.advantages == pytest.approx((-0.5, 0.5))
    with pytest.raises(UsageError, match="ttrl asks for none; order overlong 0"):
        run("ttrl", batch, overlong=0.2)
    wrong = [rollout(0, 1.0), rollout(1, 0.0, fill=1.0)]
    with pytest.raises(UsageError, match=r"overlong 0.2 leaves one of -0.5; order overlong 0, and mask_cut 1"):
        run("max_rl", wrong, overlong=0.2)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_what_length_costs_is_in_the_unit_of_rewards_also_where_each_attempt_is_a_group(unit: float) -> None:
    batch = [rollout(n, unit * reward, group=f"{n}", fill=1.0) for n, reward in enumerate((0.0, 1.0, 0.5))]
    ready = prepare(Three(value=0.0), algorithm("ppo"), batch, {"overlong": 0.5, "scale": unit}, parent="a")
    spread = (1 / 6) ** 0.5
    assert [r.reward for r in ready.selected.rollouts] == pytest.approx([-spread, 1 - spread, 0.5 - spread])
