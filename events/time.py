"""Times as events carry them: RFC 3339 in UTC with nanoseconds."""

from datetime import UTC, datetime
from functools import lru_cache


def nanoseconds(rfc3339: str) -> int:
    """Nanoseconds since 1970 of a UTC time such as 2026-01-02T03:04:05.123456789Z."""
    seconds, _, fraction = rfc3339.removesuffix("Z").partition(".")
    return _seconds(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


@lru_cache(maxsize=16)
def _seconds(of: str) -> int:
    return int(datetime.fromisoformat(of).replace(tzinfo=UTC).timestamp())


def rfc3339(of_nanoseconds: int) -> str:
    """The UTC time with nanoseconds, as `nanoseconds` reads it."""
    seconds, rest = divmod(of_nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
