"""A run that belongs to a candidate of another: what it is called, and what it is started with.

It starts from its owner's candidate in place of a first scaffold, and what it ends with becomes the owner's next
candidate. Its rollouts are its owner's, who ends it when it ends itself.
"""

from msgspec.structs import replace

from events.change import ChildRunRequested
from events.fact import derive, derive_seed
from events.run import Budget, RunStarted
from runtime.run.state import Candidate

LONGEST_NAME = 64


def child_name(run: str, generation: int) -> str:
    """The name of the run that belongs to a generation of `run`."""
    name = f"{run}-child-{generation}"
    return name if len(name) <= LONGEST_NAME else f"{run[:24]}-{derive(run, 'child', generation)}"


def child_started(
    owner: str, started: RunStarted, parent: Candidate, wanted: ChildRunRequested, rollouts: int | None
) -> RunStarted:
    """What a child run is started with: its owner's order, from one of its candidates, within `rollouts`."""
    limits = [limit for limit in (wanted.rollouts, rollouts) if limit is not None]
    return replace(
        started,
        seed=derive_seed(started.seed, "child", wanted.generation),
        levers=tuple(lever for lever in started.levers if lever in wanted.levers),
        generations=wanted.generations,
        budget=Budget(rollouts=min(limits, default=None)),
        strategy="chain",
        schedule="agent",
        width=1,
        on_drift="",
        parent_run="",
        parent_sequence=0,
        parent_digest="",
        owner=owner,
        owner_generation=wanted.generation,
        start_scaffold=parent.scaffold,
        start_adapter=parent.adapter,
        start_state=parent.optimizer_state,
    )
