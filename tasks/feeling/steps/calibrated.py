"""Takes back what the base of smollm2 prefers whatever the word is, after the text of `plain_text`.

The figures are of that model and that text. After another, dev says whether they help.
"""

from typing import Any

PREFERRED = {"terrible": 0.0, "bad": 0.0, "good": 0.6, "wonderful": -0.7}
"""Log-odds. Without them the base of smollm2 gives the classes as often as train has them (300 words of it)."""


def bias(word: str, data: Any) -> list[float]:
    """What is taken from the log-odds of each class."""
    return [-PREFERRED.get(label, 0.0) for label in data.labels]
