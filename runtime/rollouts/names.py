"""The names of items that a scaffold sees: they tell nothing, and the same item has another one each time.

A name is the HMAC-SHA256 of what is being played and of the item, under a key that follows from the digests of dev and
test. Neither a scaffold nor an agent can know those: no sandbox holds the items, and the agents' tables lack the
digests. As names are derived, an executor that does a shard again gives the same ones, and so do two runs of one seed.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

LENGTH = 16
"""Hexadecimal digits of a name."""


def item_names(digests: Mapping[str, str], draw: str, items: Sequence[str]) -> dict[str, str]:
    """The name of each item, in an order that tells nothing either.

    `digests` are the splits'; `draw` says for which seed, generation, purpose and round the items are played.
    """
    key = hashlib.sha256(f"{digests['dev']} {digests['test']}".encode()).digest()
    names = {item: hmac.digest(key, f"{draw}\0{item}".encode(), "sha256").hex()[:LENGTH] for item in items}
    return dict(sorted(names.items(), key=lambda pair: pair[1]))
