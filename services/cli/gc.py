"""`evolog gc`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog gc", "evolog gc first --delete"))
@click.argument("run", default="")
@directory
@click.option("--delete", is_flag=True, help="Free what is listed, for good; nothing may be up.")
@as_json
def gc(run: str, directory: Path, delete: bool, as_json: bool) -> None:
    """Say what disk space can be freed, and what goes with it.

    That is the optimiser states from which neither a run nor a fork of its end would train on; of RUN, or of all runs.
    """
    import msgspec

    from services.host.free_space import free_states
    from services.views.free_space import freeing_lines
    from services.views.progress import working

    with working("reading the log"):
        freeing = free_states(directory, run, delete=delete)
    click.echo(msgspec.json.encode(freeing).decode() if as_json else "\n".join(freeing_lines(freeing)))
