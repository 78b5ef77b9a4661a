"""Makes commands in sentences such as "`evolog up` goes on" ones to copy: with the --dir that this command was given.

A directory that a variable or a file names holds for the next command too, and is not repeated.
"""

import re
import shlex
from pathlib import Path

VERBS: set[str] = set()
"""The commands that have --dir; the command line puts them here."""
_COMMAND = re.compile(r"`evolog ([a-z]+)((?: [^`]*)?)`")
_directory: list[Path] = []


def remember_directory(directory: Path | None) -> None:
    """Take note of the --dir that was typed; None where none was."""
    _directory[:] = [] if directory is None else [directory]


def with_directory(text: str) -> str:
    """The text with --dir in each command that lacks it, if this command was given one."""
    return _COMMAND.sub(_repeat, text) if _directory else text


def _repeat(match: re.Match[str]) -> str:
    verb, rest = match.groups()
    if verb not in VERBS or "--dir" in rest:
        return match[0]
    return f"`evolog {verb}{rest} --dir {shlex.quote(str(_directory[0]))}`"
