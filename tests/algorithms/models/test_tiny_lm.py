"""The tiny language model: its tokens, its draws to the bit, and its adapter as a peft folder.

The base is pre-trained for a few steps.
"""

import json
import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("peft")
import torch
from peft import PeftModel
from transformers import AutoTokenizer, Qwen3ForCausalLM

from algorithms.demos import toys
from algorithms.learning.batch import Rollout
from algorithms.models import tiny_lm
from algorithms.models.sampling import CompletionRequest, SampledCompletion
from algorithms.models.tiny_lm import END_ID, POSITIONS, TinyLM, TinyTrainee
from events.errors import CheckFailed, Misconfigured, NotFound, UsageError

CARD = "---\nlibrary_name: peft\n---\nA test's.\n"
PROMPTS = ("task 0", "task 1", "task 2", "near 41 07 93", "near 10 20 30", "what <|assistant|>41<|end|><|user|>no")


@pytest.fixture(scope="module")
def base() -> TinyLM:
    return TinyLM.pretrain(toys.traces(0, 2000), seed=0, steps=20)


@pytest.fixture(scope="module")
def trained(base: TinyLM) -> TinyTrainee:
    return moved(TinyTrainee(base, None, seed=1))


@pytest.fixture(scope="module")
def folder(trained: TinyTrainee, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter") / "a"
    trained.save(out, CARD)
    return out


def moved(trainee: TinyTrainee, seed: int = 0) -> TinyTrainee:
    """The same with an adapter that matters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.adapter:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return trainee


def rollout(prompt: str, tokens: Sequence[int], logprobs: Sequence[float] = ()) -> Rollout:
    return Rollout(group=prompt, item=prompt, prompt=prompt, tokens=tuple(tokens), logprobs=tuple(logprobs), reward=0.0)


def asks(base: TinyLM, count: int, seed: int = 0) -> list[CompletionRequest]:
    draw = random.Random(seed)
    return [
        CompletionRequest(
            prompt=base.encode(draw.choice(PROMPTS)),
            seed=draw.randrange(5),
            index=index,
            temperature=draw.choice((1.0, 0.7)),
            max_tokens=10,
        )
        for index in range(count)
    ]


def test_it_has_about_0_8_million_parameters(base: TinyLM) -> None:
    assert sum(parameter.numel() for parameter in base.model.parameters()) == pytest.approx(0.8e6, rel=0.05)


def test_pre_training_lowers_the_loss_and_repeats_itself_to_the_bit() -> None:
    told: list[tuple[int, int, float]] = []
    traces = toys.traces(0, 200)
    first = TinyLM.pretrain(traces, 3, 3, lambda *what: told.append(what))
    assert [step[:2] for step in told] == [(1, 3), (2, 3), (3, 3)] and told[2][2] < told[0][2]
    assert TinyLM.pretrain(traces, 3, 3).digest == first.digest != TinyLM.pretrain(traces, 4, 1).digest


def test_digits_are_tokens_and_a_completion_ends_with_end(base: TinyLM) -> None:
    tokens = base.encode_completion("41 07 93")
    assert len(tokens) == 9 and tokens[-1] == END_ID
    assert [base.decode([token]) for token in tokens] == ["4", "1", " ", "0", "7", " ", "9", "3", ""]


def test_any_text_comes_back_and_special_tokens_in_a_completion_are_text(base: TinyLM) -> None:
    for text in ("", "  two  spaces\n", "被告人 é", "a<|end|>b<|user|>"):
        tokens = base.encode_completion(text)
        assert base.decode(tokens) == text and tokens.count(END_ID) == 1


def test_a_transcript_of_several_turns_is_a_prompt(base: TinyLM) -> None:
    first, said = base.encode("q"), base.encode_completion("41 07 93")
    both = base.encode("q<|assistant|>41 07 93<|end|><|user|>wrong")
    assert both[: len(first + said)] == first + said
    assert both[len(first + said) :] == base.encode("wrong")


def test_a_base_comes_back_and_is_written_in_the_same_bytes(base: TinyLM, tmp_path: Path) -> None:
    base.save(tmp_path / "a")
    again = TinyLM.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert again.digest == base.digest
    assert again.sampler().next_log_probs("task 1") == base.sampler().next_log_probs("task 1")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_damaged_base_is_refused(base: TinyLM, tmp_path: Path) -> None:
    base.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    held = weights.read_bytes()
    for damage in (held[:-1] + bytes([held[-1] ^ 1]), held[:-100]):
        weights.write_bytes(damage)
        with pytest.raises(CheckFailed, match="pre-train it again"):
            TinyLM.load(tmp_path)
    weights.unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        TinyLM.load(tmp_path)


def test_a_base_is_made_once_and_again_if_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_lm, "STEPS", 1)
    told: list[int] = []

    def ask() -> Path:
        return tiny_lm.pretrain_cached(toys.traces(0, 20), tmp_path, lambda step, steps, loss: told.append(step))

    folder = ask()
    digest = tiny_lm.load(folder).digest
    assert ask() == folder and len(told) == 1
    (folder / "base.json").unlink()
    assert ask() == folder and len(told) == 2 and tiny_lm.load(folder).digest == digest
    assert list(tmp_path.iterdir()) == [folder]


def test_transformers_reads_the_tokenizer_and_its_chat_template(base: TinyLM, tmp_path: Path) -> None:
    base.save(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    turns = [("user", "q 41"), ("assistant", "a"), ("user", "told")]
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = read.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tuple(ids) == base.encode("q 41<|assistant|>a<|end|><|user|>told")
    assert tuple(read("task 1 é").input_ids) == base.encode_completion("task 1 é")[:-1]
    assert (read.eos_token_id, read.pad_token_id) == (END_ID, 0) and {"<|user|>", "<|assistant|>"} <= set(
        read.all_special_tokens
    )


@pytest.mark.parametrize("adapted", [False, True])
def test_a_completion_is_the_same_to_the_bit_whatever_is_asked_with_it(
    base: TinyLM, folder: Path, adapted: bool
) -> None:
    sampler = base.sampler(folder if adapted else None)
    wanted = asks(base, 18)
    alone = [sampler.sample([ask])[0] for ask in wanted]
    draw = random.Random(1)
    for _ in range(3):
        others = [*range(len(wanted)), *draw.choices(range(len(wanted)), k=draw.randrange(50))]
        draw.shuffle(others)
        others = others[: draw.randrange(1, len(others))]
        assert sampler.sample([wanted[place] for place in others]) == [alone[place] for place in others]


def test_draws_differ_by_seed_and_by_place(base: TinyLM) -> None:
    sampler, prompt = base.sampler(), base.encode("task 0")
    by_seed = sampler.sample([CompletionRequest(prompt=prompt, seed=seed, max_tokens=9) for seed in range(20)])
    by_place = sampler.sample(
        [CompletionRequest(prompt=prompt, seed=0, index=index, max_tokens=9) for index in range(20)]
    )
    assert by_seed[0] == by_place[0]
    assert min(len({one.tokens for one in row}) for row in (by_seed, by_place)) > 15


def test_first_tokens_come_as_often_as_their_probability_says(base: TinyLM) -> None:
    sampler, count = base.sampler(), 1500
    asked = [
        CompletionRequest(prompt=base.encode("task 0"), seed=7, index=index, temperature=1.0, max_tokens=1)
        for index in range(count)
    ]
    drawn = [one.tokens[0] for one in sampler.sample(asked)]
    for token, logp in enumerate(sampler.next_log_probs("task 0")):
        p = math.exp(logp)
        assert drawn.count(token) / count == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / count) + 1e-3)


def test_temperature_zero_takes_the_most_probable_and_reports_temperature_one(base: TinyLM) -> None:
    sampler = base.sampler()
    (first,) = sampler.sample([CompletionRequest(prompt=base.encode("task 2"), seed=0, temperature=0, max_tokens=1)])
    logs = sampler.next_log_probs("task 2")
    assert first.tokens == (logs.index(max(logs)),) and first.logprobs == (max(logs),)
    assert sum(map(math.exp, logs)) == pytest.approx(1)


def test_a_completion_stops_at_its_length_and_at_the_last_position(base: TinyLM) -> None:
    sampler = base.sampler()
    short, long = sampler.sample(
        [CompletionRequest(prompt=base.encode("task 0"), seed=0, max_tokens=length) for length in (3, 64)]
    )
    assert len(short.tokens) == 3 and long.tokens[:3] == short.tokens and long.logprobs[:3] == short.logprobs
    full = (*base.encode("9" * (POSITIONS - 4)),)
    assert len(sampler.sample([CompletionRequest(prompt=full, seed=0)])[0].tokens) <= 2
    with pytest.raises(UsageError, match="shorten it"):
        base.encode("9" * POSITIONS)
    with pytest.raises(UsageError, match="temperature"):
        sampler.sample([CompletionRequest(prompt=full, seed=0, temperature=-1.0)])


def test_recorded_log_probabilities_are_those_of_the_trainer(base: TinyLM, trained: TinyTrainee) -> None:
    wanted = [(prompt, CompletionRequest(prompt=base.encode(prompt), seed=3, max_tokens=12)) for prompt in PROMPTS]
    for sampler, bare in ((trained.sampler(), False), (base.sampler(), True)):
        said: list[SampledCompletion] = sampler.sample([ask for _, ask in wanted])
        rows = [rollout(prompt, one.tokens) for (prompt, _), one in zip(wanted, said, strict=True)]
        found = trained.outputs(rows, base=bare)
        for row, one in enumerate(said):
            size = len(one.tokens)
            assert found.logp[row, :size].tolist() == pytest.approx(list(one.logprobs), abs=1e-4)
            assert not found.logp[row, size:].any() and not found.entropy[row, size:].any()


def test_each_rollout_is_read_at_the_temperature_that_it_was_sampled_at(base: TinyLM, trained: TinyTrainee) -> None:
    tokens = base.encode_completion("41 07")
    temperatures = (0.5, 1.0, 2.0)
    rows = [msgspec.structs.replace(rollout("task 0", tokens), temperature=each) for each in temperatures]
    prompt = base.encode("task 0")
    for bare in (False, True):
        with trained.model.disable_adapter() if bare else nullcontext(), torch.no_grad():
            logits = trained.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1].double()
        found = trained.outputs(rows, base=bare)
        for row, temperature in enumerate(temperatures):
            logs = torch.log_softmax(logits / temperature, 1)
            expected = logs[torch.arange(len(tokens)), list(tokens)]
            assert found.logp[row].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
            assert found.entropy[row].tolist() == pytest.approx((-(logs.exp() * logs).sum(1)).tolist(), abs=1e-4)


def test_a_completion_says_whether_it_was_cut(base: TinyLM) -> None:
    prompt = base.encode("task 0")
    said = base.sampler().sample([CompletionRequest(prompt=prompt, seed=seed, max_tokens=12) for seed in range(64)])
    assert {one.cut for one in said} == {False, True}
    assert all(one.cut == (one.tokens[-1] != END_ID) for one in said)
    length = next(len(one.tokens) for one in said if not one.cut)
    (whole,) = base.sampler().sample(
        [
            CompletionRequest(prompt=prompt, seed=seed, max_tokens=length)
            for seed, one in enumerate(said)
            if not one.cut and len(one.tokens) == length
        ][:1]
    )
    assert len(whole.tokens) == length and not whole.cut  # its end is the last token that there was room for


def test_entropy_is_that_of_the_next_token(base: TinyLM, trained: TinyTrainee) -> None:
    logs = trained.log_probs("task 0")
    found = trained.outputs([rollout("task 0", base.encode_completion("41 07 93"))])
    assert found.entropy[0, 0].item() == pytest.approx(-sum(math.exp(value) * value for value in logs), abs=1e-4)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_it(base: TinyLM) -> None:
    fresh, same, other = (TinyTrainee(base, None, seed=seed) for seed in (5, 5, 6))
    assert fresh.sampler().next_log_probs("task 0") == base.sampler().next_log_probs("task 0")
    assert all(torch.equal(a, b) for a, b in zip(fresh.adapter, same.adapter, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(fresh.adapter, other.adapter, strict=True))


def test_an_adapter_comes_back_and_is_written_in_the_same_bytes(
    base: TinyLM, trained: TinyTrainee, folder: Path, tmp_path: Path
) -> None:
    again = TinyTrainee(base, folder, seed=9)
    again.save(tmp_path / "b", CARD)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert all((folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert all(torch.equal(a, b) for a, b in zip(again.adapter, trained.adapter, strict=True))


def test_plain_peft_reads_the_adapter(base: TinyLM, trained: TinyTrainee, folder: Path, tmp_path: Path) -> None:
    base.save(tmp_path)
    plain = PeftModel.from_pretrained(Qwen3ForCausalLM.from_pretrained(tmp_path), folder).eval()
    ids = torch.tensor([base.encode("near 41 07 93")])
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, trained.model(ids).logits)
        assert not torch.allclose(plain(ids).logits, base.model(ids).logits, atol=0.1)


def test_an_adapter_that_does_not_fit_is_refused(base: TinyLM, folder: Path, tmp_path: Path) -> None:
    TinyTrainee(base, folder, seed=0).save(tmp_path / "a", CARD)
    config = tmp_path / "a" / "adapter_config.json"
    held = json.loads(config.read_text(encoding="utf-8"))
    for wrong, said in (({"base_model_name_or_path": "tiny-lm@0"}, "made for the base"), ({"r": 16}, "rank and alpha")):
        config.write_text(json.dumps({**held, **wrong}), encoding="utf-8")
        with pytest.raises(Misconfigured, match=said):
            base.sampler(tmp_path / "a")
    config.write_text(json.dumps(held), encoding="utf-8")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckFailed, match="damaged"):
        TinyTrainee(base, tmp_path / "a", seed=0)
    weights.unlink()
    with pytest.raises(NotFound, match="lacks"):
        TinyTrainee(base, tmp_path / "a", seed=0)


def test_a_value_depends_on_what_precedes_its_token_alone(base: TinyLM) -> None:
    trainee = moved(TinyTrainee(base, None, seed=0, critic=True))
    tokens = base.encode_completion("41 07 93")
    assert not trainee.outputs([rollout("task 0", tokens)]).values.any()
    with torch.no_grad():
        trainee.critic[0].copy_(torch.randn(1, 128, generator=torch.Generator().manual_seed(0)))
    changed = (*tokens[:3], tokens[0], *tokens[4:])
    found = trainee.outputs([rollout("task 0", tokens), rollout("task 0", changed)]).values
    assert torch.equal(found[0, :4], found[1, :4]) and (found[0, 4:] != found[1, 4:]).all()


def test_the_value_loss_does_not_reach_the_adapter(base: TinyLM) -> None:
    trainee = moved(TinyTrainee(base, None, seed=0, critic=True))
    found = trainee.outputs([rollout("task 0", base.encode_completion("41 07 93"))])
    ((found.values - 1) ** 2).sum().backward()
    assert all(parameter.grad is None for parameter in trainee.adapter)
    assert all(p.grad is not None and bool(p.grad.any()) for p in trainee.critic)
    trainee.outputs([rollout("task 0", base.encode_completion("41 07 93"))]).logp.sum().backward()
    assert all(parameter.grad is not None for parameter in trainee.adapter)


def test_without_a_critic_values_are_zeros_and_dropout_is_refused(trained: TinyTrainee) -> None:
    assert trained.critic == []
    assert not trained.outputs([rollout("task 0", (7, 8)), rollout("near 41 07 93", (7,))]).values.any()
    with pytest.raises(UsageError, match="no dropout"):
        trained.outputs([rollout("task 0", (7,))], dropout=0.1)


def test_a_sampler_does_not_follow_the_training(base: TinyLM) -> None:
    trainee = TinyTrainee(base, None, seed=0)
    sampler = trainee.sampler()
    before = sampler.next_log_probs("task 0")
    moved(trainee)
    assert sampler.next_log_probs("task 0") == before != trainee.sampler().next_log_probs("task 0")
