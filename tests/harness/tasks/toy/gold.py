"""The answers of test."""

from pathlib import Path

from . import data


def labels(root: Path) -> dict[str, str]:
    """The label of each test item, by item id. Tests run the toy with seed 0."""
    return {id: label for id, _, label in data.rows("test", 40, 0)}
