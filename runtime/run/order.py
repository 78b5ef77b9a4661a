"""Ordering a run: what a user asks for, whether it can be had, and the event `run_started` that it becomes."""

import importlib.util
import random
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from events.errors import Misconfigured, UsageError
from events.fact import derive_seed
from events.kinds import Lever, OnDrift, Schedule
from events.run import Items, RunStarted
from events.subjects import check_run_name
from runtime.agents.providers import RULES
from runtime.blobs.directory import Blobs
from runtime.log.port import BATCH_LIMIT
from runtime.run import budget as budgets
from runtime.run.state import evaluation_cost, repeat_cost
from runtime.sandbox.choose import provide
from tasks.contract import FOLDS, Public
from tasks.loading import Task, load

if TYPE_CHECKING:
    from runtime.policies.bases import BuildProgress

LEVERS: Mapping[str, tuple[Lever, ...]] = {
    "both": ("scaffold", "weights"),
    "scaffold": ("scaffold",),
    "weights": ("weights",),
}
"""The levers by the name of their choice."""
ON_DRIFT: Mapping[str, OnDrift] = {"off": "", "freeze": "freeze", "rollback": "rollback", "stop": "stop"}
"""What the auditor may do to a run when it finds drift, by the name of its choice."""
PRETRAINING_SEED = 0
"""Base models are made once for a task, whatever a run's seed."""
PROBE_ITEMS = 100
"""Train items, of one fold, on which each candidate shows the agent how it fails."""


EXAMPLES = 4
"""Other tasks that the Meta-Agent is shown, unless the order says how many."""


class Search(NamedTuple):
    """How a run searches: its fields are those of `run_started` with the same names."""

    strategy: str = "chain"
    """A key of `algorithms.search.catalogue.STRATEGIES`."""
    width: int = 1
    first_items: int = 0
    recheck: int = 0
    refills: int = 0
    schedule: Schedule = "agent"
    max_lag: int = 0


class RunOrder(NamedTuple):
    """What a user asks for. An empty string, 0 or None leaves the choice to the task."""

    task: str
    """A task's name, or a path."""
    levers: str
    """A key of `LEVERS`."""
    seed: int
    generations: int | None
    budget: str
    """As `runtime.run.budget.parse` reads it."""
    name: str = ""
    """The run's name; empty for `default_name`."""
    policy: str = ""
    sandbox: str = ""
    """`none`; empty for this host's own profile."""
    max_tokens: int = 0
    """The longest completion of the policy."""
    agent: str = RULES
    verifier: str = ""
    """The name of another verifier of the task, or a path."""
    on_drift: OnDrift = ""
    """What the auditor may do when it finds drift."""
    algorithm: str = ""
    """The learning algorithm of every weight update; empty: the agent chooses."""
    group_size: int = 0
    """Attempts at each item of the probe and of a training round; 0 for the usual number."""
    search: Search = Search()
    """How candidates are searched for."""
    examples: int = EXAMPLES
    """Most descriptions of other tasks that the Meta-Agent is shown."""


def policy_of(order: RunOrder, task: Task) -> str:
    """The policy that is ordered, or else the task's own."""
    return order.policy or task.policy


def default_name(order: RunOrder) -> str:
    """A run's name from the task, the seed and chance."""
    task = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(order.task).resolve().name).strip("-_")[:40]
    return f"{task or 'run'}-s{order.seed}-{secrets.token_hex(2)}"


def check_order(order: RunOrder) -> Task:
    """The task that is ordered. Raises `UserError` for a task, budget, name, or sandbox that this host cannot give."""
    task = load(order.task)
    budgets.parse(order.budget)
    if order.name:
        check_run_name(order.name)
    provide(order.sandbox)
    if task.private_prompts and with_ordered_verifier(order, task).judge_model:
        raise Misconfigured(
            f"Task {order.task!r} keeps its prompts private, and its verifier tells them to the language model "
            f"{task.judge_model}: take PRIVATE_PROMPTS out of its task.py, or name another verifier with --verifier."
        )
    return task


def with_ordered_verifier(order: RunOrder, task: Task) -> Task:
    """The task with the verifier that is ordered, if one is; raises `UserError` for one that cannot be used."""
    return task.with_verifier(task.verifier_text(order.verifier), order.verifier) if order.verifier else task


def check_packages(order: RunOrder, task: Task, *, trained_here: bool) -> None:
    """Raise `Misconfigured` where a package is missing that the run needs here.

    The base model is always made here; the weights are trained here unless the services are elsewhere.
    """
    needed = ["numpy", "safetensors"]
    if policy_of(order, task) != "text-scorer":
        needed += ["torch", "transformers", "peft"]
    elif order.levers != "scaffold" and trained_here:
        needed.append("torch")
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        less = "" if {"numpy", "safetensors", "transformers"} & set(missing) else ", or ask for --levers scaffold"
        raise Misconfigured(
            f"A run with --levers {order.levers} needs {' and '.join(missing)}: pip install "
            f"'evolog[policy,tasks]'{less}."
        )


def put_base_model(policy: str, task: Task, public: Public, blobs: Blobs, progress: "BuildProgress") -> str:
    """Put a policy's base model among the blobs; the digest of its folder. It is pre-trained first if it is not in the
    cache.

    `progress` hears the step, the number of steps and the loss.
    """
    from runtime.policies.bases import prepare_base  # with numpy, which `check_packages` has looked for

    return blobs.put_folder(prepare_base(policy, public, lambda: task.traces(PRETRAINING_SEED), progress))


def put_verifier(named: str, task: Task, blobs: Blobs) -> tuple[str, str]:
    """Put another verifier's text among the blobs; its name with version, and the blob's digest.

    Raises as `Task.with_verifier`.
    """
    text = task.verifier_text(named)
    return task.with_verifier(text, named).verifier, blobs.put(text.encode())


def order_run(order: RunOrder, blobs: Blobs, progress: "BuildProgress") -> RunStarted:
    """The event that begins an ordered run, with the blobs that it names. Raises as `plan`."""
    task = with_ordered_verifier(order, load(order.task))
    public = task.public(order.seed)
    started = plan(task, public, order, put_base_model(policy_of(order, task), task, public, blobs, progress))
    if order.verifier:
        verifier, code = put_verifier(order.verifier, task, blobs)
        started = msgspec.structs.replace(started, verifier=verifier, verifier_code=code)
    return started


def preview(order: RunOrder) -> RunStarted:
    """The event that an ordered run would begin with, but for its base model. Nothing is written. Raises as `plan`."""
    task = with_ordered_verifier(order, load(order.task))
    return plan(task, task.public(order.seed), order, "")


def plan(task: Task, public: Public, order: RunOrder, base_model: str) -> RunStarted:
    """The event that begins an ordered run. It holds all from outside that the run's decisions depend on.

    Raises `Misconfigured` for a task with too many train items, and `UsageError` for a budget below the first
    evaluation.
    """
    folds = tuple(tuple(example.id for example in public.train if example.fold == fold) for fold in range(FOLDS))
    probed = next(fold for fold in range(FOLDS) if folds[fold])
    drawn = random.Random(derive_seed(order.seed, "probe")).sample(
        sorted(folds[probed]), min(PROBE_ITEMS, len(folds[probed]))
    )
    dev = [item.id for item in public.dev]
    started = RunStarted(
        task=task.reference,  # the services may have been started in another folder
        seed=order.seed,
        levers=LEVERS[order.levers],
        generations=task.generations if order.generations is None else order.generations,
        budget=budgets.parse(order.budget),
        items=Items(
            # mixed, as an audit's items are: shards of dev must not show the order of the data
            dev=tuple(random.Random(derive_seed(order.seed, "dev")).sample(dev, len(dev))),
            folds=folds,
            probe=tuple(tuple(sorted(drawn)) if fold == probed else () for fold in range(FOLDS)),
        ),
        splits=dict(public.digests),
        verifier=task.verifier,
        policy=policy_of(order, task),
        agent=order.agent,
        base_model=base_model,
        sandbox=provide(order.sandbox).text,
        max_tokens=order.max_tokens or task.max_tokens,
        judge=task.judge_model,
        solved=task.solved,
        submissions=task.submissions,
        private_prompts=task.private_prompts,
        shared_state=task.shared_state,
        on_drift=order.on_drift,
        algorithm=order.algorithm,
        examples=order.examples,
        **order.search._asdict(),
    )
    if order.group_size:
        started = msgspec.structs.replace(started, group_size=order.group_size)
    limit = started.budget.rollouts
    if started.strategy == "best_of_k" and order.generations is None and limit is not None:
        # asking again is what all rollouts are for
        started = msgspec.structs.replace(started, generations=max(0, limit // repeat_cost(started)))
    require_playable(order.task, started)
    if limit is not None and limit < evaluation_cost(started):
        raise UsageError(
            f"A budget of {limit} rollouts does not cover the first evaluation, which plays "
            f"{evaluation_cost(started)}; "
            f"give --budget rollouts={evaluation_cost(started)} or more."
        )
    return started


def largest_decision(started: RunStarted) -> int:
    """Most events of one decision: after a pause, all that are under way may go on at once."""

    def shards(items: int, attempts: int) -> int:
        return 1 if started.submissions and items else -(-items // max(1, started.shard_size // attempts))

    dev, group = len(started.items.dev), started.group_size
    evaluation = shards(dev, 1) + sum(shards(len(items), group) for items in started.items.probe)
    a_round = sum(shards(len(items), group) for items in started.items.folds)
    second_look = 2 * shards(dev, started.recheck) if started.recheck else 0
    return started.width * max(evaluation, a_round * (1 + started.max_lag)) + second_look + 2 * started.width + 4


def require_playable(task: str, started: RunStarted) -> None:
    """Raise `Misconfigured` for a task with too many items, and `UsageError` for a search that cannot be played."""
    folds, width = started.items.folds, started.width
    largest = max(len(started.items.dev), *map(len, folds))
    if started.submissions and largest > BATCH_LIMIT:
        raise Misconfigured(
            f"The verifier of task {task!r} judges whole submissions, and dev or a fold of train has {largest:,} "
            f"items; a submission may have {BATCH_LIMIT:,} at most. Use fewer items."
        )
    largest = largest_decision(started)
    if largest >= BATCH_LIMIT:
        flags = {"--width": width > 1, "--recheck": started.recheck, "--max-lag": started.max_lag}
        less = " or ".join(flag for flag, given in flags.items() if given)
        less = f"a smaller {less}" if less else "fewer items"
        raise Misconfigured(
            f"Task {task!r} has {len(started.items.dev)} dev and {sum(map(len, folds))} train items, and one decision "
            f"may take {largest} events, for {width} at once; at most {BATCH_LIMIT - 1} fit one: use {less}."
        )
    if started.refills and started.max_lag:
        raise UsageError(
            "With --max-lag a batch takes the rollouts that are there first, and --refills wants a whole round before "
            "it plays any again: give one of the two."
        )
    if started.submissions and started.first_items:
        raise UsageError(
            f"The verifier of task {task!r} judges whole submissions, which are not played in parts: leave "
            "--first-items out."
        )
