"""What needs no agent: the things with most value for their weight, as long as they fit."""

from collections.abc import Sequence

from tasks.contract import Item, Public


def greedy(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """One thing after the other, the best value for its weight first."""
    return {item.id: packed(item.prompt) for item in items}


def packed(prompt: str) -> str:
    """The answer to one prompt."""
    words = prompt.split()
    room, weights, values = int(words[1]), [int(word) for word in words[3:9]], [int(word) for word in words[10:16]]
    digits = ["0"] * 6
    for thing in sorted(range(6), key=lambda thing: -values[thing] / weights[thing]):
        if weights[thing] <= room:
            room, digits[thing] = room - weights[thing], "1"
    return "".join(digits)


BASELINES = {"the best value for its weight first": greedy}
