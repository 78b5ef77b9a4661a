"""The least and the most that the numbers of a search may be, by the name of their field in `run_started`."""

from collections.abc import Mapping

BOUNDS: Mapping[str, tuple[int, int]] = {
    "width": (1, 64),
    "first_items": (0, 1_000_000),
    "recheck": (0, 64),
    "refills": (0, 20),
    "max_lag": (0, 8),
}
LARGEST_GROUP = 400
"""Most attempts at one item in a group: those of one item stand in one request for rollouts."""
