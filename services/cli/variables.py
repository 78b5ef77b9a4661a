"""Refuses an EVOLOG_* variable that nothing reads, as an unknown key of a file is refused: it was mistyped."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

import click

from events.errors import UsageError
from services.host.settings import FOR_TESTS, VARIABLES

PREFIX = "EVOLOG_"


def require_known_variables(program: click.Group, environment: Mapping[str, str]) -> None:
    """Raise `UsageError` for a variable of evolog that is none: neither a setting nor a flag of a command."""
    known = {*VARIABLES, *flag_variables(program)}
    for name in sorted(environment):
        if name.startswith(PREFIX) and not name.startswith(FOR_TESTS) and name not in known:
            near = get_close_matches(name, sorted(known), 1)
            meant = f"did you mean {near[0]}? Else unset it" if near else "unset it"
            raise UsageError(
                f"{name} is no variable of evolog: {meant}. A flag's is EVOLOG_COMMAND_FLAG, such as EVOLOG_RUN_SEED."
            )


def flag_variables(command: click.Command, prefix: str = PREFIX.rstrip("_")) -> Iterator[str]:
    """The variables that set a command's flags, and those of the commands in it."""
    for option in command.params:
        given = option.envvar or ()
        yield from [given] if isinstance(given, str) else given
        yield from _named(prefix, [option.name or "", *(flag.lstrip("-") for flag in option.opts)])
    if isinstance(command, click.Group):
        for name, nested in command.commands.items():
            yield from flag_variables(nested, f"{prefix}_{name}")


def _named(prefix: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"{prefix}_{name}".replace("-", "_").upper()
