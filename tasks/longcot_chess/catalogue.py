"""The edits that the rules agent may make to a chess scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import StepEdit

_STEPS = Path(__file__).parent / "steps"


def _unsolved(e: Evidence) -> str | None:
    if e.pass_at_1 >= 0.5:
        return None
    return f"{e.pass_at_1:.2f} of the answers are right: a least number of moves is better computed than guessed."


def _still_wrong(e: Evidence) -> str | None:
    if not 0.5 <= e.dev < 0.95:
        return None
    return f"{1 - e.dev:.2f} of the answers on dev are still wrong: let a short search choose moves that are legal."


EDITS = (
    StepEdit(_STEPS, "shortest_path", "Compute a knight's path by an integer program.", ("knight",), _unsolved),
    StepEdit(_STEPS, "search", "Choose moves by a search three moves deep.", (), _still_wrong),
)
