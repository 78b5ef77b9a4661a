"""Checks one by one whether this host has what evolog needs, for `evolog doctor`."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from events.errors import Misconfigured, UserError
from runtime.agents.providers import URLS, LanguageModel, base_url, require_key, without_login
from runtime.broker.binary import find_binary
from runtime.sandbox.choose import provide
from services.host.node import Node

FREE_BYTES = 2 * 1024**3
"""The least free disk that passes the check; a default run takes about a quarter of it."""


class HostCheck(NamedTuple):
    """The outcome of one check: `what` was checked, whether it is `ok`, and what was `found`.

    A check that is not `needed` is a note.
    """

    what: str
    ok: bool
    found: str
    needed: bool = True


def check_host(directory: Path) -> list[HostCheck]:
    """Check everything that `evolog up` and the default run rely on."""
    return [_python(), _server(), *_extras(), *_models(), _data(), _disk(directory), _sandbox(), _up(directory)]


def _python() -> HostCheck:
    return HostCheck("python", sys.version_info >= (3, 11), sys.version.split()[0])


def _server() -> HostCheck:
    try:
        return HostCheck("nats-server", True, str(find_binary()))
    except UserError as wrong:
        return HostCheck("nats-server", False, str(wrong))


def _extras() -> list[HostCheck]:
    checks = []
    for extra, package in (("tasks", "sklearn"), ("policy", "torch"), ("policy", "peft")):
        installed = importlib.util.find_spec(package) is not None
        name = {"sklearn": "scikit-learn"}.get(package, package)
        text = importlib.metadata.version(name) if installed else f"not installed: pip install 'evolog[{extra}]'"
        checks.append(HostCheck(package, installed, text))
    return checks


def _models() -> list[HostCheck]:
    checks = []
    for provider in URLS:
        try:
            require_key(LanguageModel(provider, "MODEL"), os.environ)
            checks.append(
                HostCheck(
                    provider, True, f"can be asked at {without_login(base_url(provider, os.environ))}", needed=False
                )
            )
        except Misconfigured as wrong:
            checks.append(HostCheck(provider, False, str(wrong), needed=False))
    return checks


def _data() -> HostCheck:
    from tasks.loading import load

    try:
        load("lawbench").public(0)
    except UserError as wrong:
        return HostCheck("lawbench data", False, str(wrong), needed=False)
    return HostCheck("lawbench data", True, "there, and as expected")


def _disk(directory: Path) -> HostCheck:
    existing = directory.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    return HostCheck("disk", free >= FREE_BYTES, f"{free / 1024**3:.1f} GiB free at {existing}")


def _sandbox() -> HostCheck:
    try:
        return HostCheck("sandbox", True, provide().text)
    except UserError as wrong:
        return HostCheck("sandbox", False, str(wrong))


def _up(directory: Path) -> HostCheck:
    running = Node(directory).running()
    return HostCheck(
        "evolog",
        running is not None,
        running.url if running else f"not running in {directory}: `evolog up`",
        needed=False,
    )
