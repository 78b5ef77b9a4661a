"""A script that runs inside a sandbox and prints, as JSON, what it could reach of the host. It should be nothing."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable


def main() -> None:
    """Try each way out of the sandbox."""
    secret, port, name = sys.argv[1:]
    attempts: dict[str, Callable[[], object]] = {
        "a file of the host": lambda: open(secret).close(),
        "a port of the host": lambda: socket.create_connection(("127.0.0.1", int(port)), 2),
        "an abstract socket of the host": lambda: socket.socket(socket.AF_UNIX).connect("\0" + name),
        "the hypervisor's sockets": lambda: socket.socket(40, socket.SOCK_STREAM),
        "the rights of root": lambda: os.setuid(0),
    }
    reached = []
    for target, attempt in attempts.items():
        with contextlib.suppress(OSError):
            attempt()
            reached.append(target)
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
