"""The command line `evolog`: its group of commands, and what becomes of a user's error.

Only what every command needs is imported here and beside each command; the rest comes when a command runs.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any

import click

from events.errors import UserError, no_room, says_disk_is_full
from services.cli.ablate import ablate
from services.cli.audit import audit
from services.cli.completion import VARIABLE, complete_values, completion
from services.cli.credentials import credentials
from services.cli.data import data
from services.cli.diff import diff
from services.cli.doctor import doctor
from services.cli.down import down
from services.cli.export import export
from services.cli.fork import fork
from services.cli.gc import gc
from services.cli.get import get
from services.cli.import_ import import_
from services.cli.init import init
from services.cli.logs import logs
from services.cli.ls import ls
from services.cli.mcp import mcp
from services.cli.model import model
from services.cli.options import flag_names, is_settable, named_flags
from services.cli.pause import cancel, pause, resume
from services.cli.replay import replay
from services.cli.report import report
from services.cli.rm import rm
from services.cli.run import run
from services.cli.service import service
from services.cli.services import services
from services.cli.show import show
from services.cli.sign import sign, verify
from services.cli.sql import sql
from services.cli.task import task
from services.cli.ui import ui
from services.cli.up import up
from services.cli.watch import watch
from services.host import hints
from services.host.visible import visible_output

VERBS: dict[str, tuple[click.Command, ...]] = {
    "Start a run": (run, ablate, fork),
    "Follow it": (watch, ui, ls, show, services, pause, resume, cancel),
    "Ask what happened": (sql, get, replay, diff, audit, report, sign, verify, mcp),
    "Bring in and take out": (task, data, model, import_, export),
    "Operate": (up, down, logs, service, credentials, doctor, gc, rm, init, completion),
}
"""The commands, by what one wants of them, in the order in which help lists them."""
OS_CODES = {errno.EACCES: 77, errno.EPERM: 77, errno.EROFS: 77, errno.ENOSPC: 75, errno.EDQUOT: 75}
"""The exit codes of what the operating system refuses."""


class Commands(click.Group):
    """The commands: an error of the user becomes a sentence and an exit code, and files may set flags."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command, and exit as the conventions of sysexits say."""
        with visible_output():
            self._main(*args, **kwargs)

    def _main(self, *args: Any, **kwargs: Any) -> None:
        kwargs["standalone_mode"] = False
        kwargs.setdefault("complete_var", VARIABLE)
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

            if (extra_error := without_extra(missing)) is None:
                raise
            click.echo(f"evolog: {extra_error}", err=True)
            sys.exit(extra_error.code)
        except OSError as wrong:
            location = wrong.filename or "a file or connection"
            click.echo(
                f"evolog: {location} cannot be used ({wrong.strerror}); give another --dir, or put that right.",
                err=True,
            )
            sys.exit(OS_CODES.get(wrong.errno or 0, 1))
        except Exception as wrong:
            if not says_disk_is_full(wrong):
                raise
            click.echo(f"evolog: {(full := no_room(str(wrong)))}", err=True)
            sys.exit(full.code)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under the headings of `VERBS`."""
        for heading, verbs in VERBS.items():
            limit = formatter.width - 6 - max(len(verb.name or "") for verb in verbs)
            with formatter.section(heading):
                formatter.write_dl([(verb.name or "", verb.get_short_help_str(limit)) for verb in verbs])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Take the settings of files as defaults, below flags and environment."""
        from services.cli.defaults import defaults, read_dotenv
        from services.cli.variables import require_known_variables

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads that NumPy waits with take the services' cores
        if {"-h", "--help", "--version"} & set(args):
            # help is there whatever is wrong with the settings
            return super().make_context(info_name, args, parent, **extra)
        completing = bool(extra.get("resilient_parsing"))
        flags = {name: named_flags(command) for name, command in self.commands.items()}
        with contextlib.suppress(*((UserError,) if completing else ())):  # a shell has no place for the sentence
            for name, value in read_dotenv(Path.cwd()).items():
                os.environ.setdefault(name, value)
            require_known_variables(self, os.environ)
            extra.setdefault("default_map", defaults(flags, Path.cwd()))
        return super().make_context(info_name, args, parent, **extra)


def say_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print the version, also where evolog runs from its own folder and is not installed."""
    if wanted:
        from services.host.node import version

        click.echo(f"evolog, version {version()}")
        context.exit()


HELP_FLAGS = ["-h", "--help"]


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "EVOLOG", "help_option_names": HELP_FLAGS})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=say_version,
    help="Show the version and exit.",
)
def main() -> None:
    """A runtime in which an agent improves itself by its scaffold and its weights, on one append-only log."""


def note_directory(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Have sentences repeat the --dir that was typed."""
    typed = context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
    hints.remember_directory(value if typed else None)
    return value


for verbs in VERBS.values():
    for verb in verbs:
        verb.context_settings["help_option_names"] = HELP_FLAGS  # click keeps those of the first call, whoever makes it
        main.add_command(verb)
        complete_values(verb)
        within = list(verb.commands.values()) if isinstance(verb, click.Group) else []
        for option in (each for one in (verb, *within) for each in one.params if each.name == "directory"):
            hints.VERBS.add(verb.name or "")
            option.callback = option.callback or note_directory
        for option in filter(is_settable, verb.params):
            option.envvar = option.envvar or f"EVOLOG_{verb.name}_{flag_names(option)[0]}".upper()
