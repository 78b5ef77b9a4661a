"""Begins a run and follows it on the terminal to its end, for `evolog run`, `fork` and `ablate`.

The events are followed in `services/host/orders.py`, and put into words in `services/views/run.py`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console

from events.run import RunStarted
from events.subjects import check_run_name
from replay.report import Report
from runtime.run.order import RunOrder, default_name, order_run
from services.host.blobs import operator_blobs
from services.host.node import Node
from services.host.orders import StartedServices, begin, check, services_up
from services.views.progress import VisibleConsole, pretraining_progress, stdout, working
from services.views.run import LiveRun, final_table, why_failed
from tasks.loading import Task


def run_task(directory: Path, order: RunOrder, *, detach: bool, as_json: bool, preflight: bool = True) -> int:
    """Order a run and follow it; the exit code."""
    node = Node(directory)
    task = check(order, node, lambda sentence: to_stderr(f"evolog: {sentence}"))
    if preflight:
        call_models(order, task, node)
    return carry_out(node, run_name(order), lambda: prepare(node, order), detach=detach, as_json=as_json)


def call_models(order: RunOrder, task: Task, node: Node) -> None:
    """Ask each language model of an order one small question, with a spinner on stderr meanwhile; raises what is wrong
    with it.
    """
    from services.host.preflight import preflight

    with working("asking the model whether it is there") as say:
        preflight(order, task, node, say)


def run_name(order: RunOrder) -> str:
    """The name that is ordered, or else one from task, seed and chance."""
    return check_run_name(order.name or default_name(order))


def prepare(node: Node, order: RunOrder) -> RunStarted:
    """The event that begins an ordered run, with a spinner on stderr meanwhile."""
    with working("preparing the base model") as say:
        return order_run(order, operator_blobs(node), pretraining_progress(say))


def carry_out(node: Node, name: str, plan: Callable[[], RunStarted], *, detach: bool, as_json: bool) -> int:
    """With the services up, begin the planned run, follow it, and print its table; the exit code."""
    with services_up(node, to_stderr, working) as services:
        started = plan()
        if detach:
            asyncio.run(begin(node, name, started, None))
            services.keep()
            click.echo(name)
            return 0
        report = follow(node, name, started, VisibleConsole(stderr=as_json))
        if report is None:
            services.interrupted = True
            return leave(node, name, services)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        final_table(stdout(), report)
    if report.score is None:
        say_failed(report)
        return 1
    return 5 if report.reason == "budget exhausted" else 0


def follow(node: Node, name: str, started: RunStarted, console: Console, *, begun: bool = False) -> Report | None:
    """Begin a run, unless it has `begun`, and show it on a console as it goes on; None after Ctrl-C."""
    with LiveRun(console) as live:
        return asyncio.run(begin(node, name, started, live, begun=begun))


def leave(node: Node, run: str, services: StartedServices) -> int:
    """Say what becomes of a run that is watched no more; the exit code."""
    at = f" --dir {node.directory}"
    if services.is_owner:
        sentence = (
            f"Run {run} stops here with the services that this command started; the log keeps all of it. "
            f"`evolog up{at}` goes on with it; then `evolog watch {run}{at}` follows it, and `evolog cancel {run}{at}` "
            "ends it with what it has."
        )
    else:
        sentence = (
            f"Run {run} goes on in the services, which were up before: `evolog watch {run}{at}` follows it, "
            f"`evolog cancel {run}{at}` ends it with what it has, `evolog down{at}` stops everything."
        )
    with contextlib.suppress(OSError):  # a terminal that was closed
        click.echo(f"\n{sentence}", err=True)
    return 130


def say_failed(report: Report) -> None:
    """Say that a run ended without a candidate, and why."""
    to_stderr(f"evolog: run {report.run} failed: {why_failed(report)}")


def to_stderr(sentence: str) -> None:
    """Print a sentence on stderr."""
    click.echo(sentence, err=True)
