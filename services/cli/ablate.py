"""`evolog ablate`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from events.errors import UsageError
from services.cli.options import (
    CommandLineOnly,
    as_json,
    config_options,
    examples,
    flag_names,
    order_of,
    order_options,
    preflight_option,
    setting_source,
)

if TYPE_CHECKING:
    from replay.report import Report
    from runtime.run.order import RunOrder
    from services.host.node import Node

AGAIN = "start asked again"
"""The arm that pulls no lever."""
NOT_SWEPT = (
    "task",
    "seeds",
    "first_seed",
    "over",
    "config",
    "settings",
    "preflight",
    "resume",
    "sandbox",
    "directory",
    "as_json",
)
"""The parameters of the command that are no setting of a run, or must be alike in all that are compared."""
Point = Mapping[str, Any]
"""A value for each setting that is swept."""


@click.command(
    epilog=examples(
        "evolog ablate lawbench --seeds 3",
        "evolog ablate lawbench --levers weights --over algorithm=grpo,rloo,best_of_n",
        "evolog ablate lawbench --over strategy=chain,dgm --over width=1,4 --budget rollouts=50k",
    )
)
@click.argument("task")
@click.option(
    "--over",
    multiple=True,
    metavar="KEY=V1,V2",
    cls=CommandLineOnly,
    help="Compare runs that differ in this flag alone, in place of the levers. Given twice: each value with each.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each kind.")
@click.option("--first-seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--resume",
    is_flag=True,
    cls=CommandLineOnly,
    help="Take the runs of this directory that were ordered alike, such as those of an ablation that was interrupted: "
    "what is done as it is, what is under way to its end.",
)
@preflight_option
@order_options
@config_options
@as_json
@click.pass_context
def ablate(
    context: click.Context,
    /,
    task: str,
    over: Sequence[str],
    seeds: int,
    first_seed: int,
    resume: bool,
    preflight: bool,
    directory: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Run TASK by each lever, by both and none, over several seeds.

    Where no lever is pulled, the start is asked again, with as many rollouts as both levers used; with --levers, as
    many as that one used. The table compares them, with intervals over the seeds. With --over, runs are compared that
    differ in flags of yours.
    """
    from services.host.node import Node

    node, every_seed = Node(directory), range(first_seed, first_seed + seeds)
    points = points_of(context, over)
    if not over and options["strategy"] == "best_of_k":
        raise UsageError("An ablation asks the start again by itself: leave --strategy best_of_k out, or give --over.")
    check_points(node, [order_of(task, options | dict(point)) for point in points], preflight=preflight)
    if over:
        return sweep(node, task, points, every_seed, options, resume=resume, as_json=as_json)
    return ablate_levers(node, task, every_seed, options, resume=resume, as_json=as_json)


def check_points(node: "Node", orders: Sequence["RunOrder"], *, preflight: bool) -> None:
    """Raise what is wrong with any of these orders, before a run is started; each language model is asked once."""
    from services.cli.live import call_models
    from services.host.orders import check

    asked = set()
    for order in orders:
        ordered = check(order, node)
        models = (order.agent, order.verifier)
        if preflight and models not in asked:
            call_models(order, ordered, node)
            asked.add(models)


def ablate_levers(
    node: "Node", task: str, seeds: Sequence[int], options: dict[str, Any], *, resume: bool, as_json: bool
) -> int:
    """Run a task by each lever that is ordered, and by none, over these seeds; the exit code."""
    import msgspec

    from runtime.run import budget as budgets
    from runtime.run.order import Search
    from services.views.progress import stdout
    from services.views.run import ablation_table

    levers = ("scaffold", "weights", "both") if options["levers"] == "both" else (options["levers"],)
    reports: list[Report] = []

    def orders() -> Iterator["RunOrder"]:
        for seed in seeds:
            for arm in levers:
                yield order_of(task, options | {"levers": arm, "seed": seed})
            if reports[-1].score is not None:  # else its start could not be evaluated
                used = budgets.with_rollouts(options["budget"], reports[-1].rollouts)
                search = Search(strategy="best_of_k")
                order = order_of(task, options | {"levers": "both", "generations": None, "seed": seed, "budget": used})
                yield order._replace(search=search)

    if interrupted := run_each(node, orders(), reports.append, resume=resume):
        return interrupted
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    else:
        ablation_table(stdout(), reports)
    return say_all_failed(reports)


def sweep(
    node: "Node",
    task: str,
    points: Sequence[Point],
    seeds: Sequence[int],
    options: dict[str, Any],
    *,
    resume: bool,
    as_json: bool,
) -> int:
    """Run a task at each point over these seeds; the exit code."""
    import msgspec

    from services.views.progress import stdout
    from services.views.sweep import SweepPoint, SweepReport, sweep_table

    ordered = [(point, order_of(task, options | {**point, "seed": seed})) for seed in seeds for point in points]
    click.echo(f"evolog: {len(points)} points and {len(seeds)} seeds: {len(ordered)} runs", err=True)
    reports: list[Report] = []
    if interrupted := run_each(node, (order for _, order in ordered), reports.append, resume=resume):
        return interrupted
    result = SweepReport(
        task=reports[0].task,
        seeds=list(seeds),
        points=[SweepPoint(settings=dict(point), runs=reports[at :: len(points)]) for at, point in enumerate(points)],
    )
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    else:
        sweep_table(stdout(), result)
    return say_all_failed(reports)


def run_each(node: "Node", orders: Iterable["RunOrder"], done: Callable[["Report"], None], *, resume: bool) -> int:
    """Carry out one run after the other, each to the end of its audit; 0, or the exit code of an interrupt.

    With `resume` a run that was ordered alike is taken in place of a new one.
    """
    import asyncio

    from services.cli.live import follow, leave, prepare, run_name, to_stderr
    from services.host.orders import ordered_alike, services_up
    from services.views.progress import VisibleConsole, working

    with services_up(node, to_stderr, working) as services:
        for order in orders:
            started = prepare(node, order)
            if earlier := asyncio.run(ordered_alike(node, started)) if resume else "":
                to_stderr(f"evolog: {earlier} was ordered alike, and is taken.")
            name = earlier or run_name(order)
            report = follow(node, name, started, VisibleConsole(stderr=True), begun=bool(earlier))
            if report is None:
                services.interrupted = True
                code = leave(node, name, services)
                to_stderr("The same command with --resume goes on from here.")
                return code
            done(report)
    return 0


def say_all_failed(reports: Sequence["Report"]) -> int:
    """Name the runs without a candidate; the exit code, 1 where there are some."""
    from services.cli.live import say_failed

    failed = [report for report in reports if report.score is None]
    for report in failed:
        say_failed(report)
    return 1 if failed else 0


class SweptFlag(NamedTuple):
    """A flag with the values that it is to have."""

    option: click.Parameter
    values: list[Any]


def points_of(context: click.Context, over: Sequence[str]) -> list[Point]:
    """Each value with each, of settings in the form `key=v1,v2`.

    Raises `UsageError` for another form, for a key that is no flag of a run, or is set beside, and for a value that a
    flag cannot have.
    """
    swept = [_swept(context, text) for text in over]
    names = [flag.option.name or "" for flag in swept]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--over names {min(twice)} twice: give all of its values at once.")
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(flag.values for flag in swept))]


def _swept(context: click.Context, text: str) -> SweptFlag:
    flags = {
        name: option
        for option in context.command.params
        if option.name not in NOT_SWEPT and isinstance(option, click.Option)
        for name in flag_names(option)
    }
    key, equals, values = text.partition("=")
    option = flags.get(key.strip().replace("-", "_"))
    if not equals or option is None:
        raise UsageError(
            f"{text!r} is nothing to sweep: write --over KEY=V1,V2, the key being one of "
            f"{', '.join(sorted({flag_names(each)[0] for each in flags.values()}))}."
        )
    if setting_source(context, option.name or "") in ("the command line", "--set"):
        raise UsageError(f"{key} is swept and set as well: leave --{key.replace('_', '-')} out.")
    parts = [part.strip() for part in values.split(",")]
    if len(set(parts)) < max(2, len(parts)):
        raise UsageError(f"{text!r} compares nothing: give at least two values, each once, as in {key}=V1,V2.")
    try:
        return SweptFlag(option, [option.type_cast_value(context, part) for part in parts])
    except click.BadParameter as wrong:
        raise UsageError(f"{text!r} cannot be swept: {wrong.message}") from wrong
