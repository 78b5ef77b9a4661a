"""What was spent and what was scored, in words that say no more than is known."""

from typing import Protocol


class Cost(Protocol):
    """The cost of a generation or of a run: see `Spent` in `replay/report.py`."""

    @property
    def tokens(self) -> int: ...

    @property
    def micro_usd(self) -> int: ...

    @property
    def unreported(self) -> int: ...

    @property
    def unpriced(self) -> int: ...


def tokens(cost: Cost) -> str:
    """Tokens, and how many calls reported none, which is not 0."""
    if cost.unreported and not cost.tokens:
        return "tokens not reported"
    calls = f" and those of {_calls(cost.unreported)} that reported none" if cost.unreported else ""
    return f"{cost.tokens:,} tokens{calls}"


def money(cost: Cost) -> str:
    """US dollars, and how many calls have a cost that nobody knows, which is not 0."""
    if cost.unpriced and not cost.micro_usd:
        return "cost not known"
    calls = f" and {_calls(cost.unpriced)} of unknown cost" if cost.unpriced else ""
    digits = 2 if cost.micro_usd >= 10_000 or not cost.micro_usd else 6  # what is not nothing is not $0.00
    return f"${cost.micro_usd / 1e6:.{digits}f}{calls}"


def bounds(low: float | None, high: float | None) -> str:
    """A 95 % interval; empty for one of width 0, which copies of one item have, and which says nothing."""
    return f"[{low:.4f}, {high:.4f}]" if low is not None and high is not None and low < high else ""


def scored(score: float, low: float | None, high: float | None) -> str:
    """A score with its interval where it has one."""
    return " ".join(filter(None, (f"{score:.4f}", bounds(low, high))))


def _calls(number: int) -> str:
    return "one call" if number == 1 else f"{number:,} calls"
