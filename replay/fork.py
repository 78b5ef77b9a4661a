"""Plans a fork: which settings it copies from its parent or changes, and the event `run_started` that begins it.

The state that it begins with is in `runtime/run/fork.py`, how its past is read in `runtime/log/lineage.py`.
"""

import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from algorithms.learning import NAMES
from algorithms.search.catalogue import STRATEGIES
from events.errors import NotFound, UsageError
from events.kinds import Lever, Schedule
from events.run import RunStarted
from replay.history import History
from replay.replayer import state_at
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.run import budget as budgets
from runtime.run.bounds import BOUNDS, LARGEST_GROUP
from runtime.run.fork import forked
from runtime.run.order import LEVERS, ON_DRIFT, RunOrder, Search, put_base_model, put_verifier, require_playable
from runtime.sandbox.choose import provide
from tasks.loading import load

if TYPE_CHECKING:
    from runtime.policies.bases import BuildProgress

SETTINGS = (
    "agent",
    "algorithm",
    "budget",
    "first_items",
    "generations",
    "group_size",
    "levers",
    "max_lag",
    "max_tokens",
    "on_drift",
    "policy",
    "recheck",
    "refills",
    "schedule",
    "strategy",
    "verifier",
    "width",
)
"""The settings that a fork may change."""
WORDS: Mapping[str, Collection[str]] = {
    "algorithm": NAMES,
    "levers": LEVERS,
    "on_drift": ON_DRIFT,
    "schedule": typing.get_args(Schedule),
    "strategy": STRATEGIES,
}
"""The values of those that are words."""
_SCORES = "what its past scored would not compare with what it scores"
FIXED: Mapping[str, str] = {
    "task": "a fork goes on with its parent's items and candidates: start a run of another task with `evolog run TASK`",
    "seed": "its splits and the draws of its past follow from it: start a run with `evolog run TASK --seed N`",
    "sandbox": f"{_SCORES}: start a run with `evolog run TASK --sandbox none`",
    "name": "it is no setting of the run: give --name",
    "dir": "a fork stands on its parent's log: give --dir for the directory that the parent is in",
    "detach": "it is no setting of the run: give --detach",
    "examples": "its first scaffold is written: start a run with `evolog run TASK --examples N`",
    "shard_size": "how requests are cut is the same in every run",
    "base_model": "it follows from the policy: give policy=NAME",
}
"""Why a fork cannot change some settings, and what to do instead."""


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Settings in the form `key=value`, by key; raises `UsageError` for another form, and a key that is unknown or
    given twice.
    """
    changes: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        key = name.replace("-", "_")
        if equals and (reason := FIXED.get(key)):
            raise UsageError(f"A fork cannot change {key}, since {reason}.")
        if key in changes:
            raise UsageError(f"{key} is said twice: give its flag or --set it, once.")
        if not equals or key not in SETTINGS:
            raise UsageError(
                f"{setting!r} is nothing to --set: write key=value, the key being one of {', '.join(SETTINGS)}."
            )
        changes[key] = value
    return changes


def order_of_fork(parent_start: RunStarted, changes: Mapping[str, str]) -> RunOrder:
    """The parent's order with these settings changed; raises `UsageError` for a value that a setting cannot have."""
    for key, words in WORDS.items():
        if key in changes and changes[key] not in words:
            raise UsageError(f"{key}={changes[key]} is none; expected {', '.join(words)}.")
    levers = _levers(parent_start, changes)
    return RunOrder(
        task=parent_start.task,
        levers="both" if len(levers) > 1 else levers[0],
        seed=parent_start.seed,
        generations=_whole_number(changes, "generations", parent_start.generations, least=0),
        budget=changes.get("budget", ""),
        policy=changes.get("policy", parent_start.policy),
        sandbox="none" if parent_start.sandbox == "none" else "",
        max_tokens=_whole_number(changes, "max_tokens", parent_start.max_tokens, least=1),
        agent=changes.get("agent", parent_start.agent),
        search=_search(parent_start, changes),
    )


def plan_fork(
    parent: History, sequence: int, order: RunOrder, changes: Mapping[str, str], blobs: Blobs, progress: "BuildProgress"
) -> RunStarted:
    """The event that begins a fork of `parent` after this sequence, with the blobs that it names.

    `order` is what `order_of_fork` made of the `changes`. Raises `UserError` for a policy, verifier or budget that
    cannot be used, and `NotFound` where the fork may train on from an optimiser state that was freed.
    """
    parent_start, task = parent.started, load(parent.started.task)
    base, code, verifier = parent_start.base_model, parent_start.verifier_code, parent_start.verifier
    if "policy" in changes:
        base = put_base_model(order.policy, task, task.public(parent_start.seed), blobs, progress)
    submissions, judge = parent_start.submissions, parent_start.judge
    if "verifier" in changes:
        verifier, code = put_verifier(changes["verifier"], task, blobs)
        judging = task.with_verifier(task.verifier_text(changes["verifier"]), changes["verifier"])
        submissions, judge = judging.submissions, judging.judge_model
    started = msgspec.structs.replace(
        parent_start,
        parent_run=parent.run,
        parent_sequence=sequence,
        parent_digest=lineage.past_digest(
            [*parent.past, *(stored for stored in parent.messages if stored.sequence <= sequence)]
        ),
        levers=_levers(parent_start, changes),
        generations=order.generations,
        budget=budgets.parse(changes["budget"]) if "budget" in changes else parent_start.budget,
        policy=order.policy,
        base_model=base,
        agent=order.agent,
        sandbox=provide(order.sandbox).text,
        max_tokens=order.max_tokens,
        group_size=_whole_number(changes, "group_size", parent_start.group_size, 1, LARGEST_GROUP),
        algorithm=changes.get("algorithm", parent_start.algorithm),
        verifier=verifier,
        verifier_code=code,
        submissions=submissions,
        judge=judge,
        on_drift=ON_DRIFT[changes["on_drift"]] if "on_drift" in changes else parent_start.on_drift,
        owner="",
        owner_generation=0,
        **order.search._asdict(),
    )
    require_playable(started.task, started)
    if "weights" in started.levers:
        state = forked(state_at(parent, sequence), parent.run, parent_start, started)
        _require_states(parent.run, sequence, state.optimizer_states, blobs)
    return started


def _require_states(run: str, sequence: int, states: Iterable[str], blobs: Blobs) -> None:
    if any(map(blobs.freed, states)):
        raise NotFound(
            f"A fork of {run} at sequence {sequence} may train on from an optimiser state that was freed: `evolog gc "
            f"{run}` says at which sequences. Fork it at another, or with --set levers=scaffold."
        )


def _levers(parent_start: RunStarted, changes: Mapping[str, str]) -> tuple[Lever, ...]:
    return LEVERS[changes["levers"]] if "levers" in changes else parent_start.levers


def _search(parent_start: RunStarted, changes: Mapping[str, str]) -> Search:
    numbers = {key: _whole_number(changes, key, getattr(parent_start, key), *bounds) for key, bounds in BOUNDS.items()}
    strategy = changes.get("strategy", parent_start.strategy)
    return Search(
        strategy=strategy, schedule=msgspec.convert(changes.get("schedule", parent_start.schedule), Schedule), **numbers
    )


def _whole_number(changes: Mapping[str, str], key: str, parent_value: int, least: int, most: int | None = None) -> int:
    value = changes.get(key, str(parent_value))
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise UsageError(f"{key}={value} is no whole number of at least {least}.")
    if most is not None and int(value) > most:
        raise UsageError(f"{key}={value} is above {most:,}, the most that it may be.")
    return int(value)
