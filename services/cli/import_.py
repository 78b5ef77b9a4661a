"""`evolog import`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command("import", epilog=examples("evolog import exported-run"))
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@directory
@as_json
def import_(source: Path, directory: Path, as_json: bool) -> None:
    """Take in a run that `evolog replay --export` wrote.

    It can then be replayed, shown, audited and compared here.
    """
    import msgspec

    from services.cli.reading import exports_in_words
    from services.host.sources import import_export
    from services.views.progress import working
    from services.views.replayed import closing_lines

    with working(f"checking {source}"), exports_in_words(directory, str(source.resolve())):
        manifest = import_export(directory, source)
    if as_json:
        click.echo(msgspec.json.encode(manifest).decode())
    else:
        run = manifest.run
        click.echo(
            f"{run}: {manifest.events:,} events and {manifest.blobs} blobs; `evolog replay {run}` decides it again."
        )
        if manifest.closing:
            click.echo("\n".join(closing_lines(manifest.closing)))
        else:
            click.echo(f"note: the export says no digests that close {run}, as those of an older evolog.", err=True)
