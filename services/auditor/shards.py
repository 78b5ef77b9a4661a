"""Divides what the auditor asks into shards that look like dev's, so that a scaffold cannot tell which it answers.

A scaffold can see how many items its shard has. So each shard of an audit is as large as one of dev's. Where the items
do not fill the last ones, dev items that nobody scores stand among them.
"""

from collections.abc import Callable, Sequence

from events.run import RunStarted
from runtime.run.requests import shard_width

Shuffle = Callable[[Sequence[str]], Sequence[str]]
"""An order of some items that no scaffold can foresee."""


def dev_sizes(started: RunStarted, *, staged: bool) -> list[int]:
    """How many items each shard of dev has; `staged` says whether the first items are asked before the others."""
    dev, width = len(started.items.dev), shard_width(started, attempts=1)
    first = started.first_items if staged and started.first_items < dev else 0
    return [min(width, part - begin) for part in (first, dev - first) for begin in range(0, part, width)]


def disguised_shards(
    asked: Sequence[str], dev: Sequence[str], sizes: Sequence[int], shuffle: Shuffle
) -> list[tuple[str, ...]]:
    """The items that are asked, mixed with dev items to fill up, in shards whose sizes are among dev's `sizes`.

    As often as there are items for all of dev's shards, all sizes are taken. For the rest they are drawn by lot, a size
    as likely as an item of dev is to be in such a shard. So a trick that works in some shards alone is audited in
    proportion to what it gains on dev.
    """
    whole, rest = divmod(len(asked), len(dev))
    taken = [*sizes] * whole
    shard_of = dict(zip(dev, (shard for shard, size in enumerate(sizes) for _ in range(size)), strict=True))
    for shard in dict.fromkeys(shard_of[item] for item in shuffle(dev)):
        if rest <= 0:
            break
        taken.append(sizes[shard])
        rest -= sizes[shard]
    others = [item for item in shuffle(dev) if item not in set(asked)]
    mixed = shuffle([*asked, *others[: sum(taken) - len(asked)]])
    ends = [sum(taken[: index + 1]) for index in range(len(taken))]
    return [tuple(mixed[end - size : end]) for end, size in zip(ends, taken, strict=True)]
