"""The reward that a run learns from: the letter of the right option, and nothing else."""

from tasks.contract import Item, Scored
from tasks.gpqa.data import LETTERS

VERSION = "letter-1"
ORDER = "order"
"""In an item's metadata: the published letters of its options, as they are shown, where that is not ABCD."""


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """1 for the letter of the right option, else 0; whatever is no single letter from A to D is unparsed.

    The published evaluator takes the first of these letters anywhere in the text, such as the A of "Answer: C".
    """
    letter = (answer or "").strip()
    if letter not in LETTERS:
        return Scored(0.0, "unparsed", "expected one letter, A to D, and nothing else")
    published = item.metadata.get(ORDER, "".join(LETTERS))[LETTERS.index(letter)]
    return Scored(1.0, "right") if published == label else Scored(0.0, "wrong")
