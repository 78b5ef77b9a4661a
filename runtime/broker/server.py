"""The embedded nats-server: configured, started, and stopped. It listens on 127.0.0.1 alone, unless it is told where
to listen for other hosts.

The passwords are drawn anew at every start and stand in files that only the owner can read, in plain text: on one
machine under one user they are a fence against mistakes, not against an attacker.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from events.errors import NotFound, Unavailable
from runtime.broker.accounts import BOOTSTRAP, USERS, accounts_of, draw_passwords, inbox_of
from runtime.broker.binary import find_binary
from runtime.broker.children import die_with_parent, end, free_port, last_line
from runtime.broker.client import open_client
from runtime.broker.credentials import Credentials, credentials_file, read_credentials, write_private
from runtime.broker.issuing import USUAL_PORT as USUAL_PORT
from runtime.broker.issuing import valid_keys
from runtime.broker.listener import Listener, make_listener
from runtime.broker.store import FREE_AT_START, FREE_TO_GO_ON, back_end, pid_file, require_room, store
from runtime.broker.streams import MAX_MESSAGE
from runtime.broker.tls import client_context, server_hostname

CONFIG = "server.conf"
SYSTEM = "$SYS"
"""The server's own account, which has a user where there may be leaf nodes."""
PING_INTERVAL, PINGS = "20s", 2
"""How often the server looks whether a silent client is there, and how many looks in vain it takes to count as gone:
questions go to whoever listens, and so they also go, for that long, to a host that is gone.
"""
WRITE_DEADLINE = "60s"
"""How long the server may take to send what it has for a client before it hangs up. NATS's default, 10 s, cuts whoever
has a narrow link off in each long answer, again and again.
"""
RELOAD_LIMIT = 10.0
"""Seconds that a server may take to read its configuration anew."""
START_LIMIT = 60.0
"""Seconds that a server may take until it accepts: 0.04 is usual, but after a crash it reads its whole store, about 2 s
a gigabyte.
"""


def write_config(directory: Path, port: int, passwords: Mapping[str, str], listener: Listener | None = None) -> Path:
    """Write the server's configuration and each account's credentials file; the configuration's path.

    Both hold passwords in plain text, in files of mode 0600. Keys that were issued to other hosts hold too.
    """
    configuration: dict[str, Any] = {
        **(listener.configuration() if listener else {"listen": f"127.0.0.1:{port}"}),
        "server_name": _server_name(passwords),
        "pid_file": str(pid_file(directory)),
        "max_payload": MAX_MESSAGE,
        "ping_interval": PING_INTERVAL,
        "ping_max": PINGS,
        "write_deadline": WRITE_DEADLINE,
        "jetstream": {
            "store_dir": str(store(directory)),
            "sync_interval": "always",
            # without these the limits are a share of what is free at the start; the disk itself is the limit
            "max_file_store": 1 << 50,
            "max_memory_store": 64 * 1024 * 1024,
        },
        "accounts": accounts_of(passwords, valid_keys(directory)),
    }
    if listener and listener.leaf:
        configuration["accounts"] |= {SYSTEM: {"users": [{"user": SYSTEM, "password": secrets.token_urlsafe(24)}]}}
    for folder in (store(directory), directory / "credentials"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    path = store(directory) / CONFIG
    write_private(path, json.dumps(configuration, indent=1, ensure_ascii=False))
    blobs = back_end(directory)
    for user in USERS:
        login = msgspec.structs.replace(local_credentials(user, passwords[user], port, listener), blobs=blobs)
        write_private(credentials_file(directory, user), msgspec.json.encode(login).decode())
    return path


def local_credentials(user: str, password: str, port: int, listener: Listener | None = None) -> Credentials:
    """What an account needs to connect from this host by its password."""
    if listener is None:
        return Credentials(f"nats://127.0.0.1:{port}", user, password, inbox_of(user))
    certificate, key = listener.local
    return Credentials(
        listener.url,
        user,
        password,
        inbox_of(user),
        ca=listener.ca,
        certificate=certificate,
        key=key,
        server_name=listener.server_name,
    )


def reload_keys(directory: Path) -> bool:
    """Have the server that runs on a directory take the keys that are issued now, and no others; whether one runs.

    Connections that hold a key which is gone are closed, all others stay. Those of leaf nodes are closed all, as the
    server looks at their keys only when they connect; where the key holds, they are back within seconds. Raises
    `Unavailable` where the server does not take the new configuration.
    """
    path, log = store(directory) / CONFIG, _log_file(directory)
    try:
        pid = int(pid_file(directory).read_text())
    except (OSError, ValueError):
        return False
    if str(path) not in _command_line(pid):
        return False
    configuration = json.loads(path.read_text())
    passwords = {
        login["user"]: login["password"]
        for account in configuration["accounts"].values()
        for login in account.get("users", ())
        if "password" in login
    }
    system = {name: account for name, account in configuration["accounts"].items() if name == SYSTEM}
    configuration["accounts"] = accounts_of(passwords, valid_keys(directory)) | system
    write_private(path, json.dumps(configuration, indent=1, ensure_ascii=False))
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        os.kill(pid, signal.SIGHUP)
        limit = time.monotonic() + RELOAD_LIMIT
        said = b""
        while b"Reloaded server configuration" not in said:
            if b"Failed to reload" in said or time.monotonic() > limit:
                raise Unavailable(
                    f"The nats-server did not take the new keys: {last_line(log)} (its log is {log}). They hold from "
                    "the next `evolog up` on."
                )
            time.sleep(0.01)
            said += file.read()
    if system:
        login = read_credentials(credentials_file(directory, BOOTSTRAP))
        login = msgspec.structs.replace(login, user=SYSTEM, password=passwords[SYSTEM], inbox=f"_INBOX_{SYSTEM}")
        asyncio.run(_close_leaves(login))
    return True


async def _close_leaves(login: Credentials) -> None:
    # a user of the server's own account may ask for its connections, and have one closed
    async def unheard(_: Exception) -> None:
        pass

    client = await open_client(login, unheard)
    try:
        found = json.loads((await client.request("$SYS.REQ.SERVER.PING.LEAFZ", b"", timeout=RELOAD_LIMIT)).data)
        for leaf in found["data"].get("leafs") or ():
            kick = json.dumps({"cid": leaf["id"]}).encode()
            await client.request(f"$SYS.REQ.SERVER.{found['server']['id']}.KICK", kick, timeout=RELOAD_LIMIT)
    finally:
        await client.close()


def _server_name(passwords: Mapping[str, str]) -> str:
    # tells this start's server from any other that listens where it should
    return "evolog-" + hashlib.sha256(passwords[BOOTSTRAP].encode()).hexdigest()[:12]


class EmbeddedServer:
    """A nats-server that this process runs on a project directory, with passwords that last as long as this object."""

    def __init__(
        self, directory: Path, *, port: int | None = None, listen: str | None = None, leaf: str | None = None
    ) -> None:
        """`listen` is HOST:PORT, where other hosts reach it by TLS, `leaf` where leaf nodes do; raises what
        `make_listener` does.
        """
        self.directory = directory.resolve()
        self.passwords = draw_passwords()
        self._listener = make_listener(self.directory, listen, leaf or "") if listen else None
        if self._listener:
            port = self._listener.port
        self.port = free_port(USUAL_PORT) if port is None else port
        self._may_move = port is None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The address by which this host reaches it."""
        return self.credentials(BOOTSTRAP).url

    def credentials(self, user: str) -> Credentials:
        """What an account needs to connect from this host."""
        return local_credentials(user, self.passwords[user], self.port, self._listener)

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
            config = write_config(self.directory, self.port, self.passwords, self._listener)
            try:
                await self._launch(binary, config)
            except Unavailable as wrong:
                if not self._may_move or "address already in use" not in str(wrong):
                    raise
                self.port = free_port()
            else:
                return

    async def _launch(self, binary: Path, config: Path) -> None:
        log = _log_file(self.directory)
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
        credentials = self.credentials(BOOTSTRAP)
        url = urlsplit(credentials.url)
        context = client_context(credentials)
        name = server_hostname(credentials, url.hostname) if context else None
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(
                    url.hostname, self.port, ssl=context, server_hostname=name
                )
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


def _log_file(directory: Path) -> Path:
    return directory / "logs" / "nats-server.log"


def _command_line(pid: int) -> str:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
