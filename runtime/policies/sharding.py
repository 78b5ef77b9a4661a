"""One model over the processes of a group: each computes its part of the rows, and holds its part of the weights.

Rows: every process has the outputs of all rows, its own with gradient. So each computes the loss of the whole
minibatch, whatever a loss is the mean of, and the sum of the processes' gradients is that of one process.

Weights: those of the frozen base are split over the processes by FSDP2 (Zhao 2023, arXiv 2304.11277; torch's
`fully_shard`), layer by layer. A layer is whole on a device while it computes, and no longer. The adapter and the
critic are small: each process holds them whole, with the optimiser's moments, so that what is saved is what one process
saves.

Every process must do the same forwards in the same order, since each waits for the others' part of a layer. A process
without rows computes the first row, and gives it no gradient.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from algorithms.learning.batch import Rollout
from algorithms.learning.update import Outputs, Trainable
from algorithms.models import tiny_lm
from algorithms.models.causal_lm import CausalTrainee
from runtime.policies import hf
from runtime.policies.bases import HF, kind_of

T = TypeVar("T")


def ranks() -> tuple[int, int]:
    """The rank of this process among those that train together, and their number; (0, 1) without a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks; tensors in them must be on the CPU."""
    _, count = ranks()
    values = [value] * count
    if count > 1:
        torch.distributed.all_gather_object(values, value)
    return values


class ShardedModel:
    """A model whose outputs are computed by all ranks, each for its part of the rows, and then exchanged."""

    def __init__(self, model: Trainable) -> None:
        self._model = model
        self.adapter, self.critic, self.width = model.adapter, model.critic, model.width

    @property
    def at_base(self) -> bool:
        """Whether the adapter changes nothing yet."""
        return self._model.at_base

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """No prompt is read by itself."""
        return nullcontext()

    def split(self, rollouts: Sequence[Rollout], tokens: int, width: int = 1) -> list[list[int]]:
        """The indices of the rollouts of each forward, of which every rank computes its part."""
        return self._model.split(rollouts, tokens * ranks()[1], width)

    def outputs(self, rollouts: Sequence[Rollout], *, base: bool = False, dropout: float = 0.0) -> Outputs:
        """The model's outputs for all rows, equal to the bit on every rank, with gradient for the rank's own rows."""
        rank, count = ranks()
        mine = rollouts[rank::count]
        own = self._model.outputs(mine or rollouts[:1], base=base, dropout=dropout)
        parts = gather([getattr(own, name).detach() for name in Outputs.__struct_fields__] if mine else [])
        width = max(len(rollout.tokens) for rollout in rollouts)
        tables = []
        for field, name in enumerate(Outputs.__struct_fields__):
            whole = torch.zeros(len(rollouts), width)
            for first, part in enumerate(parts):
                if part:
                    whole[first::count, : part[field].shape[1]] = part[field]
            table = getattr(own, name)
            if mine:
                whole[rank::count, : table.shape[1]] = table
            else:  # the gradient is 0, and yet the backward runs, and takes part in what the others exchange
                whole[:1, : table.shape[1]] = torch.where(
                    torch.tensor(False), table, whole[:1, : table.shape[1]].clone()
                )
            tables.append(whole)
        return Outputs(*tables)


def sum_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Let each backward give these parameters the sum of all ranks' gradients, before it is added to what is there."""

    def summed(gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    for parameter in parameters:
        parameter.register_hook(summed)


def open_sharded(base: Path, parent: Path | None, seed: int, critic: bool) -> hf.HFTrainee | tiny_lm.TinyTrainee:
    """The causal language model of a base folder in training, as `training.open_trainee` opens it, its weights split
    over the process group.

    Every process must call this with the same arguments. The process of rank 0 reads a base of Hugging Face's format
    into the host's memory, once, and sends one weight after the other: a device holds its part and one whole weight at
    most. Raises as that does.
    """
    if kind_of(base) == HF:
        return _open_named(base, parent, seed, critic)
    tiny = tiny_lm.load(base)
    tiny.model.to(device())
    trainee = tiny_lm.TinyTrainee(tiny, parent, seed, critic)
    shard(trainee)
    return trainee


def _open_named(base: Path, parent: Path | None, seed: int, critic: bool) -> hf.HFTrainee:
    whole = hf.HFTrainee(HostModel.load(base), parent, seed, critic) if ranks()[0] == 0 else None
    trainee = hf.HFTrainee(EmptyModel.load(base), parent, seed, critic)
    shard(trainee)
    for number, module in enumerate(trainee.modules):
        module.to_empty(device=device())
        values = dict(_tensors(whole.modules[number])) if whole else {}
        for name, target in _tensors(module):
            _send(values.get(name), target)
    return trainee


class HostModel(hf.HFModel):
    """A model in the host's memory, whatever devices there are."""

    DEVICE = "cpu"


class EmptyModel(hf.HFModel):
    """A model without weights: of each it has the shape and the type."""

    DEVICE = "meta"


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@torch.no_grad()
def _send(value: torch.Tensor | None, target: torch.Tensor) -> None:
    """Give `target` the `value` that rank 0 has, or the rank's part of it."""
    whole = torch.empty(target.shape, dtype=target.dtype, device=device())
    if value is not None:
        whole.copy_(value)
    if isinstance(target, DTensor):
        target.copy_(distribute_tensor(whole, target.device_mesh, target.placements))
    else:
        torch.distributed.broadcast(whole, 0)
        target.copy_(whole)


def device() -> torch.device:
    """The device of this process: its GPU, or the CPU on a host without any."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def shard(trainee: CausalTrainee) -> None:
    """Split the frozen parameters of a model in training over the ranks: those of each layer together, and what is
    left.

    A layer is whole from its forward's begin to its end, and again in the backward pass. What is left, the embeddings
    among them, is whole from the first forward to the end of the backward pass.
    """
    trainee.one_forward = True
    base: nn.Module = trainee.model.get_base_model()
    mesh = init_device_mesh(device().type, (ranks()[1],))
    for part in [*_layers(base), base]:
        fully_shard(part, mesh=mesh, ignored_params=set(trainee.adapter))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules of the outermost lists of a model, which are the layers of its decoder."""
    layers: list[nn.Module] = []
    for child in model.children():
        layers += child if isinstance(child, nn.ModuleList) else _layers(child)
    return layers
