"""The embedded nats-server: configured, started on 127.0.0.1, and stopped.

The passwords are drawn anew at every start and stand in files that only the owner can read, in plain text: on one
machine under one user they are a fence against mistakes, not against an attacker.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from events.errors import NotFound, Unavailable
from runtime.broker.accounts import BOOTSTRAP, USERS, accounts_of, draw_passwords, inbox_of
from runtime.broker.binary import find_binary
from runtime.broker.children import die_with_parent, end, free_port, last_line
from runtime.broker.credentials import credentials_file, write_private
from runtime.broker.store import FREE_AT_START, FREE_TO_GO_ON, blobs_in, pid_file, require_room, store
from runtime.broker.streams import MAX_MESSAGE

CONFIG = "server.conf"
USUAL_PORT = 4222
START_LIMIT = 60.0
"""Seconds that a server may take until it accepts: 0.04 is usual, but after a crash it reads its whole store, about 2 s
a gigabyte.
"""


def write_config(directory: Path, port: int, passwords: Mapping[str, str]) -> Path:
    """Write the server's configuration and each account's credentials file; the configuration's path.

    Both hold passwords in plain text, in files of mode 0600.
    """
    configuration = {
        "listen": f"127.0.0.1:{port}",
        "server_name": _server_name(passwords),
        "pid_file": str(pid_file(directory)),
        "max_payload": MAX_MESSAGE,
        "jetstream": {
            "store_dir": str(store(directory)),
            "sync_interval": "always",
            # without these the limits are a share of what is free at the start; the disk itself is the limit
            "max_file_store": 1 << 50,
            "max_memory_store": 64 * 1024 * 1024,
        },
        "accounts": accounts_of(passwords),
    }
    for folder in (store(directory), directory / "credentials"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    path = store(directory) / CONFIG
    write_private(path, json.dumps(configuration, indent=1, ensure_ascii=False))
    blobs = {} if blobs_in(directory) == "directory" else {"blobs": "stream"}
    for user in USERS:
        login = {"url": f"nats://127.0.0.1:{port}", "user": user, "password": passwords[user], "inbox": inbox_of(user)}
        login |= blobs
        write_private(credentials_file(directory, user), json.dumps(login))
    return path


def _server_name(passwords: Mapping[str, str]) -> str:
    # tells this start's server from any other that listens where it should
    return "evolog-" + hashlib.sha256(passwords[BOOTSTRAP].encode()).hexdigest()[:12]


class EmbeddedServer:
    """A nats-server that this process runs on a project directory, with passwords that last as long as this object."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        self.directory = directory.resolve()
        self.passwords = draw_passwords()
        self.port = free_port(USUAL_PORT) if port is None else port
        self._may_move = port is None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The address that it listens on."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it, or start it again with the same passwords; returns when it accepts connections. It moves to another
        port where another program has taken its own.

        Raises `TryAgain` if the disk is nearly full, `Unavailable` if it does not start, with the last line of its log.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_room(self.directory, FREE_AT_START if self._process is None else FREE_TO_GO_ON)
        binary = find_binary()
        await end_left_over(self.directory)
        while True:
            config = write_config(self.directory, self.port, self.passwords)
            try:
                await self._launch(binary, config)
            except Unavailable as wrong:
                if not self._may_move or "address already in use" not in str(wrong):
                    raise
                self.port = free_port()
            else:
                return

    async def _launch(self, binary: Path, config: Path) -> None:
        log = self.directory / "logs" / "nats-server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    str(binary),
                    "-c",
                    str(config),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                    preexec_fn=die_with_parent(),
                )
            except OSError as wrong:
                raise Unavailable(
                    f"{binary} cannot be run ({wrong.strerror}): set EVOLOG_NATS_SERVER to a nats-server that can."
                ) from wrong
        loop = asyncio.get_running_loop()
        limit = loop.time() + START_LIMIT
        while self.pid is not None and loop.time() < limit:
            if await self._answers():
                return
            await asyncio.sleep(0.005)
        code = self._process.returncode
        await end(self._process)
        failure = (
            f"did not accept connections within {START_LIMIT:.0f} s" if code is None else f"ended with exit code {code}"
        )
        raise Unavailable(f"nats-server {failure}: {last_line(log)} (its log is {log}).")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1):
                greeting = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
        info: dict[str, Any] = json.loads(greeting.removeprefix(b"INFO ")) if greeting.startswith(b"INFO ") else {}
        return info.get("server_name") == _server_name(self.passwords) and bool(info.get("jetstream"))

    async def wait(self) -> int:
        """Until it ends, by whatever cause; its exit code."""
        if self._process is None:
            raise NotFound("The embedded nats-server was not started.")
        return await self._process.wait()

    async def stop(self) -> None:
        """End it in good order, or by force after five seconds."""
        if self._process is not None and await end(self._process) == 0:
            pid_file(self.directory).unlink(missing_ok=True)


async def end_left_over(directory: Path) -> None:
    """End a server whose supervisor was killed: on Linux it is gone or going, elsewhere it has to be stopped."""
    try:
        pid = int(pid_file(directory).read_text())
    except (OSError, ValueError):
        return
    for attempt in range(400):
        if str(store(directory) / CONFIG) not in _command_line(pid):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if attempt < 200 else signal.SIGKILL)
        await asyncio.sleep(0.01)


def _command_line(pid: int) -> str:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
