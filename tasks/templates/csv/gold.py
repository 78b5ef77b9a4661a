"""What the run is judged by, for the auditor alone. Without a `score` here, answers are scored as the verifier does."""

from pathlib import Path

from . import data


def labels(root: Path, seed: int) -> dict[str, str]:
    """The label of each test item, by item id."""
    return {item.id: data.texts(root)[1][item.id] for item in data.held_out(root, seed)[1]}
