"""The reward that a run learns from: the share of the value that is packed, and nothing for what does not fit."""

import re

from tasks.contract import Item, Scored

VERSION = "packed-1"
OUTCOMES = {
    "fits": "what is packed fits",
    "heavy": "what is packed does not fit",
    "unparsed": "the answer is no six digits of 0 and 1",
}


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """The value packed over the value of all; there are no labels, so `label` is None."""
    if not re.fullmatch("[01]{6}", answer or ""):
        return Scored(0.0, "unparsed", "Six digits of 0 and 1 are asked for, such as 010011.")
    words = item.prompt.split()
    room, weights, values = int(words[1]), [int(word) for word in words[3:9]], [int(word) for word in words[10:16]]
    chosen = [position for position, digit in enumerate(answer or "") if digit == "1"]
    weight, value = sum(weights[i] for i in chosen), sum(values[i] for i in chosen)
    if weight > room:
        return Scored(0.0, "heavy", f"weight {weight}, and the room is {room}")
    return Scored(value / sum(values), "fits", f"value {value} of {sum(values)}")
