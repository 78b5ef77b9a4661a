"""A run that belongs to a candidate of another: what it is called, and what it is started with.

It starts from its owner's candidate in place of a first scaffold, and what it ends with becomes the owner's next
candidate. Its rollouts are its owner's, who ends it when it ends itself.
"""

from msgspec.structs import replace

from events.change import ChildRunFinished, ChildRunOrdered
from events.fact import derive
from events.run import Budget, RunFinished, RunStarted

LONGEST_NAME = 64


def child_name(run: str, generation: int) -> str:
    """The name of the run that belongs to a generation of `run`."""
    name = f"{run}-child-{generation}"
    return name if len(name) <= LONGEST_NAME else f"{run[:32]}-{derive(run, 'child', generation)}"


def child_started(owner: str, started: RunStarted, ordered: ChildRunOrdered) -> RunStarted:
    """What a child run is started with; `started` is its owner's."""
    return replace(
        started,
        draw_seed=ordered.seed,
        levers=ordered.levers,
        generations=ordered.generations,
        budget=Budget(rollouts=ordered.rollouts, tokens=ordered.tokens, micro_usd=ordered.micro_usd),
        strategy="chain",
        schedule="agent",
        width=1,
        on_drift="",
        parent_run="",
        parent_sequence=0,
        parent_digest="",
        owner=owner,
        owner_generation=ordered.generation,
        start_scaffold=ordered.scaffold,
        start_adapter=ordered.adapter,
        start_state=ordered.state,
    )


def child_finished(ordered: ChildRunOrdered, finished: RunFinished) -> ChildRunFinished:
    """What the owner reads of a child run that has ended."""
    return replace(
        failed_child(ordered, finished.reason),
        scaffold=finished.scaffold,
        adapter=finished.adapter,
        rollouts=finished.rollouts,
        tokens=finished.tokens,
        micro_usd=finished.micro_usd,
    )


def failed_child(ordered: ChildRunOrdered, reason: str) -> ChildRunFinished:
    """What the owner reads of a child run that has no end of its own."""
    return ChildRunFinished(
        generation=ordered.generation,
        child=ordered.child,
        reason=reason,
        scaffold="",
        adapter="",
        rollouts=0,
        tokens=0,
        micro_usd=0,
    )
