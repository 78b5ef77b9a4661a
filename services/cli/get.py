"""`evolog get`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from events.errors import UsageError
from services.cli.options import CommandLineOnly, as_json, directory, examples

if TYPE_CHECKING:
    from services.host.outputs import Part


@click.command(
    epilog=examples(
        "evolog get lawbench-s0 scaffold my-scaffold",
        "evolog get lawbench-s0 adapter my-adapter --generation 3",
        "evolog get lawbench-s0 answers my-answers",
    )
)
@click.argument("run")
@click.argument("part", type=click.Choice(["scaffold", "adapter", "answers"]))
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--generation", type=click.IntRange(0), cls=CommandLineOnly, help="Of the candidate of this generation.")
@click.option("--candidate", default="", metavar="ID", cls=CommandLineOnly, help="Of the candidate of this id.")
@directory
@as_json
def get(
    run: str, part: "Part", target: Path, generation: int | None, candidate: str, directory: Path, as_json: bool
) -> None:
    """Write a candidate's scaffold, adapter or answers into DIR.

    It is the best candidate, unless another is named. The adapter is a folder of PEFT. Answers are those on dev, as
    JSON lines, with their rewards. RUN is a name, or the folder of an export; nothing needs to be up.
    """
    import msgspec

    from services.cli.reading import exports_in_words
    from services.host.outputs import ANSWERS, write_output
    from services.views.progress import working

    if candidate and generation is not None:
        raise UsageError("--generation and --candidate both name a candidate: give one of them.")
    with exports_in_words(directory, run), working(f"reading {run}"):
        written = write_output(directory, run, part, target, generation, candidate)
    if as_json:
        click.echo(msgspec.json.encode(written).decode())
        return
    what = f"{written.answers:,} answers in {target / ANSWERS}" if part == "answers" else f"{part} in {target}"
    click.echo(f"{written.run}, generation {written.generation}: {what}")
