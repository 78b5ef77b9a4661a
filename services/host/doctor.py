"""What a host needs, looked at one by one."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from events.errors import Misconfigured, UserError
from runtime.agents.providers import URLS, Model, base_url, require, without_login
from runtime.broker.binary import find_binary
from runtime.sandbox.choose import provide
from services.host.node import Node

ROOM = 2 * 1024**3
"""Bytes free below which doctor says so; a default run takes about a quarter of it."""


class Finding(NamedTuple):
    """One thing looked at. What is not `needed` is a note."""

    what: str
    ok: bool
    found: str
    needed: bool = True


def examine(directory: Path) -> list[Finding]:
    """Everything that `evolog up` and the default run rely on."""
    return [_python(), _server(), *_extras(), *_models(), _data(), _room(directory), _sandbox(), _up(directory)]


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])


def _server() -> Finding:
    try:
        return Finding("nats-server", True, str(find_binary()))
    except UserError as wrong:
        return Finding("nats-server", False, str(wrong))


def _extras() -> list[Finding]:
    findings = []
    for extra, package in (("tasks", "sklearn"), ("policy", "torch"), ("policy", "peft")):
        there = importlib.util.find_spec(package) is not None
        name = {"sklearn": "scikit-learn"}.get(package, package)
        found = importlib.metadata.version(name) if there else f"not installed: pip install 'evolog[{extra}]'"
        findings.append(Finding(package, there, found))
    return findings


def _models() -> list[Finding]:
    findings = []
    for provider in URLS:
        try:
            require(Model(provider, "MODEL"), os.environ)
            findings.append(Finding(provider, True, f"can be asked at {without_login(base_url(provider, os.environ))}", needed=False))
        except Misconfigured as wrong:
            findings.append(Finding(provider, False, str(wrong), needed=False))
    return findings


def _data() -> Finding:
    from tasks.loading import load

    try:
        load("lawbench").public(0)
    except UserError as wrong:
        return Finding("lawbench data", False, str(wrong), needed=False)
    return Finding("lawbench data", True, "there, and as expected")


def _room(directory: Path) -> Finding:
    there = directory.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    return Finding("disk", free >= ROOM, f"{free / 1024**3:.1f} GiB free at {there}")


def _sandbox() -> Finding:
    try:
        return Finding("sandbox", True, provide().text)
    except UserError as wrong:
        return Finding("sandbox", False, str(wrong))


def _up(directory: Path) -> Finding:
    running = Node(directory).running()
    return Finding("evolog", running is not None, running.url if running else f"not running in {directory}: `evolog up`", needed=False)
