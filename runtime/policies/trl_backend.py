"""The same update as `algorithms.learning.update`, its gradient work done by trl's trainers: another back end, not another algorithm.

Ours: which rollouts are learned from, staleness and mismatch, advantages, reference log-probabilities, the optimiser and its state, which
rows share a step, and how a step is told. trl's: the forward, the loss, the backward, the clipping of the gradient, and the loop of
`train()` that steps our optimiser. Each algorithm declares its loss's form, and that finds the trainer:

    clipped      GRPOTrainer, loss_type bnpo (mean over tokens), grpo (within each answer first) or dr_grpo (over a constant length)
    weighted     GRPOTrainer, loss_type cispo: the ratio to whoever sampled the token, truncated and without gradient
    preference   DPOTrainer, with our reference log-probabilities in place of its own reference model
    cloning      SFTTrainer

What trl 1.16 does otherwise, and must not here: given a PeftModel, it adds a frozen copy of the adapter, "ref", and measures KL from that;
we hand it log-probabilities under the base, GRPOTrainer is built with beta 0 so that it adds none, and DPOTrainer's is deleted.
Its KL carries the ratio as a factor unless told not to (use_bias_correction_kl); ours is k3 as it stands.
It multiplies by the mask, and 0 times infinity is no number, so what stands outside the mask is chosen such that no exponential overflows.

Where several processes train together (torch.distributed), each has the loss of its part of every minibatch, and gradients are averaged.
A mean over a part is weighed by the part's share of the minibatch's tokens or rows, so that the average is that of one process on all rows.
trl's own figures are gathered as if all parts were of one size; they are not, and nobody reads these figures, so they are not gathered.
"""

import importlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
import torch
from tokenizers import Tokenizer, models
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from algorithms.learning import terms
from algorithms.learning.batch import Algorithm, Hyper, Rollout, Step, Terms
from algorithms.learning.update import Outputs, PreparedBatch, UpdateResult, adam, finish, minibatches, prepare, report, settings, steer_kl
from algorithms.models.causal_lm import CausalTrainee, pad
from events.errors import UsageError

trl: Any = importlib.import_module("trl")  # so, since its types are partial and of another strictness
datasets: Any = importlib.import_module("datasets")

FAR = -1e4
"""The log-probability under the base outside the mask: so low that k3 is finite whatever the policy says."""
NATIVE = "the native back end"
MEANS = {"tokens": "bnpo", "answers": "grpo", "length": "dr_grpo"}
"""trl's words for what the mean of a clipped loss is over."""
PRIVATE: Mapping[str, tuple[str, ...]] = {
    "GRPOTrainer._generate_and_score_completions": ("self", "inputs"),
    "DPOTrainer._prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
    "GRPOTrainer._send_telemetry": ("self",),
}
"""What is overridden of trl's private methods, with their parameters; why trl's minor version is pinned."""

Inputs = dict[str, torch.Tensor]
T = TypeVar("T")


class PaddedBatch(msgspec.Struct, frozen=True):
    """Some rollouts as rows of token ids after their prompts, padded on the right with 0.

    ids and real (B, L), real being 1 on tokens that are there; what `of` and `own` hold of a token stands at its place less 1, (B, L - 1),
    as the model's logits do. `shared` is the length of the shortest prompt. The log-probabilities of now are not known: zeros.
    """

    ids: torch.Tensor
    real: torch.Tensor
    shared: int
    of: Terms
    own: torch.Tensor


def ranks() -> tuple[int, int]:
    """The number of this process among those that train together, and how many they are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """What each rank gives, in their order; its tensors are to be on the CPU."""
    _, count = ranks()
    found = [value] * count
    if count > 1:
        torch.distributed.all_gather_object(found, value)
    return found


class ShardedModel:
    """A model of which each rank asks its part of the rows, and hears the others' from them."""

    def __init__(self, model: CausalTrainee) -> None:
        self._model = model
        self.adapter, self.critic = model.adapter, model.critic

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """As the model's."""
        rank, count = ranks()
        mine = rollouts[rank::count]
        parts = [part for part in gather(self._model.outputs(mine, base=base, dropout=dropout) if mine else None) if part]

        def joined(tables: Sequence[torch.Tensor]) -> torch.Tensor:
            whole = torch.zeros(len(rollouts), max(table.shape[1] for table in tables))
            for first, table in enumerate(tables):
                whole[first::count, : table.shape[1]] = table
            return whole

        return Outputs(*(joined([getattr(part, name) for part in parts]) for name in Outputs.__struct_fields__))


class RecordedBatch:
    """The recorded batch, as trl is to see it; the minibatches are the native loop's, in its order, of which each rank takes a part."""

    def __init__(self, model: CausalTrainee, algorithm: Algorithm, ready: PreparedBatch, seed: int) -> None:
        self.model, self.algorithm, self.ready = model, algorithm, ready
        self.rank, self.count = ranks()
        self.prompts = [model.encode(rollout.prompt) for rollout in ready.selected.rollouts]
        self.minibatches = minibatches(ready.selected, ready.how, seed)
        self._device = model.adapter[0].device

    def lay(self, places: Sequence[int]) -> PaddedBatch:
        """These rollouts in rows."""
        rollouts = [self.ready.selected.rollouts[place] for place in places]
        rows = [self.prompts[place] + rollout.tokens for place, rollout in zip(places, rollouts, strict=True)]
        ids = pad(rows)

        def spread(table_NT: torch.Tensor) -> torch.Tensor:
            spread_BL = torch.zeros(len(rows), ids.shape[1] - 1)
            for row, (place, rollout) in enumerate(zip(places, rollouts, strict=True)):
                at, count = len(self.prompts[place]) - 1, len(rollout.tokens)
                spread_BL[row, at : at + count] = table_NT[place, :count]
            return spread_BL.to(self._device)

        before, credit = self.ready.initial, self.ready.credit
        mask = spread(before.mask)
        base = torch.where(mask > 0, spread(before.base), FAR)
        nothing = torch.zeros_like(mask)
        return PaddedBatch(
            ids=ids.to(self._device),
            real=pad([(1,) * len(row) for row in rows]).to(self._device),
            shared=min(len(self.prompts[place]) for place in places),
            of=Terms(
                logp=nothing,
                sampled=terms.masked(spread(before.sampled), mask),
                old=terms.masked(spread(before.old), mask),
                base=base,
                advantages=spread(credit.advantages),
                mask=mask,
                entropy=nothing,
                values=nothing,
                old_values=nothing,
                returns=nothing,
            ),
            own=spread(before.own) > 0,
        )

    def part(self, places: Sequence[int]) -> tuple[list[int], float]:
        """This rank's rows of a minibatch, whole pairs where it is made of such, and what their mean loss counts for in the ranks' average.

        With fewer rows than ranks, one that has none takes the first, which counts for nothing.
        """
        width = 2 if self.algorithm.form == "preference" else 1
        units = [places[at : at + width] for at in range(0, len(places), width)]
        mine = [place for unit in units[self.rank :: self.count] for place in unit]
        if not mine:
            return list(units[0]), 0.0
        return mine, self.count * self._size(mine) / self._size(places)

    def _size(self, places: Sequence[int]) -> float:
        """How many of what the loss is the mean of."""
        of = _mean(self.algorithm, self.ready.how)
        return float(self.ready.initial.mask[list(places)].sum()) if of == "tokens" else len(places)

    def inputs(self, places: Sequence[int]) -> Inputs:
        """This rank's part of a minibatch, in the names of its trainer; `places` tells which rollout each row is, `share` as `part`."""
        places, share = self.part(places)
        match self.algorithm.form:
            case "clipped" | "weighted":
                found = _policy(self.lay(places), self.algorithm, self.ready.how, self.count)
            case "preference":
                places = [*places[0::2], *places[1::2]]  # trl's order: all the chosen, then all the rejected
                found = _pairs(self.lay(places), self.algorithm)
            case _:
                found = _clones(self.lay(places))
        return {**found, "places": torch.tensor(places), "share": torch.tensor(share)}


def _mean(algorithm: Algorithm, how: Hyper) -> Literal["tokens", "answers", "length", "pairs"]:
    """What a minibatch's loss is the mean over: `length` is the sum over tokens divided by a constant, then the mean over answers."""
    match algorithm.form:
        case "clipped":
            return "length" if "length" in how else "tokens" if how.get("token_mean") else "answers"
        case "preference":
            return "pairs"
        case _:
            return "tokens"


def _policy(laid: PaddedBatch, algorithm: Algorithm, how: Hyper, ranks: int) -> Inputs:
    """Prompts end where the shortest does: so no row is padded on the left, and positions are those that the policy was asked at."""
    of, at = laid.of, laid.shared
    clipped = algorithm.form == "clipped"
    weight = terms.truncated(of.old, of.sampled, how["truncation"]) if clipped else torch.ones_like(of.mask)
    tables = {
        "tool_mask": of.mask,
        "advantages": weight * of.advantages,
        "old_per_token_logps": of.old if clipped else of.sampled,
        "ref_per_token_logps": of.base,
    }
    return {
        "prompt_ids": laid.ids[:, :at],
        "prompt_mask": laid.real[:, :at],
        "completion_ids": laid.ids[:, at:],
        "completion_mask": laid.real[:, at:],
        **{name: table[:, at - 1 :] for name, table in tables.items()},
        "num_items_in_batch": of.mask.sum() * ranks,  # cispo divides it by them
    }


def _pairs(laid: PaddedBatch, algorithm: Algorithm) -> Inputs:
    reference = laid.of.old if algorithm.reference == "old" else laid.of.base
    chosen, rejected = terms.masked(reference, laid.of.mask).sum(1).chunk(2)
    return {
        "input_ids": laid.ids,
        "attention_mask": laid.real,
        "completion_mask": torch.nn.functional.pad(laid.of.mask, (1, 0)).long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }


def _clones(laid: PaddedBatch) -> Inputs:
    learned = torch.nn.functional.pad(laid.of.mask, (1, 0)) > 0
    return {"input_ids": laid.ids, "attention_mask": laid.real, "labels": laid.ids.masked_fill(~learned, -100)}


class RecordedTrainer:
    """What the three trainers are made to do alike: take recorded minibatches as they come, and tell of each step.

    `feed` comes before `train()`; after it, `done` holds each step and the weight of KL after it.
    """

    def feed(self, recorded: RecordedBatch) -> None:
        self.recorded = recorded
        self.processing_class = None  # or train() would give the model its special tokens
        self.kl = recorded.ready.how.get("kl", 0.0)
        self.done: list[tuple[Step, float]] = []
        self.said: Any = None
        self.accelerator.gather = lambda tensor: tensor  # type: ignore[attr-defined]

    def hear(self, module: object, args: object, output: Any) -> None:
        """The model's forward hook: the log-probabilities and entropies (B, L - 1) that the loss is made from."""
        self.said = output

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.recorded.minibatches, batch_size=None, collate_fn=self.recorded.inputs)  # type: ignore[arg-type]

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        self.began = time.perf_counter()
        self.places, share = inputs.pop("places").tolist(), inputs.pop("share")
        self.recorded.model.set_mode()  # without the base's dropout, as the native loop
        loss = share * super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[misc]
        self.loss, self.counting = float(loss.detach()), len(self.places) if share else 0
        return loss

    def log(self, logs: Mapping[str, float], start_time: float | None = None) -> None:
        """Called after each step, and once more at the end; nothing is printed."""
        if "grad_norm" not in logs:
            return
        mine = (table[: self.counting].detach().cpu() for table in (self.said.log_probs, self.said.entropy))
        losses, places, logps, entropies = zip(*gather((self.loss, self.places[: self.counting], *mine)), strict=True)
        ready, laid = self.recorded.ready, self.recorded.lay([place for part in places for place in part])
        of = msgspec.structs.replace(laid.of, logp=_stack(logps).to(laid.own.device), entropy=_stack(entropies).to(laid.own.device))
        step = report(of, laid.own, sum(losses) / len(losses), logs["grad_norm"], ready.selected.tied_groups, ready.how, self.began)
        self.kl = steer_kl(self.kl, step, ready.how)
        self.done.append((step, self.kl))

    def _send_telemetry(self) -> None:
        pass


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


class RecordedGRPOTrainer(RecordedTrainer, trl.GRPOTrainer):  # type: ignore[misc]
    """Completions that were generated and scored before."""

    def _generate_and_score_completions(self, inputs: Inputs) -> Inputs:
        self.beta = self.kl if self.recorded.algorithm.reference else 0.0
        return inputs


class RecordedDPOTrainer(RecordedTrainer, trl.DPOTrainer):  # type: ignore[misc]
    """Pairs that are token ids already."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


class RecordedSFTTrainer(RecordedTrainer, trl.SFTTrainer):  # type: ignore[misc]
    """Token ids with labels."""


def update(
    model: CausalTrainee,
    algorithm: Algorithm,
    rollouts: Sequence[Rollout],
    hyper: Hyper,
    *,
    seed: int,
    parent: str,
    state: Mapping[str, torch.Tensor] | None = None,
) -> UpdateResult:
    """Train `model` in place, as `algorithms.learning.update.update` does and by trl; what it returns and raises is the same.

    In a process group, every rank is to call this with the same arguments, and has the same weights and returns the same in the end.
    Raises UsageError too for what trl has no loss for: PPO, and cloning with a KL term; and for dropout in the adapter.
    """
    how = settings(algorithm, hyper)
    if algorithm.form == "actor_critic":
        raise UsageError(f"The trl back end has no loss with a critic, which {algorithm.name} needs; order {NATIVE}.")
    if algorithm.form == "cloning" and how["kl"]:
        raise UsageError(f"The trl back end has no KL term for cloning, and kl is {how['kl']:g}; order kl 0, or {NATIVE}.")
    if how["dropout"]:
        raise UsageError(f"The trl back end has no dropout, and {how['dropout']:g} was ordered; order dropout 0.")
    asked = model if ranks()[1] == 1 else ShardedModel(model)
    ready = prepare(asked, algorithm, rollouts, hyper, parent=parent, state=state)
    optimiser = adam(model, ready.how, state)
    with tempfile.TemporaryDirectory() as room, _restoring(model):
        trainer = _trainer(model, algorithm, ready.how, optimiser, seed, room)
        trainer.feed(RecordedBatch(model, algorithm, ready, seed))
        hook = model.model.register_forward_hook(trainer.hear)
        try:
            trainer.train()
        finally:
            hook.remove()
    return finish(model, ready, optimiser, trainer.done)


def _trainer(model: CausalTrainee, algorithm: Algorithm, how: Hyper, optimiser: torch.optim.Optimizer, seed: int, room: str) -> Any:
    shared: dict[str, Any] = {
        "output_dir": room,
        "seed": seed % 2**32,  # decides nothing but the order of rows within a step
        "use_cpu": model.adapter[0].device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_grad_norm": how["max_grad_norm"],
        "num_train_epochs": 1,  # over the minibatches of all epochs
        "per_device_train_batch_size": 2,  # of the placeholder; a step takes one minibatch, whatever its size
        "gradient_accumulation_steps": 1,
        "average_tokens_across_devices": False,
        "router_aux_loss_coef": 0.0,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    given: dict[str, Any] = {
        "model": model.model,
        "processing_class": _placeholder(),
        "optimizers": (optimiser, LambdaLR(optimiser, lambda step: 1.0)),
    }
    match algorithm.form:
        case "preference":
            nothing = datasets.Dataset.from_dict({"prompt": [""], "chosen": [""], "rejected": [""]})
            pairs: Any = RecordedDPOTrainer(args=_one_device(trl.DPOConfig(**shared, beta=how["beta"])), train_dataset=nothing, **given)
            model.model.delete_adapter("ref")
            pairs.precompute_ref_logps = True
            return pairs
        case "cloning":
            skip = trl.SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True})
            return RecordedSFTTrainer(
                args=_one_device(skip), train_dataset=datasets.Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}), **given
            )
        case _:
            clipped = algorithm.form == "clipped"
            args = trl.GRPOConfig(
                **shared,
                loss_type=MEANS[_mean(algorithm, how)] if clipped else "cispo",
                epsilon=how["clip_low"],
                epsilon_high=how["clip_high"] if clipped else how["truncation"],
                beta=0.0,
                use_bias_correction_kl=False,
                num_generations=2,
                num_iterations=1,
                steps_per_generation=1,
            )
            nothing = datasets.Dataset.from_dict({"prompt": [""] * 2})
            policy: Any = RecordedGRPOTrainer(reward_funcs=_unasked, args=_one_device(args), train_dataset=nothing, **given)
            policy.max_completion_length = how.get("length", 1.0)
            return policy


def _one_device(args: Any) -> Any:
    """However many devices this process sees, it uses one; transformers would spread a model over all, which trl refuses."""
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _unasked(**columns: object) -> list[float]:
    raise AssertionError("rewards are recorded")


def _placeholder() -> PreTrainedTokenizerFast:
    """A tokenizer for trl's constructors, which insist on one; no text reaches it. Its padding is token 0, as that of our rows."""
    words = Tokenizer(models.WordLevel({"-": 0}, "-"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="-", eos_token="-")  # type: ignore[no-untyped-call]


@contextmanager
def _restoring(model: CausalTrainee) -> Iterator[None]:
    """Undo what trl's constructors change of a model beside its weights: its forward, tags, padding token, and adapters."""
    base = model.model.get_base_model()
    held = [(each, dict(vars(each))) for each in (base, model.model, base.config, base.generation_config)]
    try:
        yield
    finally:
        for each, were in held:
            vars(each).clear()
            vars(each).update(were)
        if "ref" in model.model.peft_config:
            model.model.delete_adapter("ref")
        model.model.eval()
