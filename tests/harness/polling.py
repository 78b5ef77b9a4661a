"""The one way in which tests wait for what other processes and threads do."""

import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds to wait for what takes a whole run."""
INTERVAL = 0.02


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Ask until the condition holds.

    Raises AssertionError with `what` was expected if it does not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain until {what}"
        time.sleep(INTERVAL)
