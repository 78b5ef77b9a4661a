"""Parses a budget as a user writes it: `rollouts=100000,tokens=2M,usd=20,time=30m`.

What has been spent is checked in `decide.py`, and within a conversation of an agent in `runtime/agents/session.py`.
"""

import math
import re

from events.errors import UsageError
from events.run import Budget

LARGEST = 10**15
"""Most that a limit may be, in rollouts, tokens or millionths of a dollar; events hold 64-bit integers."""
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)\Z")
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
LONGEST = 10**9
"""Most seconds that a limit may be."""


def with_rollouts(text: str, rollouts: int) -> str:
    """The text of a budget with another limit on rollouts, or with one."""
    others = [part for part in text.split(",") if part.strip() and part.strip().partition("=")[0] != "rollouts"]
    return ",".join([*others, f"rollouts={rollouts}"])


def parse(text: str) -> Budget:
    """The budget that a text describes; an empty text sets no limit. k and M are thousands and millions; time is in s,
    m or h.

    Raises `UsageError`.
    """
    limits: dict[str, int] = {}
    seconds: float | None = None
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = part.partition("=")
        if name == "time" and (timed := _TIME.match(amount)) and seconds is None:
            seconds = float(timed[1]) * _SECONDS[timed[2]]
            if not 0 < seconds <= LONGEST:
                raise UsageError("The limit on time is none that can be kept; leave time out of --budget for no limit.")
            continue
        match = _AMOUNT.match(amount)
        if name not in ("rollouts", "tokens", "usd") or not match or name in limits:
            raise UsageError(
                f"{part!r} is no budget; write it as in --budget rollouts=100k,tokens=2M,usd=20,time=30m, each at "
                "most once."
            )
        value = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()]
        limit = value * 1e6 if name == "usd" else value
        if limit > LARGEST:
            raise UsageError(
                f"The limit on {name} is above any that can be kept; leave {name} out of --budget for no limit."
            )
        limits[name] = math.floor(limit)
    return Budget(
        rollouts=limits.get("rollouts"), tokens=limits.get("tokens"), micro_usd=limits.get("usd"), seconds=seconds
    )
