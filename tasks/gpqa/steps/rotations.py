"""Asks with the options in each of four orders, so that each option has each letter once, and lets the answers vote.

A model that leans to a letter, whatever stands there, thereby leans to no option.
"""

import re
from typing import Any

from .letter_parser import after

LETTERS = "ABCD"
INSTRUCTION = "\n\nAnswer with the letter of the right option, A, B, C or D, and nothing else."
_OPTIONS = re.compile(r"(.*)\n\nA\) (.*)\nB\) (.*)\nC\) (.*)\nD\) (.*)", re.DOTALL)


def ask(item: Any, model: Any) -> str:
    """The letter of the option with the most votes, the first of several; of a prompt without options, the answer."""
    match = _OPTIONS.fullmatch(item.prompt)
    if not match:
        text: str = model.complete(item.prompt + INSTRUCTION).text
        return text
    question, *options = match.groups()
    votes = [0] * len(LETTERS)
    for shift in range(len(LETTERS)):
        shown = [(shift + place) % len(LETTERS) for place in range(len(LETTERS))]
        lines = [f"{letter}) {options[index]}" for letter, index in zip(LETTERS, shown, strict=True)]
        said = after(model.complete("\n".join([question, "", *lines]) + INSTRUCTION).text)
        if said:
            votes[shown[LETTERS.index(said)]] += 1
    return LETTERS[max(range(len(LETTERS)), key=lambda index: votes[index])]
