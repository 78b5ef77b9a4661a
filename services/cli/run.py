"""`evolog run`."""

from pathlib import Path
from typing import Any

import click

from services.cli.options import (
    as_json,
    config_options,
    examples,
    order_of,
    order_options,
    preflight_option,
    setting_source,
)
from services.cli.ui import dashboard_beside, ui_option


@click.command(
    epilog=examples(
        "evolog run lawbench",
        "evolog run lawbench --seed 1 --levers scaffold --budget rollouts=100k",
        "evolog run lawbench --strategy dgm --width 4 --budget time=30m",
        "evolog run path/to/my-task --agent anthropic:claude-opus-5 --budget usd=5",
        "evolog run lawbench --set width=4 --dry-run",
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
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--name", default="", help="The run's name; by default made from the task and the seed.")
@preflight_option
@click.option("--detach", is_flag=True, help="Start the run and return; print its name.")
@click.option("--dry-run", is_flag=True, help="Print what would run and where each setting comes from; start nothing.")
@ui_option
@order_options
@config_options
@as_json
@click.pass_context
def run(
    context: click.Context,
    /,
    task: str,
    origin: str | None,
    preflight: bool,
    detach: bool,
    dry_run: bool,
    with_ui: bool,
    directory: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Run TASK until nothing more is to be gained.

    It starts from the reference scaffold and ends with the auditor's table. Ctrl-C stops it, with the services that it
    started; `evolog up` goes on with it.
    """
    from services.cli.live import run_task

    if dry_run:
        return show_plan(context, task, origin, directory, options, as_json=as_json)
    if origin:
        from services.cli.foreign import adopt
        from services.host.node import Node

        task = adopt(origin, task, Node(directory), "none" if options["sandbox"] == "none" else "")
    with dashboard_beside(directory, wanted=with_ui and not detach):
        return run_task(directory, order_of(task, options), detach=detach, as_json=as_json, preflight=preflight)


def show_plan(
    context: click.Context, task: str, origin: str | None, directory: Path, options: dict[str, Any], *, as_json: bool
) -> int:
    """Print what would run, and start nothing; the exit code."""
    import msgspec

    from events.errors import UsageError
    from services.host.node import Node
    from services.host.planned import planned
    from services.views.planned import show_planned
    from services.views.progress import stdout

    if origin:
        raise UsageError(
            f"--from {origin} makes a task folder in {directory}, and --dry-run makes nothing: leave one of them out."
        )
    plan = planned(order_of(task, options), Node(directory), lambda name: setting_source(context, name))
    if as_json:
        click.echo(msgspec.json.encode(plan).decode())
    else:
        show_planned(stdout(), plan)
    return 0
