"""The text scorer: its arithmetic, its draws, and its training, on a toy of five labels."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from algorithms import learning
from algorithms.learning.batch import Diverged, Mismatch, NothingToLearn
from events.errors import CheckFailed, Misconfigured, UsageError
from runtime.policies import closed_vocabulary
from runtime.policies.interface import WHOLE
from runtime.policies.text_scorer import TextScorer, TextScorerBase, build_base, load, load_adapter, load_base
from runtime.policies.uniform import Uniform
from tests.harness.trainer import LABELS, TEXTS, ask

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from runtime.policies.training import (  # noqa: E402
    Sources,
    TrainingAttempt,
    TrainingCall,
    TrainingOrder,
    TrainingResult,
    load_state,
    open_trainee,
    rollouts_from,
    train,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_base(LABELS, TEXTS).save(tmp_path / "base")
    return tmp_path / "base"


def attempts(reward: float = 1.0) -> list[TrainingAttempt]:
    """One attempt at each text, answered with the label after its own, as the base would have given it."""
    base = TextScorer(build_base(LABELS, TEXTS))
    return [
        TrainingAttempt(
            id=text,
            group=text,
            item=text,
            adapter="",
            answer=LABELS[(place + 1) % 5],
            reward=reward,
            calls=(TrainingCall(ask(text), ((place + 1) % 5,), (base.log_probs(text)[(place + 1) % 5],)),),
        )
        for place, text in enumerate(TEXTS)
    ]


def order(folder: Path, algorithm: str = "best_of_n", seed: int = 0, **hyper: float) -> TrainingOrder:
    return TrainingOrder(
        base=folder,
        parent="",
        parent_folder=None,
        state=None,
        algorithm=algorithm,
        hyper=hyper,
        seed=seed,
        about={"events": "e"},
    )


def no_label(item: str) -> str:
    raise AssertionError("no algorithm here asks for labels")


SOURCES = Sources(no_label, lambda items: {})


def learn(of: TrainingOrder, batch: list[TrainingAttempt], out: Path) -> TrainingResult:
    return train(of, batch, SOURCES, out, out.with_suffix(".left"))


def test_the_base_answers_with_the_label_whose_name_is_nearest(folder: Path) -> None:
    answers = load(folder).sample([ask(text, temperature=0) for text in TEXTS])
    assert [answer.texts for answer in answers] == [(label,) for label in LABELS]


def test_a_base_comes_back_with_its_digest_and_a_damaged_one_is_refused(folder: Path) -> None:
    assert load_base(folder).digest == build_base(LABELS, TEXTS).digest
    card = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    (folder / "base.json").write_text(json.dumps({**card, "labels": card["labels"][::-1]}), encoding="utf-8")
    with pytest.raises(CheckFailed, match="build it again"):
        load_base(folder)


def test_log_probabilities_are_those_of_a_softmax_over_the_choices_with_their_bias(folder: Path) -> None:
    policy = load(folder)
    free = np.array(policy.log_probs(TEXTS[0]))[[2, 0]] + [1.5, 0.0]
    expected = free - np.log(np.exp(free).sum())
    sampled = policy.sample([ask(TEXTS[0], choices=(LABELS[2], LABELS[0]), bias=(1.5, 0.0), n=20, seed=3)])[0]
    for (token,), (logprob,) in zip(sampled.tokens, sampled.logprobs, strict=True):
        assert logprob == pytest.approx(expected[[2, 0].index(token)])


def test_a_draw_depends_on_its_own_request_only(folder: Path) -> None:
    policy = load(folder)
    requests = [ask(text, n=4, seed=seed) for text in TEXTS for seed in (0, 1)]
    together = policy.sample(requests)
    assert together == [load(folder).sample([request])[0] for request in requests]
    assert policy.sample([ask(TEXTS[0], n=2)])[0].tokens == policy.sample([ask(TEXTS[0], n=4)])[0].tokens[:2]


def test_draws_follow_the_probabilities() -> None:
    drawn = Counter(Uniform(LABELS[:2]).sample([ask("x", bias=(math.log(3), 0.0), n=4000)])[0].texts)
    assert drawn[LABELS[0]] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_low_temperature_sharpens_the_draw_and_leaves_the_log_probability() -> None:
    sampled = Uniform(LABELS[:2]).sample([ask("x", bias=(1.0, 0.0), n=50, temperature=0.01)])[0]
    assert set(sampled.texts) == {LABELS[0]}
    assert sampled.logprobs[0][0] == pytest.approx(-math.log(1 + math.exp(-1)))


def test_the_uniform_policy_breaks_ties_evenly_and_the_scorer_takes_the_first() -> None:
    drawn = Counter(s.texts[0] for s in Uniform(LABELS).sample([ask("x", temperature=0, seed=i) for i in range(2000)]))
    assert all(300 < count < 500 for count in drawn.values())
    assert len(drawn) == 5
    blank = TextScorer(build_base(LABELS, TEXTS)).sample([ask("@", temperature=0)])[0]
    assert blank.texts == (LABELS[0],)


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"choices": ("杀人",)}, "not one of"),
        ({"bias": (1.0,)}, "1 biases"),
        ({"choices": LABELS[:1], "bias": (math.inf,)}, "not finite"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(folder: Path, wrong: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        load(folder).sample([ask("x", **wrong)])


def test_an_empty_prompt_is_answered(folder: Path) -> None:
    assert load(folder).sample([ask("", n=1)])[0].texts[0] in LABELS


def peft_factors(model: Any) -> tuple[Any, Any]:
    """The adapter's A (RANK, BUCKETS) and B (labels, RANK), as peft holds them."""
    layer = model.get_submodule("base_model.model.scores")
    return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]


def peft_model(base: TextScorerBase) -> Any:
    """The scorer of a base under a fresh adapter of peft's."""
    from peft import LoraConfig, get_peft_model

    from runtime.policies.text_scorer_torch import ALPHA, RANK, Scorer

    return get_peft_model(Scorer(base), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["scores"]))


def test_the_fast_forward_equals_pefts(folder: Path) -> None:
    from runtime.policies import text_scorer_torch as trainer

    base = load_base(folder)
    model = peft_model(base)
    a, b = peft_factors(model)
    with torch.no_grad():
        a.copy_(trainer.fresh_adapter(base, seed=1)[0].T)
        b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(2)))
        of = trainer.PromptFeatures(base).rows(TEXTS)
        fast = trainer.adapted_scores(of, trainer.hidden_sums(of, a.T.contiguous()), b)
        for row, text in zip(fast, TEXTS, strict=True):
            buckets, weights = base.features(text)
            plain = model(torch.from_numpy(buckets), torch.from_numpy(weights))
            assert torch.allclose(row, plain, atol=1e-5, rtol=1e-6)


def test_training_raises_what_was_rewarded_and_the_numpy_policy_agrees_with_torch(folder: Path, tmp_path: Path) -> None:
    result = learn(order(folder, lr=3e-3, epochs=30), attempts(), tmp_path / "adapter")
    policy = load(folder, tmp_path / "adapter")
    assert [s.tokens[0][0] for s in policy.sample([ask(text, temperature=0) for text in TEXTS])] == [1, 2, 3, 4, 0]
    assert result.steps[-1].loss < result.steps[0].loss
    assert (result.trained_on, len(result.steps), result.steps[0].kl_to_base) == (5, 30, 0.0)
    for canary in result.canary:
        assert policy.log_probs(canary.prompt) == pytest.approx(canary.logprobs, abs=1e-4)


def test_training_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        learn(order(folder, seed=7, epochs=2, dropout=0.5), attempts(), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    assert (tmp_path / "one.left").read_bytes() == (tmp_path / "two.left").read_bytes()


def test_the_adapters_configuration_is_the_one_that_peft_writes(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import peft_config

    base = load_base(folder)
    peft_model(base).save_pretrained(str(tmp_path / "pefts"), save_embedding_layers=False)
    assert json.loads((tmp_path / "pefts" / "adapter_config.json").read_text()) == peft_config(base)


def test_the_adapter_is_an_ordinary_peft_folder_whose_card_says_where_it_comes_from(
    folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    from runtime.policies import text_scorer_torch as trainer

    learn(
        msgspec.structs.replace(order(folder, lr=1e-3), about={"events": "of generation 3"}),
        attempts(),
        tmp_path / "adapter",
    )
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    card = (tmp_path / "adapter" / "README.md").read_text()
    for said in (
        f"base_model: text-scorer@{load_base(folder).digest}",
        'best_of_n {"lr": 0.001}',
        "none, the base model",
        "of generation 3",
    ):
        assert said in card
    base = load_base(folder)
    model = PeftModel.from_pretrained(trainer.Scorer(base), str(tmp_path / "adapter"))
    mine = load_adapter(tmp_path / "adapter", base)
    a, b = peft_factors(model)
    assert np.array_equal(a.detach().numpy().T, mine.a)
    assert np.array_equal(b.detach().numpy().T, mine.b)


@pytest.mark.parametrize("algorithm", [name for name in learning.NAMES if name not in ("spin", "test_time", "opsd")])
def test_every_algorithm_trains_it(folder: Path, tmp_path: Path, algorithm: str) -> None:
    base = load(folder).log_probs(TEXTS[0])
    batch = [
        TrainingAttempt(
            id=str(token),
            group="g",
            item="g",
            adapter="",
            answer=LABELS[min(token, 3)],
            reward=float(token == 3),
            calls=(TrainingCall(ask(TEXTS[0]), (token,), (base[token],)),),
        )
        for token in (0, 1, 2, 3, 4)
    ]
    result = learn(order(folder, algorithm), batch, tmp_path / "adapter")
    before, after = base, load(folder, tmp_path / "adapter").log_probs(TEXTS[0])
    assert after[3] > before[3] + 0.01
    assert all(step.grad_norm > 0 for step in result.steps)


def test_spin_asks_for_labels_and_learns_them(folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def label(item: str) -> str:
        asked.append(item)
        return LABELS[TEXTS.index(item)]

    train(
        order(folder, "spin", lr=3e-3, epochs=20),
        attempts(),
        Sources(label, lambda items: {}),
        tmp_path / "adapter",
        tmp_path / "left",
    )
    assert asked == TEXTS
    policy, base = load(folder, tmp_path / "adapter"), load(folder)
    assert all(policy.log_probs(text)[i] > base.log_probs(text)[i] for i, text in enumerate(TEXTS))


def test_a_teacher_is_shown_the_true_answer_and_the_policy_learns_to_give_it_unshown(
    folder: Path, tmp_path: Path
) -> None:
    sources = Sources(lambda item: LABELS[TEXTS.index(item)], lambda items: {}, lambda item: LABELS[TEXTS.index(item)])
    train(order(folder, "opsd", lr=3e-3, epochs=20), attempts(), sources, tmp_path / "adapter", tmp_path / "left")
    policy, base = load(folder, tmp_path / "adapter"), load(folder)
    wrong = [(place + 1) % 5 for place in range(5)]  # what was answered, which the teacher finds less likely
    assert all(policy.log_probs(t)[i] < base.log_probs(t)[i] for t, i in zip(TEXTS, wrong, strict=True))


def test_no_hint_reaches_an_algorithm_without_a_teacher_nor_one_of_an_answer_that_is_not_on_offer(folder: Path) -> None:
    model = open_trainee(folder, None, 0, critic=False)
    sources = Sources(lambda item: LABELS[TEXTS.index(item)], lambda items: {}, lambda item: f" {item}")
    short = [msgspec.structs.replace(a, calls=(shortlisted(a.calls[0], LABELS[1:3]),)) for a in attempts()[:2]]
    hints = {
        name: [r.hint for r in rollouts_from(short, learning.algorithm(name), sources, model)]
        for name in ("opsd", "spin", "grpo")
    }
    assert hints == {"opsd": ["", f" {TEXTS[1]}"], "spin": ["", ""], "grpo": ["", ""]}


def test_spin_leaves_out_an_item_whose_true_answer_was_not_on_offer(folder: Path, tmp_path: Path) -> None:
    short = [msgspec.structs.replace(a, calls=(shortlisted(a.calls[0], LABELS[1:3]),)) for a in attempts()[:2]]
    result = train(
        order(folder, "spin"),
        short,
        Sources(lambda item: LABELS[TEXTS.index(item)], lambda items: {}),
        tmp_path / "a",
        tmp_path / "l",
    )
    assert result.trained_on == 2  # the second item's truth is on the list, the first's is not


def test_spin_has_no_truth_where_the_task_knows_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_trainee(folder, None, 0, critic=False)
    monkeypatch.setattr(
        model, "encode_completion", lambda text: (1,)
    )  # as of a model that writes, also of an empty text
    unknown = Sources(lambda item: "", lambda items: {})
    assert {rollout.real for rollout in rollouts_from(attempts(), learning.algorithm("spin"), unknown, model)} == {()}


def shortlisted(call: TrainingCall, choices: tuple[str, ...]) -> TrainingCall:
    """The same call with a shortlist, answered with its last."""
    request = msgspec.structs.replace(call.request, choices=choices)
    token = LABELS.index(choices[-1])
    sampled = TextScorer(build_base(LABELS, TEXTS)).log_probs(request.prompt)
    rest = math.log(sum(math.exp(sampled[LABELS.index(choice)]) for choice in choices))
    return TrainingCall(request, (token,), (sampled[token] - rest,))


def test_hinted_attempts_are_for_the_algorithm_that_asks_for_them(folder: Path) -> None:
    model = open_trainee(folder, None, 0, False)
    hinted = [msgspec.structs.replace(a, hinted=True) for a in attempts()]
    assert [r.own for r in rollouts_from(hinted, learning.algorithm("star"), SOURCES, model)] == [False] * 5
    assert rollouts_from(hinted, learning.algorithm("ppo"), SOURCES, model) == []


def test_copies_take_the_place_of_attempts_where_an_algorithm_asks_for_them(folder: Path, tmp_path: Path) -> None:
    sources = Sources(no_label, lambda items: {item: [(item + "甲", LABELS[2]), (item, "杀人")] for item in items})
    result = train(order(folder, "test_time", lr=3e-3), attempts(), sources, tmp_path / "adapter", tmp_path / "left")
    assert result.trained_on == 5  # the label that is not in the vocabulary is nothing to learn
    assert load(folder, tmp_path / "adapter").log_probs(TEXTS[0])[2] > load(folder).log_probs(TEXTS[0])[2]


def test_no_reward_reaches_an_algorithm_that_asks_for_none(folder: Path) -> None:
    model = open_trainee(folder, None, 0, False)
    for name in learning.NAMES:
        algorithm = learning.algorithm(name)
        sources = Sources(lambda item: LABELS[0], lambda items: {item: [(item, LABELS[0])] for item in items})
        seen = [r.reward for r in rollouts_from(attempts(), algorithm, sources, model)]
        assert all(math.isnan(reward) != ("rewards" in algorithm.needs) for reward in seen), name
        assert {"rewards", "labels", "hints", "teacher", "copies"} >= algorithm.needs


def test_going_on_from_the_optimisers_state_is_as_if_it_had_never_stopped(folder: Path, tmp_path: Path) -> None:
    whole = order(folder, lr=3e-3, epochs=16)
    one = order(folder, lr=3e-3, epochs=8)
    learn(whole, attempts(), tmp_path / "whole")
    learn(one, attempts(), tmp_path / "first")
    second = msgspec.structs.replace(
        one, parent="first", parent_folder=tmp_path / "first", state=tmp_path / "first.left"
    )
    older = [msgspec.structs.replace(attempt, adapter="other") for attempt in attempts()]
    learn(second, older, tmp_path / "second")
    learn(msgspec.structs.replace(second, state=None), older, tmp_path / "afresh")
    of = {name: load_adapter(tmp_path / name, load_base(folder)) for name in ("whole", "second", "afresh")}
    assert np.abs(of["whole"].b - of["second"].b).max() < 1e-6
    assert np.abs(of["whole"].b - of["afresh"].b).max() > 1e-4


def test_another_algorithms_state_is_not_gone_on_from_and_a_damaged_one_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    learn(order(folder), attempts(), tmp_path / "adapter")
    left = tmp_path / "adapter.left"
    assert load_state(left, "grpo") is None
    assert "exp_avg.0" in (load_state(left, "best_of_n") or {})
    left.write_bytes(left.read_bytes()[:100])
    with pytest.raises(CheckFailed, match="is damaged"):
        load_state(left, "best_of_n")


def test_an_adapter_for_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    learn(order(folder, epochs=1), attempts(), tmp_path / "adapter")
    build_base(LABELS, TEXTS[:2]).save(tmp_path / "other")
    with pytest.raises(Misconfigured, match="made for the base text-scorer@"):
        load(tmp_path / "other", tmp_path / "adapter")


def test_a_loss_that_is_not_finite_stops_the_update(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="smaller learning rate"):
        learn(order(folder, lr=1e38, epochs=5), attempts(), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_batch_that_another_policy_sampled_is_refused_with_the_figure(folder: Path, tmp_path: Path) -> None:
    off = [
        msgspec.structs.replace(a, calls=(msgspec.structs.replace(a.calls[0], logprobs=(-0.01,)),)) for a in attempts()
    ]
    with pytest.raises(Mismatch, match=r"recorded for 5 tokens .* mean k3 is \d"):
        learn(order(folder), off, tmp_path / "adapter")
    learn(order(folder, mismatch=1e9), off, tmp_path / "adapter")


BIAS = (2.0, 1.5, 1.0, 0.5, 0.0)


def sampled_attempts(temperature: float) -> list[TrainingAttempt]:
    """Eight attempts at a text that says nothing, as the base samples them at this temperature, by a bias; every second
    is right.
    """
    request = ask("@", n=8, temperature=temperature, seed=4, bias=BIAS)
    (sampled,) = TextScorer(build_base(LABELS, TEXTS)).sample([request])
    return [
        TrainingAttempt(
            id=str(place),
            group="g",
            item="i",
            adapter="",
            answer=sampled.texts[place],
            reward=float(place % 2),
            calls=(TrainingCall(request, (token,), sampled.logprobs[place]),),
        )
        for place, (token,) in enumerate(sampled.tokens)
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_an_update_is_on_policy_at_the_temperature_that_was_sampled_at(
    folder: Path, tmp_path: Path, temperature: float
) -> None:
    (step,) = learn(order(folder, "grpo", epochs=1), sampled_attempts(temperature), tmp_path / "adapter").steps
    assert (step.ratio_mean, step.ratio_max) == pytest.approx((1, 1), abs=1e-4)
    tempered = torch.log_softmax(torch.tensor(BIAS) / temperature, 0)
    assert step.entropy == pytest.approx(-float((tempered.exp() * tempered).sum()), abs=1e-4)


def test_a_batch_of_several_temperatures_is_right_row_by_row(folder: Path, tmp_path: Path) -> None:
    cold = [msgspec.structs.replace(a, id=f"cold {a.id}") for a in sampled_attempts(0.5)]
    (step,) = learn(order(folder, "grpo", epochs=1), [*sampled_attempts(3.0), *cold], tmp_path / "adapter").steps
    assert (step.ratio_mean, step.ratio_max) == pytest.approx((1, 1), abs=1e-4)


def test_what_was_taken_at_temperature_0_is_no_sample(folder: Path, tmp_path: Path) -> None:
    greedy = sampled_attempts(0.0)
    with pytest.raises(NothingToLearn, match=r"None of 8 attempts sampled anything .* or at temperature 0"):
        learn(order(folder, "grpo"), greedy, tmp_path / "adapter")
    kept = learn(order(folder, "grpo"), [*greedy, *sampled_attempts(1.0)], tmp_path / "adapter")
    assert kept.trained_on == 8


@pytest.mark.parametrize("setting", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}])
def test_what_was_sampled_from_a_part_of_the_distribution_is_neither_sampled_here_nor_trained_on(
    folder: Path, tmp_path: Path, setting: dict[str, float]
) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(UsageError, match=f"its whole distribution, and {name} {value:g} was asked for"):
        load(folder).sample([ask(TEXTS[0], sampling=setting)])
    with pytest.raises(UsageError, match=f"An attempt at item i was sampled with {name} {value:g}"):
        batch = [
            msgspec.structs.replace(
                a, calls=tuple(TrainingCall(ask("x", sampling=setting), c.tokens, c.logprobs) for c in a.calls)
            )
            for a in sampled_attempts(1.0)
        ]
        learn(order(folder, "grpo"), batch, tmp_path / "adapter")
    assert load(folder).sample([ask(TEXTS[0], sampling={name: WHOLE[name]})])


def test_an_attempts_longest_answer_says_how_far_it_filled_its_limit(folder: Path) -> None:
    def call(tokens: int, limit: int, cut: bool = False) -> TrainingCall:
        return TrainingCall(ask("x", max_tokens=limit), (0,) * tokens, (0.0,) * tokens, cut)

    calls = (call(1, 8), call(3, 4), call(1, 2))
    made = msgspec.structs.replace(attempts()[0], calls=calls)
    model = open_trainee(folder, None, 0, False)
    rows = rollouts_from([made], learning.algorithm("grpo"), SOURCES, model)
    assert [(row.fill, row.cut) for row in rows] == [(0.75, False)] * 3
    cut = msgspec.structs.replace(made, calls=(*calls, call(2, 64, cut=True)))  # where the model's positions end
    rows = rollouts_from([cut], learning.algorithm("grpo"), SOURCES, model)
    assert [(row.fill, row.cut) for row in rows] == [(1.0, False)] * 3 + [(1.0, True)]


def test_rollouts_of_older_adapters_are_weighed_or_left_out_as_ordered(folder: Path, tmp_path: Path) -> None:
    batch = [msgspec.structs.replace(a, adapter="older") if place < 2 else a for place, a in enumerate(attempts())]
    assert learn(order(folder), batch, tmp_path / "adapter").left_out == 0
    result = learn(order(folder, stale=0.0), batch, tmp_path / "adapter")
    assert (result.trained_on, result.left_out) == (3, 2)
    behind = msgspec.structs.replace(order(folder, stale=0.0), parent="newer")
    with pytest.raises(NothingToLearn, match="All 2 rollouts are of older adapters"):
        learn(behind, batch[:2], tmp_path / "adapter")


@pytest.mark.parametrize(
    "algorithm, hyper, why",
    [
        ("best_of_n", {"learning_rate": 1.0}, "'learning_rate'; it has"),
        ("grpo", {"lr": -1.0}, "lr is -1; expected 1e-30 to 1e\\+38"),
        ("grpo", {"epochs": 0.0}, "epochs is 0; expected 1 to"),
        ("grpo", {"kl_target": 0.1}, "kl is the weight that steering starts from"),
        ("best_of_n", {"best": 0.5}, "best is 0.5; expected 1 to"),
        ("grpo", {"dropout": 1.0}, "dropout is 1; expected 0 to 0.99"),
        ("grpo", {"max_lag": -1.0}, "max_lag is -1; expected 0 to"),
        ("grpo", {"off_share": 2.0}, "off_share is 2; expected 0 to 1"),
        ("grpo", {"stale": 2.0}, "stale is 2; expected 0 to 1"),
        ("ttrl", {"overlong": 0.2}, "ttrl asks for none; order overlong 0"),
        ("grpo", {"truncation": 0.0}, "truncation is 0; expected"),
        ("dpo", {"kl": 5.0}, "dpo has no hyper-parameter 'kl'"),
        ("ppo2", {}, "no learning algorithm 'ppo2'"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why(
    folder: Path, tmp_path: Path, algorithm: str, hyper: dict[str, float], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        learn(order(folder, algorithm, 0, **hyper), attempts(), tmp_path / "adapter")


def test_the_weight_of_kl_follows_its_target_and_is_handed_on(folder: Path, tmp_path: Path) -> None:
    far = order(folder, lr=3e-3, epochs=20, kl=0.1, kl_target=1e-4)
    learn(far, attempts(), tmp_path / "adapter")
    assert float((load_state(tmp_path / "adapter.left", "best_of_n") or {})["kl"]) > 0.1
    learn(order(folder, kl=0.1), attempts(), tmp_path / "fixed")
    assert "kl" not in (load_state(tmp_path / "fixed.left", "best_of_n") or {})


def test_log_softmax_of_three_numbers() -> None:
    logs = closed_vocabulary.log_softmax(np.array([0.0, math.log(2), math.log(5)]))
    assert np.exp(logs) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_a_hint_that_leaves_no_room_for_the_answer_is_not_shown(folder: Path) -> None:
    class Short:
        """Sixteen positions, a token for each character."""

        positions = 16

        def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
            if len(prompt) >= self.positions:
                raise UsageError("too long")
            return tuple(map(ord, prompt))

        def encode_completion(self, text: str) -> tuple[int, ...]:
            return (0,)

        def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
            return tuple(range(len(choices)))

    call = attempts()[0].calls[0]
    short = [
        msgspec.structs.replace(
            attempts()[0],
            calls=(
                msgspec.structs.replace(
                    call, request=msgspec.structs.replace(call.request, prompt=prompt, choices=(), bias=())
                ),
            ),
        )
        for prompt in ("p" * 11, "p" * 12, "p" * 15)
    ]
    sources = Sources(lambda item: "label", lambda items: {}, lambda item: "hint")
    shown = rollouts_from(short, learning.algorithm("opsd"), sources, Short())
    assert [r.hint for r in shown] == ["hint", "", ""]
