"""`evolog init`."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from events.errors import UsageError
from services.cli.options import examples, flag_names, is_settable

FILE = "evolog.toml"
SHARED = ("directory", "as_json")
"""The parameters that most commands have: they stand at the top of the file."""
HEAD = f"""\
# Settings of evolog, for the commands that are given in this folder and below it. `{FILE}` of a folder further down
# goes before this one; so do a flag, an EVOLOG_* variable and `.env`. A setting at the top holds for every command that
# has such a flag, one in a section for that command alone.
#
# Each line below that begins with # and a name is a setting that is not made. What it says is the default, unless it
# is marked as an example. Take the # away to make it.
"""


@click.command(epilog=examples("evolog init"))
@click.pass_context
def init(context: click.Context) -> None:
    """Write evolog.toml, with every setting as a comment."""
    commands = context.find_root().command
    assert isinstance(commands, click.Group)
    path = Path(FILE)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_file(commands))
    except FileExistsError as wrong:
        raise UsageError(
            f"There is an {FILE} here already, and it is left as it is: edit it, or move it away."
        ) from wrong
    click.echo(str(path))


def settings_file(commands: click.Group) -> str:
    """The text of a file that makes no setting, and has every setting of these commands as a comment."""
    top: dict[str | None, click.Option] = {}
    sections: list[str] = []
    for name, command in commands.commands.items():
        options = [option for option in command.params if isinstance(option, click.Option) and is_settable(option)]
        top |= {option.name: option for option in options if option.name in SHARED}
        if own := [option for option in options if option.name not in SHARED]:
            sections += [f"\n[{name}]  # {command.get_short_help_str(90)}", *(_lines(own))]
    return "\n".join([HEAD, *_lines(top.values()), *sections, ""])


def _lines(options: Iterable[click.Option]) -> Iterator[str]:
    for option in options:
        key = flag_names(option)[0].replace("_", "-")
        yield from (f"# {line}" for line in textwrap.wrap(option.help or "", 110))
        default = option.to_info_dict()["default"]
        mark = "" if default not in (None, ()) or option.multiple else "  # an example"
        yield f"#{key} = {_literal(option, default)}{mark}"


def _literal(option: click.Option, default: Any) -> str:
    """A value as TOML writes it: the default, or where there is none, one that could be set."""
    if option.multiple:
        return "[]"
    if isinstance(default, bool | int | float):
        return json.dumps(default)
    if default is not None:
        return json.dumps(str(default))
    match option.type:
        case click.Choice(choices=choices):
            return json.dumps(str(choices[0]))
        case click.IntRange(min=least):
            return str(max(1, int(least or 0)))
        case click.types.IntParamType() | click.types.FloatParamType():
            return "1"
        case _:
            return json.dumps("")
