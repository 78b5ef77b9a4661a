"""Where the repository, the tests and the toy tasks are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
HISTORIES = TESTS / "histories"
TASKS = TESTS / "harness" / "tasks"
"""The toy tasks: `toy` (labels), `tiny` (the smallest), `numbers` (written answers and graded rewards)."""
TOY = TASKS / "toy"
