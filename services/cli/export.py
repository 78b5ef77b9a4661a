"""`evolog export`."""

from pathlib import Path
from typing import Literal

import click

from events.errors import UsageError
from services.cli.options import CommandLineOnly, as_json, directory, examples


@click.command(
    epilog=examples(
        "evolog export lawbench-s0",
        "evolog export lawbench-s0 --to inspect --output logs",
        "evolog export lawbench-s0 --to otel --follow",
    )
)
@click.argument("run")
@directory
@click.option(
    "--to",
    "form",
    type=click.Choice(["folder", "inspect", "otel", "parquet"]),
    default="folder",
    show_default=True,
    help="folder: log and blobs, to be replayed elsewhere. inspect: .eval logs. otel: OTLP spans. parquet: a data set.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The new folder, or for otel the file; by default named after the run, in the current folder.",
)
@click.option("--gold", is_flag=True, cls=CommandLineOnly, help="The auditor's scores too; a folder always holds them.")
@click.option("--messages", is_flag=True, help="With otel: what models were asked and said.")
@click.option(
    "--follow", is_flag=True, help="With otel: send spans to OTEL_EXPORTER_OTLP_ENDPOINT until the run has ended."
)
@as_json
def export(
    run: str,
    directory: Path,
    form: Literal["folder", "inspect", "otel", "parquet"],
    output: Path | None,
    gold: bool,
    messages: bool,
    follow: bool,
    as_json: bool,
) -> int:
    """Write a run in a format that other tools open. RUN is a name, or the folder of an export.

    With otel and OTEL_EXPORTER_OTLP_ENDPOINT, but without --output, spans are sent there.
    """
    from services.cli import export_runs
    from services.cli.reading import exports_in_words

    if form != "otel" and (messages or follow):
        raise UsageError("--messages and --follow are about spans: give --to otel.")
    with exports_in_words(directory, run):
        match form:
            case "folder":
                return export_runs.to_folder(directory, run, output, as_json)
            case "inspect":
                return export_runs.to_inspect(directory, run, output, gold, as_json)
            case "parquet":
                return export_runs.to_parquet(directory, run, output, gold, as_json)
            case "otel" if follow or export_runs.sends(output):
                if output is not None:
                    raise UsageError("--follow sends spans, and --output writes a file: give one of them.")
                return export_runs.send_spans(directory, run, gold, messages, follow, as_json)
            case "otel":
                return export_runs.to_otlp_file(directory, run, output, gold, messages, as_json)
