"""Ask once, and take things out of the bag until the rest fits."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> Any:
    """The model's answer, without the last things that are too much."""
    digits, words = list(model.complete(item.prompt).text.strip()), item.prompt.split()
    if len(digits) != 6 or set(digits) - {"0", "1"}:
        return "".join(digits)
    room, weights = int(words[1]), [int(word) for word in words[3:9]]
    for position in reversed(range(6)):
        if sum(weight for weight, digit in zip(weights, digits, strict=True) if digit == "1") > room:
            digits[position] = "0"
    return "".join(digits)
