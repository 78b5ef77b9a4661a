"""`evolog show`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog show lawbench-s0"))
@click.argument("run")
@directory
@as_json
def show(run: str, directory: Path, as_json: bool) -> None:
    """Show one run: each generation, and the auditor's table."""
    import msgspec

    from services.cli.reading import exports_in_words
    from services.host.sources import load_report
    from services.views.progress import stdout
    from services.views.run import show_report

    with exports_in_words(directory, run):
        report = load_report(directory, run)
        if as_json:
            click.echo(msgspec.json.encode(report).decode())
        else:
            show_report(stdout(), report)
