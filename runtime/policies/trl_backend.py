"""A back end for weight updates: the update of `algorithms.learning.update`, with the gradient work done by trl's
trainers.

Ours: which rollouts are learned from, staleness and mismatch, advantages, reference log-probabilities, the optimiser
and its state, which rows share a step, and a step's report. trl's: the forward, the loss, the backward, the clipping of
the gradient, and the loop of `train()` that steps our optimiser. Each algorithm declares its loss's form, and that
finds the trainer:

    clipped      GRPOTrainer, loss_type bnpo (mean over tokens), grpo (within each answer first) or dr_grpo (over a
                 constant length)
    clipped_sequence  the same with one ratio for each answer, loss_type grpo
    weighted     GRPOTrainer, loss_type cispo: the ratio to whoever sampled the token, truncated and without gradient
    preference   DPOTrainer, with our reference log-probabilities in place of its own reference model
    cloning      SFTTrainer

What trl 1.16 does by itself, and must not here: given a PeftModel, it adds a frozen copy of the adapter, "ref", and
measures KL from that; GRPOTrainer is built with beta 0 so that it adds none and has no KL term, and DPOTrainer's is
deleted. The KL term is ours (`terms.kl_penalty`), added to trl's loss: trl's own has the same gradient on policy
(use_bias_correction_kl), but weighs no stale row and truncates no ratio. It multiplies by the mask, and 0 times
infinity is no number, so what stands outside the mask is chosen such that no exponential overflows.

A minibatch is cut into forwards as in the native loop, and their gradients add up to one step. Where several processes
train together (torch.distributed), each has the loss of its part of every minibatch, and gradients are averaged. A mean
over a part is weighed by the part's share of the minibatch's tokens or rows, so that the sum is that of one forward of
all rows by one process. trl's own figures are gathered as if all parts were of one size; they are
not, and nobody reads these figures, so they are not gathered.
"""

import importlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, assert_never, cast

import msgspec
import torch
from tokenizers import Tokenizer, models
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from algorithms.learning import terms
from algorithms.learning.batch import Algorithm, Hyper, Rollout, Step, Terms
from algorithms.learning.update import (
    PreparedBatch,
    UpdateResult,
    adam,
    finish,
    mean_over,
    minibatches,
    pack,
    prepare,
    report,
    settings,
    share,
    steer_kl,
    unit_width,
)
from algorithms.models.causal_lm import CausalTrainee, pad
from events.errors import UsageError
from runtime.policies.sharding import ShardedModel, gather, ranks

trl: Any = importlib.import_module("trl")  # so, since its types are partial and of another strictness
datasets: Any = importlib.import_module("datasets")

FAR = -1e4
"""The log-probability under the base outside the mask, so low that k3 is finite whatever the policy's is."""
NATIVE = "the native back end"
MEANS = {"tokens": "bnpo", "answers": "grpo", "length": "dr_grpo"}
"""trl's names for the means of `mean_over`, for a clipped loss."""
PRIVATE: Mapping[str, tuple[str, ...]] = {
    "GRPOTrainer._generate_and_score_completions": ("self", "inputs"),
    "DPOTrainer._prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
    "GRPOTrainer._compute_loss": ("self", "model", "inputs"),
    "GRPOTrainer._send_telemetry": ("self",),
}
"""The private methods of trl that are overridden here, with their parameters.

They are why trl's minor version is pinned.
"""

Inputs = dict[str, torch.Tensor]


class PaddedBatch(msgspec.Struct, frozen=True):
    """B rollouts as rows of L token ids, the prompt's and the completion's, padded on the right with 0.

    `ids` and `attention` are (B, L); `attention` is 1 on tokens and 0 on padding. Tensors in `terms` and `own` are (B,
    L - 1): the entry of a token stands one place before it, as in the model's logits. `shared` is the length of the
    shortest prompt. The model's present log-probabilities are not known yet: zeros.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    shared: int
    terms: Terms
    own: torch.Tensor


class RecordedBatch:
    """The recorded batch in the form that trl's trainers take. Its minibatches and their order are those of the native
    loop.

    Each rank takes a part of every minibatch.
    """

    def __init__(self, model: CausalTrainee, algorithm: Algorithm, ready: PreparedBatch, seed: int) -> None:
        self.model, self.algorithm, self.ready = model, algorithm, ready
        self.rank, self.count = ranks()
        self.prompts = [model.encode(rollout.prompt, rollout.plain) for rollout in ready.selected.rollouts]
        self.minibatches = minibatches(ready.selected, ready.hyper, seed)
        self._device = model.adapter[0].device

    def padded(self, indices: Sequence[int]) -> PaddedBatch:
        """The rollouts at these indices as padded rows."""
        rollouts = [self.ready.selected.rollouts[index] for index in indices]
        rows = [self.prompts[index] + rollout.tokens for index, rollout in zip(indices, rollouts, strict=True)]
        ids = pad(rows)

        def spread(table_NT: torch.Tensor) -> torch.Tensor:
            spread_BL = torch.zeros(len(rows), ids.shape[1] - 1)
            for row, (index, rollout) in enumerate(zip(indices, rollouts, strict=True)):
                at, count = len(self.prompts[index]) - 1, len(rollout.tokens)
                spread_BL[row, at : at + count] = table_NT[index, :count]
            return spread_BL.to(self._device)

        initial, credit = self.ready.initial, self.ready.credit
        mask = spread(initial.mask)
        base = torch.where(mask > 0, spread(initial.base), FAR)
        zeros = torch.zeros_like(mask)
        return PaddedBatch(
            ids=ids.to(self._device),
            attention=pad([(1,) * len(row) for row in rows]).to(self._device),
            shared=min(len(self.prompts[index]) for index in indices),
            terms=Terms(
                logp=zeros,
                sampled=terms.masked(spread(initial.sampled), mask),
                old=terms.masked(spread(initial.old), mask),
                base=base,
                advantages=spread(credit.advantages),
                mask=mask,
                entropy=zeros,
                values=zeros,
                old_values=zeros,
                returns=zeros,
            ),
            own=spread(initial.own) > 0,
        )

    def parts(self, indices: Sequence[int]) -> list[tuple[list[int], float]]:
        """The rows of each forward of this rank in a minibatch, with the weight of their mean loss in the average over
        ranks. Pairs are not divided.

        With fewer rows than ranks, a rank without any takes the first, with weight 0.
        """
        width = unit_width(self.algorithm)
        units = [indices[at : at + width] for at in range(0, len(indices), width)]
        mine = units[self.rank :: self.count]
        if not mine:
            return [(list(units[0]), 0.0)]
        rollouts = self.ready.selected.rollouts
        lengths = {i: len(self.prompts[i]) + len(rollouts[i].tokens) for unit in mine for i in unit}
        return [
            (part, self.count * share(self.algorithm, self.ready, part, indices))
            for part in pack(mine, lengths, int(self.ready.hyper["forward_tokens"]))
        ]

    def inputs(self, indices: Sequence[int]) -> dict[str, list[Inputs]]:
        """The inputs of each forward of this rank in a minibatch, in order, under `parts`."""
        return {"parts": [self.part(*part) for part in self.parts(indices)]}

    def part(self, indices: Sequence[int], weight: float) -> Inputs:
        """One forward's inputs, by its trainer's names for the tensors.

        `places` are the rows' indices, `share` the weight of their mean loss.
        """
        match self.algorithm.form:
            case "clipped" | "clipped_sequence" | "weighted":
                inputs = _policy(self.padded(indices), self.algorithm, self.ready.hyper, self.count)
            case "preference":
                indices = [*indices[0::2], *indices[1::2]]  # trl's order: all the chosen, then all the rejected
                inputs = _pairs(self.padded(indices), self.algorithm)
            case "cloning":
                inputs = _clones(self.padded(indices))
            case "actor_critic":
                raise _no_critic(self.algorithm)
            case _:
                assert_never(self.algorithm.form)
        return {**inputs, "places": torch.tensor(indices), "share": torch.tensor(weight)}


def _policy(batch: PaddedBatch, algorithm: Algorithm, hyper: Hyper, ranks: int) -> Inputs:
    """The inputs of GRPOTrainer. All prompts are cut at the length of the shortest, the rest of a longer one going to
    its completion.

    So no row is padded on the left, and positions are those at which the policy sampled.
    """
    minibatch, prompt_length = batch.terms, batch.shared
    clipped = algorithm.form != "weighted"
    weight = torch.ones_like(minibatch.mask)
    if algorithm.form == "clipped":
        weight = terms.truncated(minibatch.old, minibatch.sampled, hyper["truncation"])
    elif algorithm.form == "clipped_sequence":
        weight = terms.sequence_ratio(minibatch.old, minibatch.sampled, minibatch.mask).clamp(max=hyper["truncation"])
    tables = {
        "tool_mask": minibatch.mask,
        "advantages": weight * minibatch.advantages,
        "old_per_token_logps": minibatch.old if clipped else minibatch.sampled,
    }
    return {
        "prompt_ids": batch.ids[:, :prompt_length],
        "prompt_mask": batch.attention[:, :prompt_length],
        "completion_ids": batch.ids[:, prompt_length:],
        "completion_mask": batch.attention[:, prompt_length:],
        **{name: table[:, prompt_length - 1 :] for name, table in tables.items()},
        "num_items_in_batch": minibatch.mask.sum() * ranks,  # cispo divides it by them
    }


def _pairs(batch: PaddedBatch, algorithm: Algorithm) -> Inputs:
    reference = batch.terms.old if algorithm.reference == "old" else batch.terms.base
    chosen, rejected = terms.masked(reference, batch.terms.mask).sum(1).chunk(2)
    return {
        "input_ids": batch.ids,
        "attention_mask": batch.attention,
        "completion_mask": torch.nn.functional.pad(batch.terms.mask, (1, 0)).long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }


def _clones(batch: PaddedBatch) -> Inputs:
    learned = torch.nn.functional.pad(batch.terms.mask, (1, 0)) > 0
    return {"input_ids": batch.ids, "attention_mask": batch.attention, "labels": batch.ids.masked_fill(~learned, -100)}


class RecordedTrainer:
    """What the three trainers below have in common: they train on recorded minibatches, in the given order, and report
    each step.

    Call `set_batch` before `train()`. After it, `done` holds each step and the weight of KL after it.
    """

    accelerator: Any
    """Of the trainer that is mixed in."""

    def set_batch(self, recorded: RecordedBatch) -> None:
        self.recorded = recorded
        self.processing_class = None  # or train() would give the model its special tokens
        self.kl, self.last_kl = recorded.ready.hyper.get("kl", 0.0), recorded.ready.last_kl
        self.done: list[tuple[Step, float]] = []
        self.output: Any = None
        self.accelerator.gather = lambda tensor: tensor

    def keep_output(self, module: object, args: object, output: Any) -> None:
        """The model's forward hook.

        It keeps the log-probabilities and entropies (B, L - 1) that the loss is computed from.
        """
        self.output = output

    def get_train_dataloader(self) -> Any:
        dataset = cast("Dataset[list[int]]", self.recorded.minibatches)  # which any sequence is
        return DataLoader(dataset, batch_size=None, collate_fn=self.recorded.inputs)

    def training_step(self, model: Any, inputs: Mapping[str, list[Inputs]], num_items_in_batch: Any = None) -> Any:
        """Add up the gradients of a minibatch's forwards; with the last, they are averaged over ranks."""
        self.step_start = time.perf_counter()
        self.forwards: list[tuple[float, list[int], torch.Tensor, torch.Tensor]] = []
        step_of = super().training_step  # type: ignore[misc]  # the trainer's, which is the next of the bases
        parts = inputs["parts"]
        losses = []
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                losses.append(step_of(model, part, None))
        return torch.stack(losses).sum()

    def floating_point_ops(self, inputs: object) -> int:
        return 0  # or trl would look for them in `inputs`, and warn

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.indices, weight = inputs.pop("places").tolist(), inputs.pop("share")
        self.recorded.model.set_mode()  # without the base's dropout, as the native loop
        loss_of = super().compute_loss  # type: ignore[misc]  # the trainer's, which is the next of the bases
        loss = weight * loss_of(model, inputs, num_items_in_batch=num_items_in_batch)
        counting = len(self.indices) if weight else 0
        tables = (table[:counting].detach().cpu() for table in (self.output.log_probs, self.output.entropy))
        self.forwards.append((float(loss.detach()), self.indices[:counting], *tables))
        return loss

    def log(self, logs: Mapping[str, float], start_time: float | None = None) -> None:
        """Called after each step, and once more at the end; nothing is printed."""
        if "grad_norm" not in logs:
            return
        forwards = [forward for of_rank in gather(self.forwards) for forward in of_rank]
        losses, indices, logps, entropies = zip(*forwards, strict=True)
        ready, batch = self.recorded.ready, self.recorded.padded([index for part in indices for index in part])
        minibatch = msgspec.structs.replace(
            batch.terms, logp=_stack(logps).to(batch.own.device), entropy=_stack(entropies).to(batch.own.device)
        )
        step = report(
            minibatch,
            batch.own,
            sum(losses) / self.recorded.count,
            logs["grad_norm"],
            ready.selected.tied_groups,
            ready.hyper,
            self.step_start,
            self.recorded.algorithm.form == "clipped_sequence",
        )
        self.kl, self.last_kl = steer_kl(self.kl, step, self.last_kl, ready.hyper), step.kl_to_base
        self.done.append((step, self.kl))

    def _send_telemetry(self) -> None:
        pass


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


class RecordedGRPOTrainer(RecordedTrainer, trl.GRPOTrainer):  # type: ignore[misc]  # trl is Any
    """GRPOTrainer over completions that are already generated and scored."""

    def _generate_and_score_completions(self, inputs: Inputs) -> Inputs:
        return inputs

    def _compute_loss(self, model: Any, inputs: Inputs) -> Any:
        loss = super()._compute_loss(model, inputs)
        algorithm, hyper = self.recorded.algorithm, {**self.recorded.ready.hyper, "kl": self.kl}
        if not algorithm.reference or not self.kl:
            return loss
        batch = self.recorded.padded(self.indices).terms
        kl_BT = terms.kl_penalty(msgspec.structs.replace(batch, logp=self.output.log_probs), hyper)
        match mean_over(algorithm, hyper):
            case "length":
                return loss + terms.constant_mean(kl_BT, batch.mask, hyper["length"])
            case "answers":
                return loss + terms.sequence_mean(kl_BT, batch.mask)
            case _:
                return loss + terms.masked_mean(kl_BT, batch.mask)


class RecordedDPOTrainer(RecordedTrainer, trl.DPOTrainer):  # type: ignore[misc]  # trl is Any
    """DPOTrainer over pairs that are already token ids."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


class RecordedSFTTrainer(RecordedTrainer, trl.SFTTrainer):  # type: ignore[misc]  # trl is Any
    """SFTTrainer over token ids with labels."""


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
    """Train `model` in place by trl. Arguments, results and errors are those of `algorithms.learning.update.update`.

    In a process group, every rank must call this with the same arguments; all have the same weights and results in the
    end. Raises UsageError also for losses that trl does not have, PPO's and cloning's with a KL term, and for dropout
    in the adapter.
    """
    values = settings(algorithm, hyper)
    if algorithm.form == "actor_critic":
        raise _no_critic(algorithm)
    if algorithm.form == "cloning" and values["kl"]:
        raise UsageError(
            f"The trl back end has no KL term for cloning, and kl is {values['kl']:g}; order kl 0, or {NATIVE}."
        )
    if values["dropout"]:
        raise UsageError(f"The trl back end has no dropout, and {values['dropout']:g} was ordered; order dropout 0.")
    scorer = model if ranks()[1] == 1 else ShardedModel(model)
    ready = prepare(scorer, algorithm, rollouts, hyper, parent=parent, state=state)
    temperature = _temperature(algorithm, ready.selected.rollouts)
    optimiser = adam(model, ready.hyper, ready.state)
    with tempfile.TemporaryDirectory() as folder, _restoring(model):
        trainer = _trainer(model, algorithm, ready.hyper, optimiser, seed, folder, temperature)
        trainer.set_batch(RecordedBatch(model, algorithm, ready, seed))
        hook = model.model.register_forward_hook(trainer.keep_output)
        try:
            trainer.train()
        finally:
            hook.remove()
    return finish(model, ready, optimiser, trainer.done)


def _temperature(algorithm: Algorithm, rollouts: Sequence[Rollout]) -> float:
    """The one temperature that all rollouts were sampled at; raises UsageError where trl cannot train at it."""
    temperatures = sorted({rollout.temperature for rollout in rollouts})
    only_1 = algorithm.form in ("cloning", "preference")
    if len(temperatures) > 1 or (only_1 and temperatures != [1.0]):
        raise UsageError(
            f"The trl back end trains {algorithm.name} at one temperature{', which is 1' if only_1 else ''}, and the "
            f"rollouts were sampled at {', '.join(f'{each:g}' for each in temperatures)}; order {NATIVE}."
        )
    return temperatures[0]


def _trainer(
    model: CausalTrainee,
    algorithm: Algorithm,
    hyper: Hyper,
    optimiser: torch.optim.Optimizer,
    seed: int,
    folder: str,
    temperature: float,
) -> Any:
    shared: dict[str, Any] = {
        "output_dir": folder,
        "seed": seed % 2**32,  # decides nothing but the order of rows within a step
        "use_cpu": model.adapter[0].device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_grad_norm": hyper["max_grad_norm"],
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
    arguments: dict[str, Any] = {
        "model": model.model,
        "processing_class": _placeholder(),
        "optimizers": (optimiser, LambdaLR(optimiser, lambda step: 1.0)),
    }
    match algorithm.form:
        case "preference":
            empty = datasets.Dataset.from_dict({"prompt": [""], "chosen": [""], "rejected": [""]})
            pairs: Any = RecordedDPOTrainer(
                args=_one_device(trl.DPOConfig(**shared, beta=hyper["beta"])), train_dataset=empty, **arguments
            )
            model.model.delete_adapter("ref")
            pairs.precompute_ref_logps = True
            return pairs
        case "cloning":
            skip = trl.SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True})
            return RecordedSFTTrainer(
                args=_one_device(skip),
                train_dataset=datasets.Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),
                **arguments,
            )
        case "clipped" | "clipped_sequence" | "weighted":
            clipped = algorithm.form != "weighted"
            args = trl.GRPOConfig(
                **shared,
                loss_type=MEANS[mean_over(algorithm, hyper)] if clipped else "cispo",
                temperature=temperature,
                epsilon=hyper["clip_low"],
                epsilon_high=hyper["clip_high"] if clipped else hyper["truncation"],
                importance_sampling_level="sequence" if algorithm.form == "clipped_sequence" else "token",
                beta=0.0,
                num_generations=2,
                num_iterations=1,
                steps_per_generation=1,
            )
            empty = datasets.Dataset.from_dict({"prompt": [""] * 2})
            policy: Any = RecordedGRPOTrainer(
                reward_funcs=_unasked, args=_one_device(args), train_dataset=empty, **arguments
            )
            policy.max_completion_length = hyper.get("length", 1.0)
            return policy
        case "actor_critic":
            raise _no_critic(algorithm)
        case _:
            assert_never(algorithm.form)


def _no_critic(algorithm: Algorithm) -> UsageError:
    return UsageError(f"The trl back end has no loss with a critic, which {algorithm.name} needs; order {NATIVE}.")


def _one_device(args: Any) -> Any:
    """Let trl use one device, however many this process sees: transformers would spread a model over all, which trl
    refuses.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _unasked(**columns: object) -> list[float]:
    raise AssertionError("rewards are recorded")


def _placeholder() -> PreTrainedTokenizerFast:
    """A tokenizer for trl's constructors, which need one; it never tokenizes anything.

    Its padding is token 0, like that of our rows.
    """
    tokenizer = Tokenizer(models.WordLevel({"-": 0}, "-"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="-", eos_token="-")


@contextmanager
def _restoring(model: CausalTrainee) -> Iterator[None]:
    """On exit, undo all that trl's constructors change of a model but its weights: its forward, tags, padding token,
    and adapters.
    """
    base = model.model.get_base_model()
    attributes = [(each, dict(vars(each))) for each in (base, model.model, base.config, base.generation_config)]
    try:
        yield
    finally:
        for each, original in attributes:
            vars(each).clear()
            vars(each).update(original)
        if "ref" in model.model.peft_config:
            model.model.delete_adapter("ref")
        model.model.eval()
