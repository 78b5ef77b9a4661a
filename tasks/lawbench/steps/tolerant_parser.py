"""Finds the label in what the model said, whatever brackets, marks or words surround it."""

import re
from functools import lru_cache
from typing import Any

_MARKS = re.compile(r"[\[\]［］【】\s、,，。.:：;；《》<>“”\"'‘’（）()]")


@lru_cache(maxsize=4)
def _plain(labels: tuple[str, ...]) -> dict[str, str]:
    return {_MARKS.sub("", label): label for label in labels}


def after(text: str, data: Any) -> str:
    """The label itself; else the longest label that occurs once brackets and marks are ignored; else "" (unparsed)."""
    if text in data.labels:
        return text
    said, plain = _MARKS.sub("", text), _plain(tuple(data.labels))
    found = [name for name in plain if name in said]
    return plain[max(found, key=len)] if found else ""
