"""`evolog rm`."""

from pathlib import Path

import click

from events.errors import UsageError
from services.cli.options import directory, examples


@click.command(epilog=examples("evolog rm lawbench-s0"))
@click.argument("run")
@directory
def rm(run: str, directory: Path) -> None:
    """Say why a run cannot be removed, and what to do instead.

    The log is append-only: nothing in it is ever removed.
    """
    from services.host.imports import find_export
    from services.host.node import Node

    if (export := find_export(Node(directory), run)) is not None:
        raise UsageError(f"Run {run} is here as the files of an export: delete the folder {export} to be rid of it.")
    raise UsageError(
        f"Run {run} is not removed, since the log in {directory} is append-only: what other runs, audits and digests "
        "rest on stays as it was written. To be rid of it, take along what is to stay (`evolog replay OTHER --export "
        f"FOLDER`, then `evolog import FOLDER --dir NEW`), and delete {directory}; to free disk space, `evolog gc`."
    )
