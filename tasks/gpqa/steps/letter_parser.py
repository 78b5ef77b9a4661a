"""Finds the letter in what the model said, whatever words surround it."""

import re

_LETTER = re.compile(r"(?<![A-Za-z])[(\[*]*([A-D])[)\]*.:]*(?![A-Za-z])")
_NAMED = re.compile(r"(?:answer|option|choice)\W+(?:is\W+)?[(\[*]*([A-Da-d])(?![A-Za-z])", re.IGNORECASE)


def after(text: str) -> str:
    """The letter that is named as the answer, the last of several; else the last letter that stands alone; else ""."""
    found = _NAMED.findall(text) or _LETTER.findall(text)
    return found[-1].upper() if found else ""
