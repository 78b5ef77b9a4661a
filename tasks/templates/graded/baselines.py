"""What needs no agent: the answer that is best for most of train."""

from collections import Counter
from collections.abc import Sequence

from tasks.contract import Item, Public


def commonest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The same answer for every item."""
    label = Counter(example.label or "" for example in public.train).most_common(1)[0][0]
    return {item.id: label for item in items}


BASELINES = {"the commonest answer": commonest}
