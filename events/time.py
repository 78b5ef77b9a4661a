"""Times in events: RFC 3339 text in UTC with nanoseconds, and integers of nanoseconds since 1970."""

from datetime import UTC, datetime
from functools import lru_cache


def nanoseconds(text: str) -> int:
    """The nanoseconds since 1970 of a UTC time such as 2026-01-02T03:04:05.123456789Z; raises ValueError for another
    text.
    """
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return _seconds(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


@lru_cache(maxsize=16)
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def rfc3339(nanoseconds: int) -> str:
    """The UTC time of nanoseconds since 1970, as the function `nanoseconds` reads it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
