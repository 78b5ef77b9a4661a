"""`evolog diff`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog diff lawbench-s0 lawbench-s1"))
@click.argument("first")
@click.argument("second")
@directory
@as_json
def diff(first: str, second: str, directory: Path, as_json: bool) -> int:
    """Compare two runs: settings, decisions, scaffolds and scores. The exit code is 1 where they differ."""
    import msgspec

    from replay.compare import compare
    from services.cli.reading import exports_in_words, read_run
    from services.views.compared import comparison_lines
    from services.views.progress import working

    with exports_in_words(directory, first, second):
        runs = read_run(directory, first), read_run(directory, second)
        with working(f"comparing {first} with {second}"):
            comparison = compare(*runs)
        click.echo(msgspec.json.encode(comparison).decode() if as_json else "\n".join(comparison_lines(comparison)))
    return 0 if comparison.same else 1
