"""`evolog sql`."""

import sys
from pathlib import Path

import click

from events.errors import NotFound, UsageError
from services.cli.options import directory, examples


@click.command(
    epilog=examples(
        'evolog sql "SELECT generation, lever, score, accepted FROM generations ORDER BY generation"',
        'evolog sql --format csv "FROM trajectories" > trajectories.csv',
        "evolog sql '.schema runs'",
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

    Queries read and change nothing; they may be asked while a run goes on. Without QUERY it is read from standard
    input. `.schema` lists the tables, `.schema NAME` what the columns of one mean.
    """
    from replay.archive import query as archives
    from replay.archive.projection import require_duckdb
    from services.views.progress import working
    from services.views.query_result import render, require_writable

    form = "json" if as_json else form
    query = query_text(query, file)
    if archive:
        require_duckdb(archive)
    require_writable(form)
    name, _, rest = query.strip().rstrip(";").partition(" ")
    if name.startswith("."):
        if name != ".schema":
            raise UsageError(f"There is no {name} here; `.schema` lists the tables, and all else is SQL.")
        from replay.archive.schema import schema

        result = schema(rest)
    else:
        with working("asking the archive"):
            result = archives.query_file(archive, query) if archive else archives.query(directory, query)
    render(result, form)


def query_text(query: str | None, file: Path | None) -> str:
    """The query that was given: as it stands, in a file, or on standard input.

    Raises `UsageError` for none or two, and `NotFound` for a file that cannot be read.
    """
    if query is not None and file is not None:
        raise UsageError("Give a query, or a file with --file, and not both.")
    if file is not None and str(file) != "-":
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise NotFound(f"{file} cannot be read ({wrong}).") from wrong
    if query is None or query == "-":
        query = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
        if not query.strip():
            raise UsageError('Give a query, as in `evolog sql "from runs"`, in a file with --file, or on stdin.')
    return query
