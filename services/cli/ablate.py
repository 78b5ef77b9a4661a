"""`evolog ablate`."""

from pathlib import Path

import click

from services.cli.options import as_json, examples, run_options


@click.command(epilog=examples("evolog ablate lawbench --seeds 3"))
@click.argument("task")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each kind.")
@click.option("--first-seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@run_options
@as_json
def ablate(
    task: str, seeds: int, first_seed: int, generations: int | None, budget: str, directory: Path, as_json: bool
) -> int:
    """Run TASK by each lever, by both and by none, over several seeds.

    Where no lever is pulled, the start is asked again, with as many rollouts as both levers used. The table compares
    them, with intervals over the seeds.
    """
    import msgspec

    from replay.report import Report
    from runtime.run import budget as budgets
    from runtime.run.order import RunOrder, Search
    from services.cli.live import follow, goes_on, prepare, run_name, say_failed, to_stderr
    from services.host.node import Node
    from services.host.orders import check, services_up
    from services.views.progress import VisibleConsole, stdout
    from services.views.run import ablation_table

    node, reports = Node(directory), list[Report]()
    check(RunOrder(task=task, levers="both", seed=0, generations=generations, budget=budget), node)
    with services_up(node, to_stderr) as services:
        for seed in range(first_seed, first_seed + seeds):
            for arm in ("scaffold", "weights", "both", "start asked again"):
                order = RunOrder(task=task, levers=arm, seed=seed, generations=generations, budget=budget)
                if arm == "start asked again":
                    if reports[-1].score is None:  # its start could not be evaluated
                        continue
                    used = budgets.with_rollouts(budget, reports[-1].rollouts)
                    search = Search(strategy="best_of_k")
                    order = order._replace(levers="both", generations=None, budget=used, search=search)
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
