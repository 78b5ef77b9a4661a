"""The trl back end against the native one, on the same recorded batch and weights."""

import copy
import gc
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from math import exp
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from algorithms.demos import toys  # noqa: E402
from algorithms.learning import NAMES, algorithm, terms  # noqa: E402
from algorithms.learning.batch import (  # noqa: E402
    Algorithm,
    Credit,
    Diverged,
    Hyper,
    InitialBatch,
    Mismatch,
    NothingToLearn,
    Rollout,
)
from algorithms.learning.update import UpdateResult, prepare, update  # noqa: E402
from algorithms.models.tiny_lm import TinyLM, TinyTrainee  # noqa: E402
from events.errors import UsageError  # noqa: E402
from runtime.policies import trl_backend  # noqa: E402
from tests.harness.adapters import move_adapter  # noqa: E402
from tests.harness.few import few  # noqa: E402

PARENT = "parent"
TOLERANCE = 1e-5
CASES: list[tuple[str, Hyper]] = [
    ("grpo", {"kl": 0.3}),
    ("grpo", {"token_mean": 0.0, "clip_low": 0.01, "clip_high": 0.02, "truncation": 1.1}),
    ("dr_grpo", {"kl": 0.3, "length": 7.5}),
    ("ttrl", {"kl": 0.3}),
    ("gspo", {"kl": 0.3, "truncation": 1.1}),
    ("max_rl", {"kl": 0.3, "truncation": 1.2}),
    ("opsd", {"kl": 0.3, "bound": 1.0}),
    ("rloo", {"kl": 0.3, "truncation": 1.2}),
    ("entropic", {}),
    ("reinforce", {"kl": 0.3}),
    ("dpo", {"beta": 0.7}),
    ("spin", {"beta": 0.7}),
    ("best_of_n", {"best": 3.0}),
    ("star", {}),
    ("test_time", {}),
]
WEIGHED = [(name, hyper) for name, hyper in CASES if algorithm(name).form in ("clipped", "weighted")]
IDS = [name for name, _ in CASES]


def test_every_algorithm_that_trl_can_train_has_a_case() -> None:
    assert set(IDS) == {name for name in NAMES if algorithm(name).form != "actor_critic"}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Each train() collects garbage, among all that torch and trl have imported: half of its time here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def base() -> TinyLM:
    return TinyLM.pretrain(toys.traces(0, 2000), seed=0, steps=10)


@pytest.fixture(scope="module")
def entry(base: TinyLM) -> TinyTrainee:
    """An adapter that is some way from the base already."""
    made = TinyTrainee(base, None, seed=1)
    move_adapter(made.model, 0.02, seed=0)
    return made


@pytest.fixture
def model(entry: TinyTrainee) -> TinyTrainee:
    """A copy, to be trained."""
    return copied(entry)


def copied(of: TinyTrainee) -> TinyTrainee:
    made = copy.copy(of)
    made.model = copy.deepcopy(of.model)
    return made


def mask_of(turn: int, length: int) -> tuple[int, ...]:
    """Every second sequence has something told in the middle."""
    return tuple(int(not (turn % 2 and 2 <= place < 4)) for place in range(length))


@pytest.fixture(scope="module")
def batch(entry: TinyTrainee) -> list[Rollout]:
    """3 groups of 4, prompts and answers of many lengths, some of several turns, one in three from an older adapter."""
    draw = torch.Generator().manual_seed(3)
    bare = []
    for place in range(12):
        group, length = place % 3, 3 + (place * 5) % 8
        tokens = tuple(torch.randint(4, 250, (length,), generator=draw).tolist())
        bare.append(
            Rollout(
                group=f"g{group}",
                item=f"i{group}",
                prompt="what comes" + " next and then" * group,
                tokens=tokens,
                logprobs=(0.0,) * length,
                mask=mask_of(place, length),
                reward=[0.0, 1.0, 0.25, 1.0][place // 3] if place else 0.5,
                answer="x" if place % 2 else "y" if place > 5 else "z",
                real=tokens[::-1],
                hint=" of them",
                adapter="older" if place % 3 == 2 else PARENT,
            )
        )
    with torch.no_grad():
        logp = entry.outputs(bare).logp
    noise = 0.4 * torch.randn(logp.shape, generator=draw)
    found = []
    for row, rollout in enumerate(bare):
        kept = [
            (float(logp[row, at]) + (float(noise[row, at]) if rollout.adapter == "older" else 0.0)) * one
            for at, one in enumerate(rollout.mask)
        ]
        found.append(msgspec.structs.replace(rollout, logprobs=tuple(kept)))
    return found


def given(name: str, batch: list[Rollout]) -> list[Rollout]:
    """What the algorithm is handed of the batch; half of it demonstrations where it clones."""
    if algorithm(name).form != "cloning":
        return (
            batch
            if name != "dpo"
            else [msgspec.structs.replace(r, reward=r.reward + place / 100) for place, r in enumerate(batch)]
        )
    return [msgspec.structs.replace(r, own=False) for r in batch] if name == "test_time" else batch


def run(back_end: Any, of: Algorithm | str, model: TinyTrainee, batch: list[Rollout], **hyper: float) -> UpdateResult:
    of = algorithm(of) if isinstance(of, str) else of
    done = back_end(model, of, batch, {"max_grad_norm": 1e9, "epochs": 1, **hyper}, seed=5, parent=PARENT)
    assert isinstance(done, UpdateResult)
    return done


def apart(one: UpdateResult, other: UpdateResult) -> float:
    """The largest difference of the losses and of the gradients, the latter as a share of the largest entry; after a
    first step.
    """
    (first,), (second,) = one.steps, other.steps
    names = [name for name in one.state if name.startswith("exp_avg.")]
    assert names and set(one.state) == set(other.state)
    largest = max(float(one.state[name].abs().max()) for name in names)
    assert largest > 0
    gradients = max(float((one.state[name] - other.state[name]).abs().max()) for name in names) / largest
    return max(abs(first.loss - second.loss), gradients)


@pytest.fixture(scope="module")
def native(entry: TinyTrainee, batch: list[Rollout]) -> Callable[..., UpdateResult]:
    """What the native back end makes of each case, worked out once."""
    known: dict[str, UpdateResult] = {}

    def of(name: str, hyper: Hyper) -> UpdateResult:
        key = f"{name} {hyper}"
        known[key] = known.get(key) or run(update, name, copied(entry), given(name, batch), **hyper)
        return known[key]

    return of


@pytest.mark.parametrize(("name", "hyper"), few(CASES, *CASES[::2]), ids=IDS)
def test_both_back_ends_give_the_same_loss_and_gradient(
    name: str, hyper: Hyper, model: TinyTrainee, batch: list[Rollout], native: Callable[..., UpdateResult]
) -> None:
    mine, by_trl = native(name, hyper), run(trl_backend.update, name, model, given(name, batch), **hyper)
    assert apart(mine, by_trl) < TOLERANCE
    for field in set(mine.steps[0].__struct_fields__) - {"seconds"}:
        assert getattr(by_trl.steps[0], field) == pytest.approx(getattr(mine.steps[0], field), rel=1e-4, abs=1e-5), (
            field
        )
    assert (by_trl.trained_on, by_trl.left_out, by_trl.votes) == (mine.trained_on, mine.left_out, mine.votes)


@pytest.mark.parametrize(("name", "hyper"), few([CASES[1], CASES[2], CASES[4], CASES[7], CASES[9]], CASES[1], CASES[9]))
@pytest.mark.parametrize("forward_tokens", few([1.0, 100.0], 100.0))
def test_a_step_of_several_forwards_is_that_of_one(
    name: str,
    hyper: Hyper,
    forward_tokens: float,
    model: TinyTrainee,
    batch: list[Rollout],
    native: Callable[..., UpdateResult],
) -> None:
    shapes: list[tuple[int, ...]] = []
    model.model.get_input_embeddings().register_forward_hook(
        lambda module, given, output: shapes.append(tuple(given[0].shape)) if torch.is_grad_enabled() else None
    )
    mine = native(name, hyper)
    by_trl = run(trl_backend.update, name, model, given(name, batch), forward_tokens=forward_tokens, **hyper)
    assert apart(mine, by_trl) < TOLERANCE
    for field in set(mine.steps[0].__struct_fields__) - {"seconds"}:
        assert getattr(by_trl.steps[0], field) == pytest.approx(getattr(mine.steps[0], field), rel=1e-4, abs=1e-5), (
            field
        )
    unit = 2 if name == "dpo" else 1
    assert len(shapes) > 1 and all(rows == unit or rows * width <= forward_tokens for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == by_trl.trained_on


def scaled(of: Algorithm) -> Algorithm:
    def credit(before: InitialBatch, hyper: Hyper) -> Credit:
        true = of.credit(before, hyper).advantages if of.credit else before.advantages.unsqueeze(1) * before.mask
        return Credit(1.01 * true, torch.zeros_like(true))

    return msgspec.structs.replace(of, credit=credit)


@pytest.mark.parametrize(("name", "hyper"), few(WEIGHED, *WEIGHED[::3]), ids=[name for name, _ in WEIGHED])
def test_an_advantage_scaled_in_one_back_end_is_noticed(
    name: str, hyper: Hyper, model: TinyTrainee, batch: list[Rollout], native: Callable[..., UpdateResult]
) -> None:
    assert (
        apart(native(name, hyper), run(trl_backend.update, scaled(algorithm(name)), model, batch, **hyper))
        > 100 * TOLERANCE
    )


@pytest.mark.parametrize(("name", "hyper"), few(CASES, CASES[0], CASES[8], CASES[11]), ids=IDS)
def test_a_mask_shifted_in_one_back_end_is_noticed(
    name: str,
    hyper: Hyper,
    model: TinyTrainee,
    batch: list[Rollout],
    native: Callable[..., UpdateResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = trl_backend.RecordedBatch.padded

    def wrong(self: trl_backend.RecordedBatch, places: Sequence[int]) -> trl_backend.PaddedBatch:
        rows = right(self, places)
        return msgspec.structs.replace(rows, terms=msgspec.structs.replace(rows.terms, mask=rows.terms.mask.roll(1, 1)))

    monkeypatch.setattr(trl_backend.RecordedBatch, "padded", wrong)
    assert (
        apart(native(name, hyper), run(trl_backend.update, name, model, given(name, batch), **hyper)) > 100 * TOLERANCE
    )


def same_way(one: TinyTrainee, other: TinyTrainee, entry: TinyTrainee) -> None:
    """Both adapters are where the other is, as a share of how far they went too."""
    here, there, start = (
        torch.cat([parameter.detach().flatten() for parameter in each.adapter]) for each in (one, other, entry)
    )
    assert float((here - there).abs().max()) < 1e-4
    assert float((here - there).norm()) < 1e-3 * float((here - start).norm())


@pytest.mark.parametrize("name", few(["grpo", "gspo", "reinforce", "spin", "best_of_n"], "grpo", "spin"))
def test_three_steps_and_the_state_that_they_leave_are_the_same(
    name: str, entry: TinyTrainee, model: TinyTrainee, batch: list[Rollout]
) -> None:
    rollouts, other = given(name, batch), copied(model)
    hyper = {"batch_groups": 4.0 if name == "spin" else 1.0, "max_grad_norm": 0.5, "lr": 3e-4, "weight_decay": 0.01}
    mine, by_trl = run(update, name, other, rollouts, **hyper), run(trl_backend.update, name, model, rollouts, **hyper)
    assert len(mine.steps) == len(by_trl.steps) == 3
    assert set(mine.state) == set(by_trl.state)
    assert [step.grad_norm for step in by_trl.steps] == pytest.approx([step.grad_norm for step in mine.steps], rel=1e-3)
    same_way(other, model, entry)


def test_a_second_update_goes_on_from_the_state_of_the_first_with_kl_steered(
    entry: TinyTrainee, model: TinyTrainee, batch: list[Rollout]
) -> None:
    other = copied(model)
    hyper = {"batch_groups": 1.0, "kl": 0.5, "kl_target": 1e-3, "mismatch": 1e3, "lr": 3e-4}
    left = []
    for by, trained in ((update, other), (trl_backend.update, model)):
        state = run(by, "grpo", trained, batch, **hyper).state
        left.append(
            by(trained, algorithm("grpo"), batch, {"epochs": 1, **hyper}, seed=6, parent=PARENT, state=state).state
        )
    assert float(left[0]["kl"]) == pytest.approx(float(left[1]["kl"]), rel=1e-3) and float(left[0]["kl"]) > 0.5
    same_way(other, model, entry)


@pytest.mark.parametrize("name", ["grpo", "dpo", "best_of_n"])
def test_the_model_is_handed_back_as_it_was_lent_with_one_adapter_to_save(
    name: str, model: TinyTrainee, batch: list[Rollout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    names = [parameter for parameter, _ in model.model.named_parameters()]
    config = copy.deepcopy(model.model.config)
    for _ in range(2):
        run(
            trl_backend.update, name, model, given(name, batch), mismatch=1e3, **({"kl": 0.1} if name == "grpo" else {})
        )
    assert list(model.model.peft_config) == ["default"] and model.model.active_adapters == ["default"]
    assert [parameter for parameter, _ in model.model.named_parameters()] == names
    assert all(parameter.requires_grad == ("lora" in each) for each, parameter in model.model.named_parameters())
    assert "forward" not in vars(model.model.get_base_model()) and not model.model._forward_hooks
    assert model.model.config.to_dict() == config.to_dict() and not any(each.training for each in model.model.modules())
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path / "saved", "card")
    assert {path.name for path in (tmp_path / "saved").rglob("*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert (tmp_path / "saved" / "README.md").read_text() == "card"


def test_kl_is_to_the_base_and_not_to_the_adapter_that_the_update_starts_with(
    model: TinyTrainee, batch: list[Rollout]
) -> None:
    one = [msgspec.structs.replace(r, adapter=PARENT) for r in batch[:2]]
    two = [msgspec.structs.replace(r, group="g", item="i", reward=float(place)) for place, r in enumerate(one)]
    with torch.no_grad():
        now, base = model.outputs(two).logp.double(), model.outputs(two, base=True).logp.double()
    k3 = [
        exp(float(base[row, at] - now[row, at])) - float(base[row, at] - now[row, at]) - 1
        for row, rollout in enumerate(two)
        for at, one in enumerate(rollout.mask)
        if one
    ]
    tokens = [sum(rollout.mask) for rollout in two]
    (step,) = run(trl_backend.update, "grpo", model, two, kl=2.0).steps
    advantage = 1.0  # the ratios are 1, so each token's loss is less its advantage
    assert sum(k3) / len(k3) > 1e-3
    assert step.loss == pytest.approx(
        advantage * (tokens[0] - tokens[1]) / sum(tokens) + 2 * sum(k3) / len(k3), abs=1e-5
    )
    assert step.kl_to_base == pytest.approx(sum(k3) / len(k3), rel=1e-4)


def test_dpo_measures_from_the_base_and_spin_from_the_parent(model: TinyTrainee, batch: list[Rollout]) -> None:
    assert run(trl_backend.update, "spin", copied(model), batch).steps[0].loss == pytest.approx(0.693147, abs=1e-5)
    assert abs(run(trl_backend.update, "dpo", model, given("dpo", batch), beta=0.7).steps[0].loss - 0.693147) > 1e-3


def test_what_trl_has_no_loss_for_is_refused_in_words(model: TinyTrainee, batch: list[Rollout]) -> None:
    for name, hyper, words in (
        ("ppo", {}, r"no loss with a critic, which ppo needs; order the native back end\."),
        ("best_of_n", {"kl": 0.1}, r"no KL term for cloning, and kl is 0\.1; order kl 0, or the native back end\."),
        ("grpo", {"dropout": 0.1}, r"no dropout, and 0\.1 was ordered"),
        ("grpo", {"nothing": 1.0}, r"grpo has no hyper-parameter 'nothing'"),
    ):
        with pytest.raises(UsageError, match=words):
            run(trl_backend.update, name, model, batch, **hyper)


def test_a_batch_is_refused_as_natively(model: TinyTrainee, batch: list[Rollout]) -> None:
    with pytest.raises(NothingToLearn, match="all attempts have the same reward"):
        run(trl_backend.update, "grpo", model, [msgspec.structs.replace(r, reward=1.0) for r in batch])
    with pytest.raises(Mismatch, match="not the parent adapter's"):
        run(
            trl_backend.update,
            "grpo",
            model,
            [msgspec.structs.replace(r, adapter=PARENT) for r in batch],
            mismatch=1e-4,
        )


@pytest.mark.parametrize("name", ["grpo", "dpo"])
def test_a_diverged_update_says_so_and_leaves_one_adapter(name: str, model: TinyTrainee, batch: list[Rollout]) -> None:
    with pytest.raises(Diverged, match="order a smaller learning rate"):
        run(trl_backend.update, name, model, given(name, batch), lr=1e30, epochs=3)
    assert list(model.model.peft_config) == ["default"] and "forward" not in vars(model.model.get_base_model())


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_both_train_at_the_temperature_that_was_sampled_at_and_leave_out_what_is_off_or_cut(
    name: str, entry: TinyTrainee, model: TinyTrainee, batch: list[Rollout]
) -> None:
    def odd(row: int, rollout: Rollout) -> Rollout:
        logprobs = (rollout.logprobs[0] + 8 * (row == 0), *rollout.logprobs[1:])
        return msgspec.structs.replace(rollout, temperature=0.7, cut=row == 4, logprobs=logprobs)

    here = [odd(row, rollout) for row, rollout in enumerate(batch) if rollout.adapter == PARENT]
    hyper = {"kl": 0.3, "off_share": 0.1, "mask_cut": 1.0}
    done = [run(by, name, copied(entry), here, **hyper) for by in (update, trl_backend.update)]
    assert apart(*done) < TOLERANCE
    assert [(each.masked_tokens, each.trained_on) for each in done] == [(1, 7)] * 2
    assert done[0].steps[0].ratio_mean == pytest.approx(1, abs=1e-4) == done[1].steps[0].ratio_mean
    plain = run(update, name, copied(entry), [msgspec.structs.replace(r, temperature=1.0) for r in here], **hyper)
    assert apart(plain, done[1]) > 100 * TOLERANCE


def test_temperatures_that_trl_cannot_train_at_are_refused_in_words(model: TinyTrainee, batch: list[Rollout]) -> None:
    here = [rollout for rollout in batch if rollout.adapter == PARENT]
    warm = [msgspec.structs.replace(rollout, temperature=0.7) for rollout in here]
    with pytest.raises(UsageError, match=r"trains grpo at one temperature, .* sampled at 0\.7, 1; order the native"):
        run(trl_backend.update, "grpo", model, [*warm[:4], *here[4:]])
    with pytest.raises(UsageError, match=r"trains dpo at one temperature, which is 1, .* sampled at 0\.7; order"):
        run(trl_backend.update, "dpo", model, given("dpo", warm))


def test_stale_rollouts_are_left_out_where_that_was_ordered(model: TinyTrainee, batch: list[Rollout]) -> None:
    done = run(trl_backend.update, "grpo", model, batch, stale=0)
    assert (done.trained_on, done.left_out) == (8, 4)


def test_nothing_is_printed_or_logged(
    model: TinyTrainee, batch: list[Rollout], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for name in ("grpo", "dpo", "best_of_n"):
            run(trl_backend.update, name, copied(model), given(name, batch))
    assert (capsys.readouterr(), caplog.messages) == (("", ""), [])


@pytest.mark.parametrize("logp", [-1e3, 0.0])
def test_what_stands_outside_the_mask_never_overflows(logp: float, model: TinyTrainee, batch: list[Rollout]) -> None:
    """trl multiplies by the mask, so infinity there would make the loss NaN; the native losses cut it out."""
    ready = prepare(model, algorithm("grpo"), batch, {"kl": 1.0}, parent=PARENT)
    of = trl_backend.RecordedBatch(model, algorithm("grpo"), ready, 0).padded(range(len(batch))).terms
    now, outside = torch.full_like(of.mask, logp), of.mask == 0
    for seen in (terms.k3(now, of.base), terms.ratio(now, of.old), terms.ratio(now, of.sampled)):
        assert outside.any() and torch.isfinite(seen[outside]).all()


def test_trl_is_of_the_minor_version_that_was_read_and_has_what_is_overridden_and_read() -> None:
    assert trl.__version__.startswith("1.16.")
    for name, parameters in trl_backend.PRIVATE.items():
        owner, method = name.split(".")
        assert tuple(inspect.signature(getattr(getattr(trl, owner), method)).parameters) == parameters
    policy = (
        "self.beta",
        "self.max_completion_length",
        '"tool_mask"',
        "advantages.dim() == 1",
    )
    pairs = ("self.precompute_ref_logps", 'inputs["ref_chosen_logps"]', 'inputs["completion_mask"]')
    for trainer, names in ((trl.GRPOTrainer, policy), (trl.DPOTrainer, pairs)):
        source = inspect.getsource(trainer._compute_loss)
        assert [name for name in names if name not in source] == []
