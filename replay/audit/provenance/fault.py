"""What a check of provenance reports, and how it reads the blobs that events name."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from runtime.blobs.directory import Tree

Read = Callable[[str], bytes]
"""The bytes of a blob by its digest; what it raises for one that is missing or damaged travels on."""


class ProvenanceFault(NamedTuple):
    """A fault, at the sequence of the event that shows it."""

    sequence: int
    sentence: str
    chance: float = 0.0
    """How likely luck alone is to show as much in any look so far; 0 where luck cannot show it."""


def scaffold_files(digest: str, read: Read) -> dict[str, str]:
    """The files of a scaffold: digests by path."""
    return msgspec.json.decode(read(digest), type=Tree).files
