"""`evolog down`."""

from pathlib import Path

import click

from services.cli.options import directory, examples


@click.command(epilog=examples("evolog down"))
@directory
def down(directory: Path) -> None:
    """Stop what `evolog up` started.

    Runs stay as they are and go on with the next `up`.
    """
    from services.host.supervisor import stop
    from services.views.progress import working

    with working(f"stopping what runs in {directory}"):
        stop(directory)
