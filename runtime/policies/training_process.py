"""One process of a training round that `training.launch` starts: `python -m runtime.policies.training_process FOLDER`,
in a process group.

FOLDER is the one that the processes share. Each reads the same task from it and does the same update, on a device of
its own and with its share of the rows; the process of rank 0 writes the result. The failure of the first that fails is
written too, for the process that waits.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch

from algorithms.learning import algorithm as find_algorithm
from algorithms.learning.batch import NothingToLearn
from events.kinds import BackEnd
from runtime.policies.interface import TokenScorer
from runtime.policies.training import (
    LaunchFailure,
    Trainee,
    back_end_for,
    canaries,
    open_trainee,
    read_task,
    run_update,
    save_result,
    splits_model,
)

PATIENCE = timedelta(hours=2)
"""For how long a process waits for the others, which may read a base of many gigabytes meanwhile. One that ended is
noticed at once.
"""

accelerate: Any = importlib.import_module("accelerate")  # so, since its types are partial and of another strictness


def main(folder: Path, work: Callable[[Path, int, int], None]) -> None:
    """Join the process group and call `work(folder, rank, count)`.

    A failure is written into it and ends the process with code 1.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        state = accelerate.PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        if state.device.type == "cuda":
            torch.cuda.set_device(state.device)
        work(folder, state.process_index, state.num_processes)
        state.destroy_process_group()
    except Exception as wrong:
        write_failure(folder, wrong)
        os._exit(1)  # no waiting for the others, who wait for this one


def train_share(folder: Path, rank: int, count: int) -> None:
    """This process's share of the update that the task in the folder asks for."""
    order, rollouts = msgspec.structs.astuple(read_task(folder))
    algorithm = find_algorithm(order.algorithm)
    if splits_model(order.accelerate):
        from runtime.policies import sharding

        back_end: BackEnd = "native"
        model: Trainee = sharding.open_sharded(order.base, order.parent_folder, order.seed, algorithm.critic)
        sharding.sum_gradients([*model.adapter, *model.critic])
        result = run_update(order, back_end, sharding.ShardedModel(model), algorithm, rollouts)
        canary = tuple(canaries(model, rollouts, private=order.private)) if isinstance(model, TokenScorer) else ()
    else:
        model = open_trainee(order.base, order.parent_folder, order.seed, algorithm.critic)
        back_end = back_end_for(order.back_end, model, algorithm, rollouts)
        result, canary = run_update(order, back_end, model, algorithm, rollouts), ()
    if rank == 0:
        trained = save_result(order, back_end, model, result, folder / "adapter", folder / "state")
        trained = msgspec.structs.replace(trained, canary=canary, processes=count)
        (folder / "trained").write_bytes(msgspec.msgpack.encode(trained))


def write_failure(folder: Path, wrong: Exception) -> None:
    """Write the failure into the folder, unless one is there: the other processes fail soon after the first, for want
    of it.
    """
    votes = wrong.votes if isinstance(wrong, NothingToLearn) else ()
    temporary = folder / f"failure.{os.getpid()}"
    temporary.write_bytes(msgspec.msgpack.encode(LaunchFailure(type(wrong).__name__, str(wrong), votes)))
    try:
        os.link(temporary, folder / "failure")
    except FileExistsError:
        pass
    temporary.unlink()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), train_share)
