"""Runs a command beside a relay from 127.0.0.1 to the bridge's unix socket, so that the clients of OpenAI, Anthropic
and Google reach the model without a network.

    python relay.py SOCKET PORT SECONDS TAR FOLDER COMMAND...

A script that runs inside a sandbox; imports nothing of evolog. The command gets the variables of `base_urls`; whoever
starts this sets the keys. PORT 0 takes a free one. After SECONDS the command is killed. Then the files in FOLDER are
written as a tar to the descriptor TAR (-: to none). The exit status is the command's: 128 and the signal's number if
it was killed, 124 if its time was over.

The relay's memory and descriptors are hidden from the command, which is of the same account.
"""

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Sequence

CHUNK = 65536
UNUSABLE = 71
TIMED_OUT = 124
SET_DUMPABLE = 4


class Pipe:
    """One direction of one connection: what was read and is not yet written, at most CHUNK bytes."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.left = b""
        self.ended = False
        self.done = False

    def move(self) -> None:
        """Pass on the bytes that can be read and written without waiting."""
        try:
            if not self.left and not self.ended:
                self.left = self.source.recv(CHUNK)
                self.ended = not self.left
            if self.left:
                self.left = self.left[self.target.send(self.left) :]
        except BlockingIOError:
            return
        except OSError:
            self.left, self.ended = b"", True
        if self.ended and not self.left and not self.done:
            self.done = True
            try:
                self.target.shutdown(socket.SHUT_WR)
            except OSError:
                pass


class RelayedConnection:
    """A client's socket and the bridge's, until both directions have ended."""

    def __init__(self, client: socket.socket, bridge: socket.socket) -> None:
        self.ends = (client, bridge)
        self.pipes = (Pipe(client, bridge), Pipe(bridge, client))

    def wants(self, end: socket.socket) -> int:
        """The events to wait for at one end."""
        events = 0
        for pipe in self.pipes:
            if pipe.source is end and not pipe.ended and not pipe.left:
                events |= selectors.EVENT_READ
            if pipe.target is end and pipe.left:
                events |= selectors.EVENT_WRITE
        return events


def listen(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1."""
    server = socket.create_server(("127.0.0.1", port), backlog=512)
    server.setblocking(False)
    return server


def relay(server: socket.socket, path: str) -> None:
    """Pass bytes on for ever, one thread for all connections."""
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    watched: dict[socket.socket, int] = {}
    while True:
        for key, _ in selector.select():
            if key.data is None:
                connection = accept(server, path)
            else:
                connection = key.data
                for pipe in connection.pipes:
                    pipe.move()
            if connection is not None:
                watch(selector, watched, connection)


def accept(server: socket.socket, path: str) -> RelayedConnection | None:
    """A new connection, or None if the client has gone or there is no bridge."""
    try:
        client, _ = server.accept()
    except OSError:
        return None
    bridge = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bridge.connect(path)
    except OSError:
        client.close()
        bridge.close()
        return None
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for end in (client, bridge):
        end.setblocking(False)
    return RelayedConnection(client, bridge)


def watch(selector: selectors.BaseSelector, watched: dict[socket.socket, int], connection: RelayedConnection) -> None:
    """Wait for what can happen next at either end; close both when nothing can."""
    finished = all(pipe.done for pipe in connection.pipes)
    for end in connection.ends:
        events = 0 if finished else connection.wants(end)
        if events == watched.get(end, 0):
            continue
        if not watched.get(end):
            selector.register(end, events, connection)
        elif not events:
            selector.unregister(end)
        else:
            selector.modify(end, events, connection)
        watched[end] = events
    if finished:
        for end in connection.ends:
            watched.pop(end, None)
            end.close()


def main(arguments: Sequence[str]) -> int:
    """Relay while the command runs."""
    path, port, seconds, tar, folder, *command = arguments
    try:
        server = listen(int(port))
    except OSError as wrong:
        print(f"bridge_relay: 127.0.0.1:{port} cannot be had ({wrong}); give a free port, or 0", file=sys.stderr)
        return UNUSABLE
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    hide()
    threading.Thread(target=relay, args=(server, path), daemon=True).start()
    child = subprocess.Popen(command, env={**os.environ, **base_urls(url)})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    try:
        code = child.wait(float(seconds))
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        code = TIMED_OUT
    if tar != "-":
        with os.fdopen(int(tar), "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            archive.add(folder, arcname=".", filter=only_files)
    return code if code >= 0 else 128 - code


def base_urls(url: str) -> dict[str, str]:
    """The variables by which OpenAI's, Anthropic's and Google's clients find the bridge."""
    return {"OPENAI_BASE_URL": url + "/v1", "ANTHROPIC_BASE_URL": url, "GOOGLE_GEMINI_BASE_URL": url}


def hide() -> None:
    """Keep other processes of this account from this one's memory and from /proc/PID/fd, where they could open the
    pipe of the results.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 0, 0, 0, 0)


def only_files(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files and folders alone; whoever reads the tar checks again."""
    return member if member.isfile() or member.isdir() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
