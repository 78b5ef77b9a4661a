"""`evolog completion`, and what the shell is offered for the values of arguments and flags."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from services.cli.options import examples

PROGRAM, VARIABLE = "evolog", "_EVOLOG_COMPLETE"
MOST = 200
"""Runs that are offered, the latest."""


@click.command(epilog=examples("evolog completion bash", "evolog completion zsh > _evolog"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, runs and tasks.

    \b
    bash:  eval "$(evolog completion bash)"   in ~/.bashrc (bash 4.4 or later)
    zsh:   eval "$(evolog completion zsh)"    in ~/.zshrc, behind compinit
    fish:  evolog completion fish > ~/.config/fish/completions/evolog.fish
    """
    kind = get_completion_class(shell)
    assert kind
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo(script.replace('string split ","', 'string split -m 1 ","'))  # for fish, which cut words at a comma


class Names(click.types.StringParamType):
    """A text whose beginnings are completed to names that are known."""

    paths = False
    """Whether the path of a folder will do too."""

    def names(self, context: click.Context) -> Iterable[str]:
        """The names that there are."""
        raise NotImplementedError

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so; where there are none, the shell's own folders if one will do."""
        found: list[str] = []
        with contextlib.suppress(Exception):  # a shell has no place for a sentence about a file that cannot be read
            found = [name for name in self.names(ctx) if name.startswith(incomplete)]
        folders = [CompletionItem(incomplete, type="dir")] if self.paths and not found else []
        return [CompletionItem(name) for name in found] or folders


class Runs(Names):
    """The runs of the project directory, by what the archive holds, and those that were imported."""

    paths = True

    def names(self, context: click.Context) -> Iterable[str]:
        """Their names, the latest first."""
        from replay.archive.query import query
        from services.host.imports import imported_runs
        from services.host.node import Node

        directory = context.params.get("directory") or context.lookup_default("directory")
        node = Node(Path(directory or os.environ.get("EVOLOG_DIR") or ".evolog"))
        yield from imported_runs(node)
        for (run,) in query(node.directory, f"SELECT run FROM run_started ORDER BY seq DESC LIMIT {MOST}").rows:
            yield str(run)


class Tasks(Names):
    """The tasks that come with evolog."""

    paths = True

    def names(self, context: click.Context) -> Iterable[str]:
        """Their names."""
        from tasks.loading import known

        return known()


class Words(Names):
    """Words that are among what can be said."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def names(self, context: click.Context) -> Iterable[str]:
        """The words."""
        return self.words


class Services(Names):
    """The services that `evolog service` starts."""

    def names(self, context: click.Context) -> Iterable[str]:
        """Their names."""
        from events.catalogue import SERVICES

        return SERVICES


class Assignments(Names):
    """The keys of `--set` and `--over`, each with its `=`."""

    def names(self, context: click.Context) -> Iterable[str]:
        """The keys that the command takes."""
        from services.cli.options import CHANGEABLE

        flags = (*(flag for flag, _ in CHANGEABLE), "--budget", "--generations", "--max-tokens", "--width")
        search = ("--strategy", "--schedule", "--first-items", "--recheck", "--refills", "--max-lag")
        return sorted(f"{flag.removeprefix('--').replace('-', '_')}=" for flag in (*flags, *search, "--on-drift"))


VALUES: Mapping[str, Names] = {
    "run": Runs(),
    "first": Runs(),
    "second": Runs(),
    "task": Tasks(),
    "policy": Words("text-scorer", "tiny-lm", "smollm2", "hf:"),
    "agent": Words("rules", "anthropic:", "openai:"),
    "budget": Words("rollouts=", "tokens=", "usd=", "time="),
    "settings": Assignments(),
    "over": Assignments(),
}
"""What is offered for a parameter of any command, by its name."""
OF_COMMAND: Mapping[tuple[str, str], Names] = {("service", "name"): Services()}
"""What is offered for a parameter of one command."""


def complete_values(command: click.Command) -> None:
    """Have a command, and those below it, offer what `VALUES` has for their parameters that take any text."""
    for option in command.params:
        offered = OF_COMMAND.get((command.name or "", option.name or "")) or VALUES.get(option.name or "")
        if offered is not None and type(option.type) is click.types.StringParamType:
            option.type = offered
    below: Mapping[str, Any] = command.commands if isinstance(command, click.Group) else {}
    for each in below.values():
        complete_values(each)
