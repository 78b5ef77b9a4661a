"""`evolog fork`."""

from pathlib import Path
from typing import Any

import click

from events.errors import UsageError
from services.cli.options import as_json, directory, examples, fork_options, preflight_option


@click.command(
    epilog=examples(
        "evolog fork lawbench-s0 --at 2178 --algorithm grpo",
        "evolog fork lawbench-s0 --at 2178 --set budget=rollouts=200k --set width=4",
    )
)
@click.argument("run")
@directory
@click.option("--at", required=True, metavar="SEQ|TIME", help="The last event of the past that both share.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="What goes another way: agent, algorithm, budget, first_items, generations, group_size, levers, max_lag, "
    "max_tokens, on_drift, policy, recheck, refills, schedule, strategy, verifier or width.",
)
@fork_options
@click.option("--name", default="", help="The fork's name; by default made from its parent's.")
@preflight_option
@click.option("--detach", is_flag=True, help="Start the fork and return; print its name.")
@as_json
def fork(
    run: str,
    directory: Path,
    at: str,
    settings: tuple[str, ...],
    name: str,
    preflight: bool,
    detach: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Start a new run that shares RUN's past and then parts from it.

    What neither --set nor a flag says is as in RUN.
    """
    import secrets

    from events.run import RunStarted
    from events.subjects import check_run_name
    from replay.fork import order_of_fork, parse_settings, plan_fork
    from replay.replayer import find_sequence
    from runtime.broker.store import blobs_in
    from services.cli.live import call_models, carry_out
    from services.cli.reading import read_run
    from services.host.blobs import operator_blobs
    from services.host.imports import find_export
    from services.host.node import Node
    from services.host.orders import check
    from services.views.progress import pretraining_progress, working

    said = [f"{key}={value}" for key, value in flags.items() if value is not None]
    node, changes = Node(directory), parse_settings([*settings, *said])
    if name:
        check_run_name(name)
    if find_export(node, run) is not None:
        raise UsageError(f"Run {run} is here as files, and a fork shares its parent's log: fork it where it was run.")
    parent = read_run(directory, run)
    sequence = find_sequence(parent.messages, at)
    order = order_of_fork(parent.started, changes)
    task = check(order, node)
    if preflight:
        call_models(order, task, node)

    def plan() -> RunStarted:
        with working("preparing the fork") as say:
            return plan_fork(parent, sequence, order, changes, operator_blobs(node), pretraining_progress(say))

    started = plan() if blobs_in(node.directory) == "directory" else None  # else once the broker is up
    if str(sequence) != at:
        click.echo(f"evolog: {parent.run} is forked at sequence {sequence}", err=True)
    name = name or f"{parent.run[:55]}-f{secrets.token_hex(2)}"
    return carry_out(node, name, lambda: started or plan(), detach=detach, as_json=as_json)
