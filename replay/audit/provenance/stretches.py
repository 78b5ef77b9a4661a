"""Finds which of many stretches of text stand in a text, without looking at each of its places.

Wherever a stretch stands, one of its parts stands at a place that `STEP` divides. So all parts that may are known by
their hashes, and one place in `STEP` is looked at.
"""

from collections import defaultdict
from collections.abc import Mapping

STEP = 8
"""Stretches must be as long as this at least."""
LENGTHS = (60, 20, STEP)
"""A stretch is found by parts as of the longest of these that it reaches: so a text is gone through a few times."""


class Stretches:
    """Stretches of text, by their length, each with the id of what it belongs to."""

    def __init__(self, ids: Mapping[int, Mapping[str, str]]) -> None:
        self._ids = ids
        self._parts: dict[int, dict[int, list[str]]] = {}
        """By the length of parts and a part's hash: the stretches that have such a part."""
        for length, of_length in ids.items():
            size = next(one for one in LENGTHS if one <= length) - STEP + 1
            parts = self._parts.setdefault(size, defaultdict(list))
            for stretch in of_length:
                for offset in range(STEP):
                    parts[hash(stretch[offset : offset + size])].append(stretch)

    def shared(self, text: str) -> set[tuple[str, str]]:
        """The stretches that a text has, each with its id."""
        found: set[tuple[str, str]] = set()
        for size, parts in self._parts.items():
            places = range(0, len(text) - size + 1, STEP)
            for place in [place for place in places if hash(text[place : place + size]) in parts]:  # most have none
                for stretch in parts[hash(text[place : place + size])]:
                    if stretch in text[max(0, place - STEP + 1) : place + len(stretch)]:
                        found.add((stretch, self._ids[len(stretch)][stretch]))
        return found
