"""Where a setting comes from: flags, then EVOLOG_* variables, then evolog.toml, pyproject.toml, the user's and the system's file.

The files hold the flags by command, as `[run]` with `seed = 1`; what stands at the top holds for every command that has such a flag.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from events.errors import UsageError


def defaults(commands: dict[str, set[str]], start: Path) -> dict[str, dict[str, Any]]:
    """For each command the flags that the files set, the nearest file winning; raises `UsageError` for a file that cannot be used."""
    merged: dict[str, dict[str, Any]] = {command: {} for command in commands}
    for path, values in reversed(list(_files(start))):
        # the top of a file first: it gives way to the sections of that file, and overrides the files further away
        for name, value in sorted(values.items(), key=lambda row: isinstance(row[1], dict)):
            if isinstance(value, dict):
                if name not in commands:
                    raise UsageError(
                        f"{path} has a section [{name}], but there is no such command: expected one of {', '.join(sorted(commands))}."
                    )
                for flag, setting in value.items():
                    if flag.replace("-", "_") not in commands[name]:
                        raise UsageError(f"{path} sets {flag!r} for `evolog {name}`, which has no such flag; see `evolog {name} --help`.")
                    merged[name][flag.replace("-", "_")] = setting
            else:
                having = [command for command, flags in commands.items() if name.replace("-", "_") in flags]
                if not having:
                    raise UsageError(f"{path} sets {name!r}, which is no flag of any command.")
                for command in having:
                    merged[command][name.replace("-", "_")] = value
    return merged


def _files(start: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for folder in (start, *start.parents):
        if (path := folder / "evolog.toml").is_file():
            found.append((path, _read(path)))
            break
    for folder in (start, *start.parents):
        if (path := folder / "pyproject.toml").is_file():
            if section := _read(path).get("tool", {}).get("evolog"):
                found.append((path, section))
            break
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    last = (home / "evolog" / "config.toml", Path("/etc/xdg/evolog/config.toml"))
    return found + [(path, _read(path)) for path in last if path.is_file()]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise UsageError(f"{path} cannot be read as TOML: {wrong}.") from wrong
