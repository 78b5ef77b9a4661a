"""What the run is judged by, for the auditor alone. Without a `score` here, answers are scored as the verifier does."""

from pathlib import Path


def labels(root: Path, seed: int) -> dict[str, str]:
    """None: test has no labels either."""
    return {}
