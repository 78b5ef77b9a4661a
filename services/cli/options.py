"""The flags that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def examples(*commands: str) -> str:
    """The end of a command's help: commands to copy, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def directory(function: Function) -> Function:
    """The flag of every command that needs a project directory."""
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


class CommandLineOnly(click.Option):
    """A flag that no file or variable sets: it is said on the command line, or it is not said."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"allow_from_autoenv": False})


def task_code(function: Function) -> Function:
    """The flags of the commands that may run a task's code for a recorded run."""
    for option in (
        click.option(
            "--trust-code",
            is_flag=True,
            cls=CommandLineOnly,
            help="Run the code of the task folder that an export names, with all your rights.",
        ),
        click.option(
            "--task",
            default="",
            metavar="FOLDER",
            cls=CommandLineOnly,
            help="The task's folder or name, in place of the one that the run names; its code is run.",
        ),
    ):
        function = option(function)
    return function


def run_options(function: Function) -> Function:
    """The flags that `run` and `ablate` share."""
    for option in (
        click.option(
            "--generations",
            type=click.IntRange(0, 1000),
            default=None,
            help="Most changes to try; the task has a default.",
        ),
        click.option("--budget", default="", help="What a run may spend: rollouts=N,tokens=N,usd=X."),
        directory,
    ):
        function = option(function)
    return function
