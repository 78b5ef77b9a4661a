"""The edit that the rules agent may make to a Spaceship Titanic scaffold, with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import StepEdit


def _worse_than_a_tree(e: Evidence) -> str | None:
    if e.dev >= 0.79:
        return None
    return f"{e.dev:.3f} on dev: gradient boosting on the records of train reaches about .80, so let it weigh in."


EDITS = (
    StepEdit(
        Path(__file__).parent / "steps",
        "boosting",
        "Add the log-odds of gradient boosting on the records of train.",
        ("records",),
        _worse_than_a_tree,
    ),
)
