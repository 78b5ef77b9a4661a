"""What a run would be that is not started: its settings, where each comes from, and the rollouts that it may take."""

from collections.abc import Callable

import msgspec

from events.run import RunStarted
from runtime.run.estimate import RolloutEstimate, estimate
from runtime.run.order import LEVERS, ON_DRIFT, RunOrder, preview
from services.host.node import Node
from services.host.orders import check

OF_TASK = ("generations", "policy", "verifier", "max_tokens")
"""The settings that a task has where nothing else has them."""


class PlannedSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a planned run; `source` says in words what set it."""

    name: str
    value: str | int
    source: str


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is not started."""

    version: int = 1
    task: str
    directory: str
    up: bool
    """Whether the services of the directory are up; otherwise they would be started."""
    sandbox: str
    """What scaffolds would run in, with versions; `none` without a sandbox."""
    settings: list[PlannedSetting]
    rollouts: RolloutEstimate


def planned(order: RunOrder, node: Node, source_of: Callable[[str], str]) -> PlannedRun:
    """What an order would start. `source_of` says by what a setting is set, and is empty where nothing sets it.

    Raises what ordering the run would, and writes nothing.
    """
    check(order, node)
    started = preview(order)

    def source(name: str) -> str:
        return source_of(name) or ("the task" if name in OF_TASK else "the default")

    return PlannedRun(
        task=started.task,
        directory=str(node.directory),
        up=node.alive(),
        sandbox=started.sandbox,
        settings=[
            PlannedSetting(name=name, value=value, source=source(name))
            for name, value in _settings(order, started).items()
        ],
        rollouts=estimate(started),
    )


def _settings(order: RunOrder, started: RunStarted) -> dict[str, str | int]:
    """The settings as they would hold, by the name of the flag."""
    return {
        "task": order.task,
        "seed": order.seed,
        "name": order.name or "made from the task and the seed",
        "levers": next(name for name, levers in LEVERS.items() if levers == started.levers),
        "generations": started.generations,
        "budget": order.budget or "no limit",
        "policy": started.policy,
        "agent": started.agent,
        "examples": order.examples,
        "verifier": started.verifier,
        "algorithm": started.algorithm or "the agent's choice",
        "group_size": started.group_size,
        "max_tokens": started.max_tokens,
        "strategy": started.strategy,
        "width": started.width,
        "schedule": started.schedule,
        "first_items": started.first_items,
        "recheck": started.recheck,
        "refills": started.refills,
        "max_lag": started.max_lag,
        "on_drift": next(name for name, action in ON_DRIFT.items() if action == started.on_drift),
        "sandbox": order.sandbox or "auto",
    }
