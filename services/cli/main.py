"""The command line `evolog`: its group of commands, and what becomes of a user's error.

Only what every command needs is imported here and beside each command; the rest comes when a command runs.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import click

from events.errors import UserError, no_room, says_disk_is_full
from services.cli.ablate import ablate
from services.cli.audit import audit
from services.cli.data import data
from services.cli.diff import diff
from services.cli.doctor import doctor
from services.cli.down import down
from services.cli.fork import fork
from services.cli.gc import gc
from services.cli.import_ import import_
from services.cli.ls import ls
from services.cli.model import model
from services.cli.options import CommandLineOnly
from services.cli.pause import cancel, pause, resume
from services.cli.replay import replay
from services.cli.run import run
from services.cli.service import service
from services.cli.show import show
from services.cli.sign import sign, verify
from services.cli.sql import sql
from services.cli.task import task
from services.cli.up import up
from services.cli.watch import watch
from services.host.visible import visible_output

VERBS: dict[str, tuple[click.Command, ...]] = {
    "Start a run": (run, ablate, fork),
    "Follow it": (watch, ls, show, pause, resume, cancel),
    "Ask what happened": (sql, replay, diff, audit, sign, verify),
    "Bring in": (task, data, model, import_),
    "Operate": (up, down, service, doctor, gc),
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
        limit = formatter.width - 6 - max(map(len, self.commands))
        for heading, verbs in VERBS.items():
            with formatter.section(heading):
                formatter.write_dl([(verb.name or "", verb.get_short_help_str(limit)) for verb in verbs])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Take the settings of files as defaults, below flags and environment."""
        from services.cli.defaults import defaults, read_dotenv

        for name, value in read_dotenv(Path.cwd()).items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads that NumPy waits with take the services' cores
        flags = {name: named_flags(command) for name, command in self.commands.items()}
        extra.setdefault("default_map", defaults(flags, Path.cwd()))
        return super().make_context(info_name, args, parent, **extra)


def named_flags(command: click.Command) -> dict[str, str]:
    """The parameters of a command by the names that files may set them by."""
    return {name: option.name or "" for option in command.params if _settable(option) for name in _names(option)}


def _settable(option: click.Parameter) -> bool:
    return not isinstance(option, CommandLineOnly)


def _names(option: click.Parameter) -> list[str]:
    """How files and variables may call a parameter: as its flags are written, then by its own name."""
    flags = [flag for flag in (*option.opts, *option.secondary_opts) if flag.startswith("--")]
    return [*(flag.lstrip("-").replace("-", "_") for flag in flags), option.name or ""]


def say_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print the version, also where evolog runs from its own folder and is not installed."""
    if wanted:
        from services.host.node import version

        click.echo(f"evolog, version {version()}")
        context.exit()


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "EVOLOG", "help_option_names": ["-h", "--help"]})
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


for verbs in VERBS.values():
    for verb in verbs:
        main.add_command(verb)
        for option in filter(_settable, verb.params):
            option.envvar = option.envvar or f"EVOLOG_{verb.name}_{_names(option)[0]}".upper()
