"""Reads the defaults of flags from files.

A setting comes from, the nearest first: flags, EVOLOG_* variables, .env, evolog.toml or the file of `--config`,
pyproject.toml, the user's and the system's file. The files set flags by command, such as `seed = 1` under `[run]`. A
flag at a file's top is set for every command that has it. A file in the folder of an export sets nothing, unless
`--config` names it: anyone may have put it there.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from events.errors import Misconfigured, NotFound, UsageError

EXPORT = "export.json"
"""The file that makes a folder an export, as `replay/exports/folder.py` has it, which takes long to import."""


class FileSetting(NamedTuple):
    """What a file sets a parameter to."""

    value: Any
    path: Path


def defaults(commands: dict[str, dict[str, str]], start: Path, config: Path | None = None) -> dict[str, dict[str, Any]]:
    """The parameters that the files set, for each command of `commands`; see `file_settings`."""
    return {
        command: {parameter: setting.value for parameter, setting in settings.items()}
        for command, settings in file_settings(commands, start, config).items()
    }


def file_settings(
    commands: dict[str, dict[str, str]], start: Path, config: Path | None = None
) -> dict[str, dict[str, FileSetting]]:
    """What the files set, for each command of `commands`, which has the parameter of each of its flags.

    The nearest file to `start` wins; `config` stands in the place of evolog.toml. Raises `UsageError` for a file that
    cannot be used.
    """
    merged: dict[str, dict[str, FileSetting]] = {command: {} for command in commands}
    for path, values in reversed(list(_files(start, config))):
        # the top of a file first: it gives way to the sections of that file, and overrides the files further away
        for name, value in sorted(values.items(), key=lambda row: isinstance(row[1], dict)):
            if isinstance(value, dict):
                if name not in commands:
                    raise UsageError(
                        f"{path} has a section [{name}], but there is no such command: expected one of "
                        f"{', '.join(sorted(commands))}."
                    )
                for flag, setting in value.items():
                    if (parameter := commands[name].get(flag.replace("-", "_"))) is None:
                        raise UsageError(
                            f"{path} sets {flag!r} for `evolog {name}`, which has no such flag; see `evolog {name} "
                            "--help`."
                        )
                    merged[name][parameter] = FileSetting(setting, path)
            else:
                parameters = {command: flags.get(name.replace("-", "_")) for command, flags in commands.items()}
                if not any(parameters.values()):
                    raise UsageError(f"{path} sets {name!r}, which is no flag of any command.")
                for command, parameter in parameters.items():
                    if parameter:
                        merged[command][parameter] = FileSetting(value, path)
    return merged


def read_dotenv(folder: Path) -> dict[str, str]:
    """The EVOLOG_* variables in the folder's `.env`, one NAME=value a line.

    Raises `Misconfigured` for a file that others may read, and `UsageError` for a line that is no setting.
    """
    path = folder / ".env"
    if not path.is_file() or _is_export(folder):
        return {}
    variables = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not name.startswith("EVOLOG_"):
            continue  # a comment, or another program's
        if not equals:
            raise UsageError(f"{path}:{number} is no setting: {line!r}; write NAME=value.")
        variables[name.strip()] = value.strip().strip("\"'")
    if variables and path.stat().st_mode & 0o077:
        raise Misconfigured(f"{path} sets EVOLOG_* variables and others can read it; run `chmod 600 {path}`.")
    return variables


def _files(start: Path, config: Path | None) -> list[tuple[Path, dict[str, Any]]]:
    files = [(config, _read(config))] if config else []
    folders = [folder for folder in (start, *start.parents) if not _is_export(folder)]
    for folder in folders if config is None else ():
        if (path := folder / "evolog.toml").is_file():
            files.append((path, _read(path)))
            break
    for folder in folders:
        if (path := folder / "pyproject.toml").is_file():
            if section := _read(path).get("tool", {}).get("evolog"):
                files.append((path, section))
            break
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    last = (home / "evolog" / "config.toml", Path("/etc/xdg/evolog/config.toml"))
    return files + [(path, _read(path)) for path in last if path.is_file()]


def _is_export(folder: Path) -> bool:
    return os.path.lexists(folder / EXPORT)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as wrong:
        raise NotFound(f"There is no {path}: name a file of settings, such as `evolog init` writes.") from wrong
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise UsageError(f"{path} cannot be read as TOML: {wrong}.") from wrong
