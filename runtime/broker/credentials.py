"""What one account needs to connect, and the files that it stands in."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from events.errors import NotFound

CONNECT_LIMIT = 5.0
"""Seconds that a server may take to greet and to let an account in."""


class Credentials(msgspec.Struct, frozen=True):
    """What one account needs to connect; `inbox` is the prefix of the subjects on which it is answered."""

    url: str
    user: str
    password: str
    inbox: str
    blobs: str = "directory"
    """Where blobs stand: in the project directory, or in a `stream` of the broker's."""


Login = Callable[[], Credentials]
"""Gives an account's credentials as they are now: a server that was started again may have another address."""


def credentials_file(directory: Path, user: str) -> Path:
    """The path of the file with an account's address and password."""
    return directory / "credentials" / f"{user}.json"


def write_private(path: Path, text: str) -> None:
    """Replace a file's text at once, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def read_credentials(path: Path) -> Credentials:
    """The account's credentials in a file; raises `NotFound` where there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError as wrong:
        raise NotFound(
            f"No credentials at {path}: start evolog with `evolog up`, or copy the account's file from the host that "
            "runs it."
        ) from wrong
