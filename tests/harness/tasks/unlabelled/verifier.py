"""Judges answers to dev words alone."""

from tasks.contract import Item, Scored
from tasks.feeling import data

VERSION = "dev-alone-1"


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """1 for the class of a dev word; 0 for any answer to another word."""
    if not answer:
        return Scored(0.0, "unparsed")
    right = "judged" in item.metadata and answer == data.rated(data.default_root())[item.id].label
    return Scored(float(right), "right" if right else "wrong")
