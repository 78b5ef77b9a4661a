"""`evolog run`."""

from pathlib import Path
from typing import Any

import click

from services.cli.options import as_json, examples, run_options, search_of, search_options


@click.command(
    epilog=examples(
        "evolog run lawbench",
        "evolog run lawbench --seed 1 --levers scaffold --budget rollouts=100k",
        "evolog run lawbench --strategy dgm --width 4 --budget time=30m",
        "evolog run path/to/my-task --agent anthropic:claude-opus-5 --budget usd=5",
        "evolog run --from sia path/to/sia/tasks/gpqa",
        "evolog run --from inspect my_evals.py:arithmetic",
    )
)
@click.argument("task")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["sia", "inspect"]),
    help="TASK comes from elsewhere: a task directory of SIA, or MODULE:TASK of Inspect, whose code is run.",
)
@click.option("--levers", type=click.Choice(["both", "scaffold", "weights"]), default="both", show_default=True)
@click.option(
    "--policy",
    default="",
    metavar="NAME",
    help="In place of the task's own: text-scorer, tiny-lm, smollm2 (`evolog model get`), or hf:PATH.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 100_000),
    help="The longest completion of the policy; the task has a default.",
)
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="What scaffolds run in: what `evolog doctor` says, or nothing, which needs EVOLOG_ALLOW_UNSANDBOXED=1 too.",
)
@click.option(
    "--agent",
    default="rules",
    show_default=True,
    metavar="NAME",
    help="rules, anthropic:MODEL or openai:MODEL; the last two need a key.",
)
@click.option(
    "--verifier", default="", metavar="NAME|PATH", help="In place of the task's own: another of its by name, or a file."
)
@click.option(
    "--on-drift",
    type=click.Choice(["off", "freeze", "rollback", "stop"]),
    default="off",
    show_default=True,
    help="What the auditor may do to the run when it finds drift: freeze the lever, go back to before it too, or end "
    "the run.",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--name", default="", help="The run's name; by default made from the task and the seed.")
@click.option("--detach", is_flag=True, help="Start the run and return; print its name.")
@search_options
@run_options
@as_json
def run(
    task: str,
    origin: str | None,
    levers: str,
    policy: str,
    max_tokens: int | None,
    sandbox: str,
    agent: str,
    verifier: str,
    on_drift: str,
    seed: int,
    name: str,
    detach: bool,
    generations: int | None,
    budget: str,
    directory: Path,
    as_json: bool,
    **search: Any,
) -> int:
    """Run TASK until nothing more is to be gained.

    It starts from the reference scaffold and ends with the auditor's table.
    """
    from runtime.run.order import ON_DRIFT, RunOrder
    from services.cli.live import run_task

    profile = "none" if sandbox == "none" else ""
    if origin:
        from services.cli.foreign import adopt
        from services.host.node import Node

        task = adopt(origin, task, Node(directory), profile)
    order = RunOrder(
        task=task,
        levers=levers,
        seed=seed,
        generations=generations,
        budget=budget,
        name=name,
        policy=policy,
        sandbox=profile,
        max_tokens=max_tokens or 0,
        agent=agent,
        verifier=verifier,
        on_drift=ON_DRIFT[on_drift],
        search=search_of(search),
    )
    return run_task(directory, order, detach=detach, as_json=as_json)
