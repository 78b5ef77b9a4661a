"""The text scorer: its arithmetic, its draws, and its training, on a toy of five labels."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from algorithms.learning.batch import Diverged, Rollout
from events.errors import CheckFailed, Misconfigured, UsageError
from runtime.policies import closed_vocabulary
from runtime.policies.interface import SampleRequest
from runtime.policies.text_scorer import TextScorer, build_base, load, load_adapter, load_base
from runtime.policies.uniform import Uniform

pytest.importorskip("safetensors")
LABELS = ("盗窃", "诈骗", "抢劫", "[生产、销售]假药", "失火")
TEXTS = ["被告人盗窃手机一部", "虚构事实诈骗钱财", "持刀抢劫路人财物", "生产销售假药牟利", "用火不慎引起失火"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_base(LABELS, TEXTS).save(tmp_path / "base")
    return tmp_path / "base"


def ask(prompt: str, **how: object) -> SampleRequest:
    return SampleRequest(prompt=prompt, **how)  # type: ignore[arg-type]


def rollouts(reward: float = 1.0) -> list[Rollout]:
    return [
        Rollout(group=text, item=text, prompt=text, token=(place + 1) % 5, logprob=math.log(0.2), reward=reward)
        for place, text in enumerate(TEXTS)
    ]


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
    [({"choices": ("杀人",)}, "not one of"), ({"bias": (1.0,)}, "1 biases"), ({"choices": LABELS[:1], "bias": (math.inf,)}, "not finite")],
)
def test_a_request_that_cannot_be_answered_says_why(folder: Path, wrong: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        load(folder).sample([ask("x", **wrong)])


def test_an_empty_prompt_is_answered(folder: Path) -> None:
    assert load(folder).sample([ask("", n=1)])[0].texts[0] in LABELS


torch = pytest.importorskip("torch")


def test_the_fast_forward_equals_pefts(folder: Path) -> None:
    from runtime.policies import text_scorer_torch as trainer

    base = load_base(folder)
    model = trainer.wrapped(base, seed=1)
    a, b = trainer.factors(model)
    with torch.no_grad():
        b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(2)))
        of = trainer.Prompts(base, TEXTS).rows(range(len(TEXTS)))
        fast = trainer.adapted(of, a.T.contiguous(), b, 0.0, torch.Generator())
        for row, text in zip(fast, TEXTS, strict=True):
            buckets, weights = base.features(text)
            plain = model(torch.from_numpy(buckets), torch.from_numpy(weights))
            assert torch.allclose(row, plain, atol=1e-5, rtol=1e-6)


def test_training_raises_what_was_rewarded_and_the_numpy_policy_agrees_with_torch(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import train

    hyper = {"lr": 3e-3, "epochs": 30, "dropout": 0.0}
    result = train(folder, None, rollouts(), "best_of_n", hyper, 0, tmp_path / "adapter")
    policy = load(folder, tmp_path / "adapter")
    assert [s.tokens[0][0] for s in policy.sample([ask(text, temperature=0) for text in TEXTS])] == [1, 2, 3, 4, 0]
    assert result.steps[-1].loss < result.steps[0].loss
    assert (result.trained_on, len(result.steps), result.steps[0].kl_to_base) == (5, 30, 0.0)
    for prompt, logprobs in result.canary:
        assert policy.log_probs(prompt) == pytest.approx(logprobs, abs=1e-4)


def test_training_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import train

    for name in ("one", "two"):
        train(folder, None, rollouts(), "best_of_n", {"epochs": 2}, 7, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_the_adapter_is_an_ordinary_peft_folder(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from runtime.policies import text_scorer_torch as trainer

    trainer.train(folder, None, rollouts(), "best_of_n", {}, 0, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    base = load_base(folder)
    model = PeftModel.from_pretrained(trainer.Scorer(base), str(tmp_path / "adapter"))
    mine = load_adapter(tmp_path / "adapter", base)
    a, b = trainer.factors(model)
    assert np.array_equal(a.detach().numpy().T, mine.a)
    assert np.array_equal(b.detach().numpy().T, mine.b)


def test_an_adapter_for_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import train

    train(folder, None, rollouts(), "best_of_n", {"epochs": 1}, 0, tmp_path / "adapter")
    build_base(LABELS, TEXTS[:2]).save(tmp_path / "other")
    with pytest.raises(Misconfigured, match="made for the base text-scorer@"):
        load(tmp_path / "other", tmp_path / "adapter")


def test_a_loss_that_is_not_finite_stops_the_update(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import train

    group = [Rollout(group="g", item="g", prompt=TEXTS[0], token=t, logprob=-1e4, reward=float(t)) for t in (0, 1)]
    with pytest.raises(Diverged, match="smaller learning rate"):
        train(folder, None, group, "grpo", {}, 0, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_unknown_hyper_parameter_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    from runtime.policies.text_scorer_torch import train

    with pytest.raises(UsageError, match="'learning_rate'; it has"):
        train(folder, None, rollouts(), "best_of_n", {"learning_rate": 1.0}, 0, tmp_path / "adapter")


def test_log_softmax_of_three_numbers() -> None:
    logs = closed_vocabulary.log_softmax(np.array([0.0, math.log(2), math.log(5)]))
    assert np.exp(logs) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
