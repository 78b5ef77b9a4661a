"""`evolog sql`."""

from pathlib import Path

import click

from events.errors import NotFound, UsageError
from services.cli.options import directory, examples


@click.command(
    epilog=examples(
        'evolog sql "SELECT generation, lever, score, accepted FROM generations ORDER BY generation"',
        'evolog sql --format csv "FROM trajectories" > trajectories.csv',
    )
)
@click.argument("query", required=False)
@directory
@click.option(
    "--file", "-f", "file", type=click.Path(path_type=Path, dir_okay=False), help="Read the query from a file."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "ndjson", "csv", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask this file, that `evolog replay --into` made.",
)
def sql(query: str | None, directory: Path, file: Path | None, form: str, as_json: bool, archive: Path | None) -> None:
    """Ask the archive a question in SQL.

    Queries read and change nothing; they may be asked while a run goes on.
    """
    from replay.archive import query as archives
    from replay.archive.projection import require_duckdb
    from services.views.query_result import render

    if (query is None) == (file is None):
        raise UsageError('Give a query, as in `evolog sql "from runs"`, or a file with --file.')
    if file is not None:
        try:
            query = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise NotFound(f"{file} cannot be read ({wrong}).") from wrong
    assert query is not None
    if archive:
        require_duckdb(archive)
    result = archives.query_file(archive, query) if archive else archives.query(directory, query)
    render(result, "json" if as_json else form)
