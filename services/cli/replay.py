"""`evolog replay`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from events.errors import CheckFailed, UsageError
from services.cli.options import as_json, directory, examples, task_code

if TYPE_CHECKING:
    from runtime.run.loading import TaskAccess


@click.command(
    epilog=examples(
        "evolog replay lawbench-s0",
        "evolog replay lawbench-s0 --to 2178",
        "evolog replay lawbench-s0 --swap verifier=strict.py",
    )
)
@click.argument("run", required=False)
@directory
@click.option(
    "--expect",
    "expected",
    metavar="DIGEST",
    multiple=True,
    help="The digest that EVOLOG, or GOLD, closed the run with: exit with 3 unless it does.",
)
@click.option("--to", "at", metavar="SEQ|TIME", help="Show the state that the run was in there.")
@click.option(
    "--perform",
    metavar="KINDS",
    help="Perform effects again and compare: verifier,meta_agent,feedback_agent,policy,trainer.",
)
@click.option(
    "--swap", metavar="SERVICE=PATH", help="What would come out differently with this verifier, or feedback_agent."
)
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="DIR", help="Write the run, log and blobs, into a new folder."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Rebuild the archive; of all runs without RUN.",
)
@click.option(
    "--parquet", type=click.Path(path_type=Path), metavar="DIR", help="With --into: the tables as Parquet too, by run."
)
@task_code
@as_json
def replay(
    run: str | None,
    directory: Path,
    expected: tuple[str, ...],
    at: str | None,
    perform: str | None,
    swap: str | None,
    export: Path | None,
    into: Path | None,
    parquet: Path | None,
    task: str,
    trust_code: bool,
    as_json: bool,
) -> int:
    """Decide a recorded run again, byte for byte. RUN is a name, or the folder of an export; nothing needs to be up."""
    if sum(option is not None for option in (at, perform, swap, export, into)) > 1:
        raise UsageError("--to, --perform, --swap, --export and --into are different things to do: give one of them.")
    if expected and any(option is not None for option in (at, perform, swap, export, into)):
        raise UsageError("--expect belongs to `evolog replay RUN` alone, which decides the run again.")
    if parquet and not into:
        raise UsageError("--parquet writes the tables of a rebuilt archive: name its file with --into.")
    if (task or trust_code) and perform is None and swap is None:
        raise UsageError("--task and --trust-code are about a task's code: give --perform or --swap, which run it.")
    from runtime.run.loading import TaskAccess
    from services.cli.reading import exports_in_words

    access = TaskAccess(folder=task, trusted=trust_code)
    if task:
        from tasks.loading import load

        load(task)  # that it is there is known before the log is read
    with exports_in_words(directory, *([run] if run else [])):
        if into:
            return rebuild(directory, run, into, parquet, as_json)
        if not run:
            raise UsageError("Name a run, as in `evolog replay RUN`; `evolog ls` shows those that there are.")
        if at is not None:
            return show_state(directory, run, at, as_json)
        if perform is not None:
            return perform_again(directory, run, perform, access, as_json)
        if swap is not None:
            return swap_service(directory, run, swap, access, as_json)
        if export is not None:
            return export_run(directory, run, export, as_json)
        return redecide_run(directory, run, as_json, expected)


def redecide_run(directory: Path, name: str, as_json: bool, expected: Sequence[str] = ()) -> int:
    """Decide a run again, and print the first difference; the exit code, 3 for a difference.

    Raises `CheckFailed` where the run closes with other digests than those expected.
    """
    from replay.closing import require_digests, require_expected
    from replay.replayer import redecide
    from services.cli.reading import read_run
    from services.views.progress import counting
    from services.views.replayed import replay_lines

    require_digests(expected)
    run = read_run(directory, name)
    with counting("deciding again", "events") as progress:
        result = redecide(run, progress=progress)
    _print(result, replay_lines(result), as_json)
    require_expected(result.closing, expected)
    return CheckFailed.code if result.difference else 0


def show_state(directory: Path, name: str, at: str, as_json: bool) -> int:
    """Print the state that a run was in at a sequence or time; the exit code."""
    from replay.replayer import beyond, find_sequence, parse_point, state_at
    from services.cli.reading import read_run
    from services.views.replayed import state_fields, state_lines

    parse_point(at)  # before the log is read, as in the functions below
    run = read_run(directory, name)
    sequence = find_sequence(run.messages, at)
    if sentence := beyond(run.messages, at):
        click.echo(f"evolog: {sentence}.", err=True)
    state = state_at(run, sequence)
    fields = {"version": 3, "run": run.run, "sequence": sequence, "state": state_fields(state)}
    _print(fields, state_lines(run.run, sequence, state), as_json)
    return 0


def perform_again(directory: Path, name: str, kinds: str, access: "TaskAccess", as_json: bool) -> int:
    """Perform recorded effects again, and print how they compare; the exit code, 3 for a difference."""
    from replay.perform import perform, require_kinds
    from services.cli.reading import read_run
    from services.host.settings import scoring_limit
    from services.views.progress import counting
    from services.views.replayed import performed_lines

    require_kinds(kinds.split(","))
    run = read_run(directory, name)
    with _folder() as folder, counting("performing again", "effects") as progress:
        performed = perform(
            run.everything,
            run.blobs,
            folder,
            kinds.split(","),
            lambda kind, done, total: progress(done, total),
            access._replace(exported=run.exported),
            scoring_limit(),
        )
    _print({"version": 1, "run": run.run, "performed": performed}, performed_lines(performed), as_json)
    if any(kind.first for kind in performed):
        return CheckFailed.code
    return 1 if any(kind.cannot and not kind.performed for kind in performed) else 0


def swap_service(directory: Path, name: str, assignment: str, access: "TaskAccess", as_json: bool) -> int:
    """Print what would have come out differently with other code in a service's place; the run stays as it is.

    The exit code.
    """
    from replay.swap import read_replacement, swap
    from services.cli.reading import read_run
    from services.host.settings import scoring_limit
    from services.views.progress import working
    from services.views.replayed import swap_lines

    service, equals, path = assignment.partition("=")
    if not equals:
        raise UsageError(f"{assignment!r} is nothing to --swap: write verifier=PATH or feedback_agent=PATH.")
    read_replacement(service, Path(path))
    run = read_run(directory, name)
    with _folder() as folder, working(f"asking {path}"):
        access = access._replace(exported=run.exported)
        swapped = swap(run.everything, run.blobs, folder, service, Path(path), access, scoring_limit())
    _print(swapped, swap_lines(swapped), as_json)
    return 0


def export_run(directory: Path, name: str, target: Path, as_json: bool) -> int:
    """Write a run, log and blobs, into a folder; the exit code."""
    from replay.exports import folder
    from services.cli.reading import read_run
    from services.host.node import version
    from services.views.progress import working

    folder.require_new(target)
    run = read_run(directory, name)
    with working(f"exporting {run.run}"):
        manifest = folder.write(run, target, version())
    words = (
        f"{run.run}: {manifest.events:,} events and {manifest.gold} of the auditor, {manifest.blobs} blobs, in {target}"
    )
    _print(manifest, [words], as_json)
    return 0


def rebuild(directory: Path, run: str | None, into: Path, parquet: Path | None, as_json: bool) -> int:
    """Rebuild the archive, and print what was checked on the way; the exit code, 3 at a gap or broken chain."""
    from services.host.rebuild import rebuild_archive
    from services.views.progress import counting
    from services.views.replayed import rebuild_lines

    with counting("rebuilding", "events") as progress:
        summary = rebuild_archive(directory, run or "", into, parquet, progress)
    _print(summary, rebuild_lines(summary), as_json)
    return CheckFailed.code if summary.broken or summary.gap else 0


def _print(value: object, lines: list[str], as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value).decode() if as_json else "\n".join(lines))


@contextmanager
def _folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
        yield Path(folder)
