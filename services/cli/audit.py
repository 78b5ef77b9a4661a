"""`evolog audit`: its flags. What runs is in `audit_runs.py`."""

from pathlib import Path
from typing import Literal

import click

from events.errors import UsageError
from services.cli.options import as_json, directory, examples, task_code


@click.command(epilog=examples("evolog audit lawbench-s0", "evolog audit lawbench-s0 --html audit.html"))
@click.argument("run", required=False)
@directory
@click.option("--all", "every", is_flag=True, help="A line for each run, and the exit code of the worst.")
@click.option(
    "--fail-on",
    type=click.Choice(["suspect", "drift"]),
    default="drift",
    show_default=True,
    help="The state from which on the exit code is 3. It is 6 where something that counts is unknown.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write all of it as one page, pictures included.",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the pictures as PNG into this folder.",
)
@click.option("--fresh", is_flag=True, help="Compute the audit of a finished run again, though nothing has changed.")
@task_code
@as_json
def audit(
    run: str | None,
    directory: Path,
    every: bool,
    fail_on: Literal["suspect", "drift"],
    html: Path | None,
    plots: Path | None,
    fresh: bool,
    task: str,
    trust_code: bool,
    as_json: bool,
) -> int:
    """Say whether a run's score still means anything. RUN is a name, or the folder of an export; it may still go on."""
    from runtime.run.loading import TaskAccess
    from services.cli import audit_runs
    from services.cli.reading import exports_in_words

    if every and (run or html or plots or task):
        raise UsageError(
            "--all is a line for each run: leave out RUN, --task, --html and --plots, which are about one."
        )
    if every:
        return audit_runs.audit_all(directory, as_json=as_json, fail_on=fail_on, trusted=trust_code, fresh=fresh)
    if not run:
        raise UsageError(
            "Name a run, as in `evolog audit RUN`, or give --all; `evolog ls` shows the runs that there are."
        )
    access = TaskAccess(folder=task, trusted=trust_code)
    with exports_in_words(directory, run):
        return audit_runs.audit_run(
            directory, run, access, as_json=as_json, fail_on=fail_on, html=html, plots=plots, fresh=fresh
        )
