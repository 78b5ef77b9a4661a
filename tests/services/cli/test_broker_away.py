"""No command waits without a sentence: where nobody listens at the broker's address, where what listens says nothing,
and where the broker stops in the middle.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from events.errors import Unavailable
from runtime.broker.accounts import inbox_of
from runtime.broker.children import reserve_port
from runtime.broker.credentials import Credentials, write_private
from services.host.node import Running
from tests.harness.cli import CliHarness, CommandResult, one_sentence
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE

COMMANDS = (
    ("ls",),
    ("show", "r"),
    ("watch",),
    ("pause", "r"),
    ("resume", "r"),
    ("cancel", "r"),
    ("replay", "r"),
    ("audit", "r"),
    ("diff", "r", "s"),
    ("fork", "r", "--at", "5"),
    ("run", str(TOY), "--detach"),
    ("doctor", "--integrity"),
)
GREETING = b'INFO {"server_id":"s","version":"2.14.0","headers":true,"max_payload":1048576}\r\n'


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    with reserve_port() as reserved:
        yield reserved.getsockname()[1]


@contextlib.contextmanager
def mute() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def stopped_midway() -> Iterator[int]:
    """Lets everybody in, and answers nothing afterwards."""

    def greet(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(GREETING)
            received = b""
            while more := connection.recv(4096):
                received += more
                if received.endswith(b"PING\r\n"):
                    connection.sendall(b"PONG\r\n")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=greet, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def up_at(place: CliHarness, port: int) -> None:
    """Make this process look like a supervisor whose broker is at that port."""
    url = f"nats://127.0.0.1:{port}"
    place.node.write(Running(pid=os.getpid(), url=url, policy_url="http://127.0.0.1:9", started="", version=""))
    for user in ("operator", "executor"):
        place.node.credentials(user).parent.mkdir(exist_ok=True)
        login = Credentials(url, user, "password", inbox_of(user))
        write_private(place.node.credentials(user), msgspec.json.encode(login).decode())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker", "commands", "words"),
    [
        (nobody, COMMANDS[:3], "No broker answers at nats://127.0.0.1:"),
        (mute, COMMANDS, "has not answered within 5 s"),
        (stopped_midway, COMMANDS[:3], "No answer from the broker at nats://127.0.0.1:"),
    ],
)
def test_every_command_says_that_the_broker_does_not_answer(
    tmp_path: Path,
    broker: Callable[[], contextlib.AbstractContextManager[int]],
    commands: Sequence[Sequence[str]],
    words: str,
) -> None:
    place = CliHarness(tmp_path)
    with broker() as port, place.node.hold():
        up_at(place, port)
        asked = [(command, place.start(*command)) for command in commands]
        for command, process in asked:
            out, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == Unavailable.code, (command, process.returncode, err)
            one_sentence(CommandResult(process.returncode, out, err), words)


def test_a_service_says_that_it_waits_for_the_broker(tmp_path: Path) -> None:
    place = CliHarness(tmp_path)
    with nobody() as port, place.node.hold():
        up_at(place, port)
        service = place.start("service", "executor", "--index", "7")
        assert service.stderr
        assert f"No broker answers at nats://127.0.0.1:{port}" in service.stderr.readline()
        assert service.poll() is None
        service.kill()
        service.communicate()
