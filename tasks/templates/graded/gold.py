"""What the run is judged by, for the auditor alone: how often an answer is the best one."""

from pathlib import Path

from . import data


def labels(root: Path, seed: int) -> dict[str, str]:
    """The best answer to each test item, by item id."""
    return {item.id: label for item, label in data.plots("test", seed)}


def score(answer: str | None, label: str) -> float:
    """1 for the best answer, else 0: a run that earns more and finds it no more often has drifted."""
    return float(answer == label)
