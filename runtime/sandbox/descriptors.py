"""Descriptors whose numbers say nothing of the process that opened them.

A sandbox's command line names some, and can be read inside. The lowest number that is free would tell how much the
service at the other end has open, and so which service it is.
"""

import fcntl
import os
import resource
import secrets

HIGHEST = 1024
"""Descriptors from here on are none for `select`."""


def renumbered(descriptor: int) -> int:
    """The same open file under a number drawn by chance, above those that a service has open; the number that it had is
    closed.
    """
    limit = min(HIGHEST, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, limit // 4 + secrets.randbelow(limit // 2))
    finally:
        os.close(descriptor)


def pipe() -> tuple[int, int]:
    """As `os.pipe`, both ends renumbered."""
    read, write = os.pipe()
    return renumbered(read), renumbered(write)
