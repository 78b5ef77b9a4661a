"""A step is the same however few tokens a forward has: every algorithm, on a batch of groups, pairs and turns."""

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from transformers import Qwen3Config, Qwen3ForCausalLM

from algorithms.learning import NAMES, algorithm
from algorithms.learning.batch import Hyper, Rollout
from algorithms.learning.update import UpdateResult, update
from algorithms.models import causal_lm
from algorithms.models.causal_lm import CausalTrainee, linear_layers
from tests.harness.adapters import move_adapter

CASES: list[tuple[str, Hyper]] = [
    *((name, {}) for name in NAMES),
    ("grpo", {"kl": 0.3, "token_mean": 0.0}),
    ("dr_grpo", {"kl": 0.3}),
    ("ppo", {"entropy": 0.1, "kl": 0.3, "clip_value": 0.01}),
    ("best_of_n", {"kl": 0.3, "best": 3.0}),
]
VOCABULARY = 61
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
}
WORDS: Any = SimpleNamespace(
    name="tiny@0",
    encode=lambda prompt, plain=False: tuple(map(int, prompt.split())),
    encode_completion=lambda text: (3,),
    encode_choices=lambda choices, plain=False: tuple(map(int, choices)),
)


@pytest.fixture(scope="module")
def entry() -> CausalTrainee:
    """An adapter and a critic that are some way from where they begin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, **SHAPE)).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    made = CausalTrainee(WORDS, model, linear_layers(model), None, seed=1, critic=True)
    move_adapter(made.model, 0.05, seed=0)
    torch.nn.init.normal_(made.critic[0], std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def copied(of: CausalTrainee, dtype: Any, critic: bool) -> CausalTrainee:
    made = copy.copy(of)
    made.model = copy.deepcopy(of.model).to(dtype)
    made._head = copy.deepcopy(of._head).to(dtype) if critic and of._head else None
    return made


@pytest.fixture(scope="module")
def batch(entry: CausalTrainee) -> list[Rollout]:
    """Four groups of four with prompts and answers of many lengths, half of them with something told in the middle, one
    in three from an older adapter.
    """
    draw = torch.Generator().manual_seed(3)
    bare = []
    for place in range(16):
        group, length = place % 4, 3 + (place * 5) % 8
        tokens = tuple(torch.randint(4, VOCABULARY, (length,), generator=draw).tolist())
        bare.append(
            Rollout(
                group=f"g{group}",
                item=f"i{group}",
                prompt=" ".join(map(str, range(5, 8 + 9 * group))),
                tokens=tokens,
                logprobs=(0.0,) * length,
                mask=tuple(int(not (place % 2 and 2 <= at < 4)) for at in range(length)),
                reward=((place * 7) % 16 + 1) / 16,
                answer="x" if place % 2 else "y" if place > 5 else "z",
                real=tokens[::-1],
                hint=" 9 4",
                adapter="older" if place % 3 == 2 else "parent",
            )
        )
    with torch.no_grad():
        logp = entry.outputs(bare).logp
    noise = 0.3 * torch.randn(logp.shape, generator=draw)
    found = []
    for row, rollout in enumerate(bare):
        off = noise[row] if rollout.adapter == "older" else torch.zeros_like(noise[row])
        kept = (logp[row] + off)[: len(rollout.tokens)] * torch.tensor(rollout.mask)
        found.append(msgspec.structs.replace(rollout, logprobs=tuple(kept.tolist())))
    return found


def step_of(entry: CausalTrainee, batch: list[Rollout], name: str, hyper: Hyper, dtype: Any) -> UpdateResult:
    of = algorithm(name)
    given = [msgspec.structs.replace(r, own=False) for r in batch] if "copies" in of.needs else batch
    model = copied(entry, dtype, of.critic)
    how = {"epochs": 1, "batch_groups": 128, "max_grad_norm": 1e9, **hyper}
    return update(model, of, given, how, seed=0, parent="parent")


def moments(done: UpdateResult) -> Any:
    """AdamW's first moments after one step, all in one: a tenth of the gradient."""
    return torch.cat([each.flatten() for key, each in done.state.items() if key.startswith("exp_avg.")])


def marks(at: int, dtype: str) -> list[pytest.MarkDecorator]:
    """A few in float64 are quick, and the others and a few in float32 slow."""
    if at % 4 == 0:
        return [] if dtype == "float64" else [pytest.mark.slow]
    return [pytest.mark.slow if dtype == "float64" else pytest.mark.long]


@pytest.mark.parametrize(
    ("name", "hyper", "dtype"),
    [
        pytest.param(name, hyper, getattr(torch, dtype), id=f"{name}-{at}-{dtype}", marks=marks(at, dtype))
        for at, (name, hyper) in enumerate(CASES)
        for dtype in ("float64", "float32")
    ],
)
def test_the_gradient_is_that_of_one_forward_to_a_millionth(
    name: str,
    hyper: Hyper,
    dtype: Any,
    entry: CausalTrainee,
    batch: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forward of one unit and one of several, with prompts shared and logits in parts, against one without either."""
    monkeypatch.setattr(causal_lm, "SHARED", 10**9)
    whole = step_of(entry, batch, name, {**hyper, "forward_tokens": 1e6}, dtype)
    gradient = moments(whole)
    assert gradient.norm() > 0
    monkeypatch.setattr(causal_lm, "SHARED", 2)
    monkeypatch.setattr(causal_lm, "LOGITS", VOCABULARY * 7)
    for forward_tokens in (1.0, 60.0):
        cut = step_of(entry, batch, name, {**hyper, "forward_tokens": forward_tokens}, dtype)
        apart = float((moments(cut) - gradient).norm() / gradient.norm())
        # transformers takes norms and angles in float32 in either case; in float32 all else is rounded too
        assert apart < (1e-6 if dtype == torch.float64 else 2e-6), forward_tokens
        for field in set(whole.steps[0].__struct_fields__) - {"seconds"}:
            assert getattr(cut.steps[0], field) == pytest.approx(getattr(whole.steps[0], field), rel=1e-5, abs=1e-6), (
                field
            )


def test_the_same_arguments_give_the_same_bits_whatever_is_cut(entry: CausalTrainee, batch: list[Rollout]) -> None:
    one, two = (step_of(entry, batch, "grpo", {"forward_tokens": 60.0}, torch.float32) for _ in range(2))
    assert all(torch.equal(one.state[key], two.state[key]) for key in one.state)
