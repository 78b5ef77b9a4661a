"""Where the tests' own folders are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
TASKS = TESTS / "harness" / "tasks"
"""The toy tasks: `toy` (labels), `tiny` (the smallest), `numbers` (written answers and graded rewards)."""
