"""The flags that several commands share."""

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from algorithms.search.catalogue import STRATEGIES
from events.kinds import Schedule
from runtime.run.bounds import BOUNDS

if TYPE_CHECKING:
    from runtime.run.order import Search

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


def search_options(function: Function) -> Function:
    """The flags that say how a run searches; `search_of` reads them."""
    for option in (
        click.option(
            "--schedule",
            type=click.Choice(typing.get_args(Schedule)),
            default="agent",
            show_default=True,
            help="Who chooses the lever: the agent, or a fixed order.",
        ),
        click.option(
            "--refills",
            type=click.IntRange(*BOUNDS["refills"]),
            default=0,
            show_default=True,
            help="How often a training round plays the groups again whose attempts all tie.",
        ),
        click.option(
            "--recheck",
            type=click.IntRange(*BOUNDS["recheck"]),
            default=0,
            show_default=True,
            help="Further attempts at each dev item where a candidate is too close to the best to call.",
        ),
        click.option(
            "--first-items",
            type=click.IntRange(*BOUNDS["first_items"]),
            default=0,
            show_default=True,
            help="Dev items asked first; a candidate that does worse on them than its parent is asked no more.",
        ),
        click.option(
            "--width",
            type=click.IntRange(*BOUNDS["width"]),
            default=1,
            show_default=True,
            help="Candidates under way at once.",
        ),
        click.option(
            "--strategy",
            type=click.Choice(list(STRATEGIES)),
            default="chain",
            show_default=True,
            help="Which candidate is changed next: the best (chain), any by the Darwin Goedel Machine's draw (dgm), or "
            "none, the start asked again (best_of_k).",
        ),
    ):
        function = option(function)
    return function


def search_of(options: Mapping[str, Any]) -> "Search":
    """The search that these options order, with others among them or not."""
    from runtime.run.order import Search

    return Search(**{name: options[name] for name in Search._fields})


def run_options(function: Function) -> Function:
    """The flags that `run` and `ablate` share."""
    for option in (
        click.option(
            "--generations",
            type=click.IntRange(0, 1000),
            default=None,
            help="Most changes to try; the task has a default.",
        ),
        click.option("--budget", default="", help="What a run may spend: rollouts=N,tokens=N,usd=X,time=30m."),
        directory,
    ):
        function = option(function)
    return function
