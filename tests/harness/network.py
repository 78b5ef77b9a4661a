"""A network of hosts on one machine: a network namespace each, joined by a bridge whose links are cut, healed and
narrowed. Delay is a relay's, since the kernel's own (`netem`) is missing on many machines.

The bridge has an address too, so a test reaches every host. It needs Linux and root.
"""

import contextlib
import functools
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness.polling import PATIENCE, wait_until

_NUMBERS = itertools.count(1)
_PIECE = 1 << 16


class Network:
    """Named hosts, each with an address. What runs there begins with `at(host)`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tag = f"ev{os.getpid():x}{next(_NUMBERS)}"
        self._prefix = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._bridge = f"{self._tag}b"
        self._places = {name: place for place, name in enumerate(names, 1)}
        self._made: list[Sequence[str]] = []

    @property
    def here(self) -> str:
        """The address of the machine that all hosts are joined by, where the test runs."""
        return f"{self._prefix}.254"

    def address(self, host: str) -> str:
        """The address of a host."""
        return f"{self._prefix}.{self._places[host]}"

    def at(self, host: str) -> tuple[str, ...]:
        """What stands before a command that runs on a host. Its files are this machine's."""
        return ("nsenter", f"--net=/run/netns/{self._space(host)}")

    def make(self) -> None:
        """Make the bridge and every host."""
        self._made.append(("ip", "link", "delete", self._bridge))
        _do("ip", "link", "add", self._bridge, "type", "bridge")
        _do("ip", "address", "add", f"{self.here}/24", "dev", self._bridge)
        _do("ip", "link", "set", self._bridge, "up")
        for host in self._places:
            space, link = self._space(host), self._link(host)
            self._made += [("ip", "netns", "delete", space), ("ip", "link", "delete", link)]
            _do("ip", "netns", "add", space)
            _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            inside = (*self.at(host), "ip")
            _do(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _do(*inside, "link", "set", "lo", "up")
            _do(*inside, "link", "set", "eth0", "up")
            _do("ip", "link", "set", link, "up")
            self.heal(host)

    def remove(self) -> None:
        """Kill what still runs on the hosts, and take all away, whatever of it was made."""
        for host in self._places:
            self.kill(host)
        for command in reversed(self._made):
            subprocess.run(command, capture_output=True, check=False)

    def cut(self, host: str) -> None:
        """Cut a host's link. Both ends still look as if it held, as where a router farther away fails: what is sent is
        lost, and nobody is told.
        """
        _do("ip", "link", "set", self._link(host), "nomaster")

    def heal(self, host: str) -> None:
        """Join a host again."""
        _do("ip", "link", "set", self._link(host), "master", self._bridge)

    def narrow(self, host: str, rate: str) -> None:
        """Let no more than such a rate, as `tc` says it (`256kbit`), go to a host, nor from it."""
        limits = ("root", "tbf", "rate", rate, "burst", "4kb", "latency", "1s")
        _do(*self.at(host), "tc", "qdisc", "replace", "dev", "eth0", *limits)
        _do("tc", "qdisc", "replace", "dev", self._link(host), *limits)

    def widen(self, host: str) -> None:
        """Take back what `narrow` did."""
        _do(*self.at(host), "tc", "qdisc", "delete", "dev", "eth0", "root")
        _do("tc", "qdisc", "delete", "dev", self._link(host), "root")

    def sent(self, host: str) -> int:
        """Bytes that have left a host's link so far."""
        return self._counted(host, "rx_bytes")

    def received(self, host: str) -> int:
        """Bytes that were handed to a host's link so far."""
        return self._counted(host, "tx_bytes")

    def pids(self, host: str) -> list[int]:
        """The processes of a host."""
        found = subprocess.run(("ip", "netns", "pids", self._space(host)), capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self, host: str) -> None:
        """kill -9 on every process of a host."""
        while pids := self.pids(host):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _counted(self, host: str, what: str) -> int:
        return int(Path(f"/sys/class/net/{self._link(host)}/statistics/{what}").read_text())

    def _space(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def _link(self, host: str) -> str:
        return f"{self._tag}v{self._places[host]}"


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Hosts of these names, for as long as it lasts. The test is skipped where there can be none, and says why."""
    if missing := why_no_network():
        pytest.skip(missing)
    made = Network(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@functools.cache
def why_no_network() -> str:
    """Why no network namespaces can be made here; empty where they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's alone"
    if missing := [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)} (Debian's packages iproute2 and util-linux have them)"
    trial = Network(["trial"])
    try:
        trial.make()
        trial.narrow("trial", "1mbit")
    except subprocess.CalledProcessError as wrong:
        return f"no network namespaces can be made here ({' '.join(wrong.cmd)}: {wrong.stderr.strip()})"
    finally:
        trial.remove()
    return ""


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def slow_way(to: tuple[str, int], listen: str, delay: float) -> Iterator[int]:
    """A relay to an address, on which each byte takes so many seconds longer, each way; the port it listens on."""
    with socket.create_server((listen, 0)) as server:
        stop = threading.Event()
        server.settimeout(0.1)

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    near, _ = server.accept()
                    threading.Thread(target=_relay, args=(near, to, delay, stop), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            accepting.join(PATIENCE)


def _relay(near: socket.socket, to: tuple[str, int], delay: float, stop: threading.Event) -> None:
    with near, contextlib.suppress(OSError), socket.create_connection(to, 5.0) as far:
        ways = ((near, far, deque[tuple[float, bytes]]()), (far, near, deque[tuple[float, bytes]]()))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_ends = [near, far]
        while not stop.is_set() and (open_ends or any(held for _, _, held in ways)):
            ready, _, _ = select.select(open_ends, [], [], 0.005)
            for source, target, held in ways:
                if source in ready:
                    piece = source.recv(_PIECE)
                    held.append((time.monotonic() + delay, piece))
                    if not piece:
                        open_ends.remove(source)
                while held and held[0][0] <= time.monotonic():
                    _, piece = held.popleft()
                    target.sendall(piece) if piece else target.shutdown(socket.SHUT_WR)


def wait_for_traffic(count: int, counted: functools.partial[int], what: str) -> None:
    """Wait until so many bytes more than now were counted."""
    before = counted()
    wait_until(lambda: counted() >= before + count, what)
