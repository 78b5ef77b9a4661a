"""`evolog task`."""

from pathlib import Path

import click

from services.cli.options import as_json, examples


@click.group(epilog=examples("evolog task new mine --kind graded", "evolog task check ./mine"))
def task() -> None:
    """Make a task of your own, and check it."""


@task.command(
    "new", epilog=examples("evolog task new mine", "evolog task new kernels --kind program --into ~/evolog-tasks")
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["labelled", "csv", "graded", "unlabelled", "program", "submission"]),
    default="labelled",
    show_default=True,
    help="What an answer is: a label (csv: of the rows of a file), a text that earns the more the better it is "
    "(unlabelled: whose best nobody knows), a program, or a part of a whole submission.",
)
@click.option(
    "--into",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder to make it in; by default the current one.",
)
def task_new(name: str, kind: str, parent: Path) -> None:
    """Make the folder NAME, a small task that runs as it is."""
    from tasks.templates import new_task

    folder = new_task(name, kind, parent)
    path = folder if folder.is_absolute() else f"./{folder}"
    click.echo(path)
    click.echo(f"Next: evolog task check {path}, then evolog run {path} --budget rollouts=20k", err=True)


@task.command("check", epilog=examples("evolog task check ./mine", "evolog task check lawbench --json"))
@click.argument("path")
@click.option(
    "--items", type=click.IntRange(1), default=None, help="Most items of a split that are scored; by default all."
)
@as_json
def task_check(path: str, items: int | None, as_json: bool) -> int:
    """Say in sentences what is wrong with a task, or that it is sound.

    PATH is a task's folder or name. Its code is run with all your rights, gold included.
    """
    import json

    from events.errors import CheckFailed
    from services.host.task_check import FINDING, check_task
    from services.views.progress import working
    from tasks.loading import hidden_folder

    if sentence := hidden_folder(path):
        click.echo(f"evolog: {sentence}", err=True)
    with working(f"checking {path}") as say:
        results = check_task(path, items, say)
    findings = [result for result in results if result.status == FINDING]
    if as_json:
        checks = [result._asdict() for result in results]
        click.echo(json.dumps({"version": 1, "task": path, "sound": not findings, "checks": checks}))
    else:
        for result in results:
            click.echo(f"{result.status:8}{result.check:12}{result.sentence}")
        click.echo(
            f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}" if findings else f"{path} is sound"
        )
    return CheckFailed.code if findings else 0
