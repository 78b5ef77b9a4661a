"""`evolog ablate`."""

from pathlib import Path

import click

from services.cli.options import as_json, examples, run_options


@click.command(epilog=examples("evolog ablate lawbench --seeds 3"))
@click.argument("task")
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs for each choice of levers."
)
@click.option("--first-seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@run_options
@as_json
def ablate(
    task: str, seeds: int, first_seed: int, generations: int | None, budget: str, directory: Path, as_json: bool
) -> int:
    """Run TASK by each lever alone and by both, over several seeds.

    The table compares them, with intervals over the seeds.
    """
    import msgspec

    from replay.report import Report
    from runtime.run.order import RunOrder
    from services.cli.live import follow, goes_on, prepare, run_name, say_failed, to_stderr
    from services.host.node import Node
    from services.host.orders import check, services_up
    from services.views.progress import VisibleConsole, stdout
    from services.views.run import ablation_table

    node, reports = Node(directory), list[Report]()
    check(RunOrder(task=task, levers="both", seed=0, generations=generations, budget=budget), node)
    with services_up(node, to_stderr) as services:
        for seed in range(first_seed, first_seed + seeds):
            for levers in ("scaffold", "weights", "both"):
                order = RunOrder(task=task, levers=levers, seed=seed, generations=generations, budget=budget)
                name = run_name(order)
                report = follow(node, name, prepare(node, order), VisibleConsole(stderr=True))
                if report is None:
                    services.keep()
                    return goes_on(name)
                reports.append(report)
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    else:
        ablation_table(stdout(), reports)
    failed = [report for report in reports if report.score is None]
    for report in failed:
        say_failed(report)
    return 1 if failed else 0
