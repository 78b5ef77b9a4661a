"""`evolog ls`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog ls"))
@directory
@as_json
def ls(directory: Path, as_json: bool) -> None:
    """List the runs."""
    import msgspec

    from services.host.reports import list_runs
    from services.views.progress import stdout, working
    from services.views.run import runs_table

    with working("reading the log"):
        runs = list_runs(directory)
    if as_json:
        click.echo(msgspec.json.encode({"version": 2, "runs": runs}).decode())
    else:
        runs_table(stdout(), runs)
