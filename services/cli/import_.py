"""`evolog import`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory


@click.command("import")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@directory
@as_json
def import_(source: Path, directory: Path, as_json: bool) -> None:
    """Take a run that `evolog replay --export` wrote into this project directory, to be replayed, shown and
    compared.
    """
    import msgspec

    from services.host.sources import import_export
    from services.views.progress import working

    with working(f"checking {source}"):
        manifest = import_export(directory, source)
    if as_json:
        click.echo(msgspec.json.encode(manifest).decode())
    else:
        run = manifest.run
        click.echo(
            f"{run}: {manifest.events:,} events and {manifest.blobs} blobs; `evolog replay {run}` decides it again."
        )
