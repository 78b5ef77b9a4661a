"""The edits that the rules agent may make to a TriMul scaffold, each with the evidence that calls for it."""

from tasks.contract import Evidence
from tasks.edits import ScaffoldEdit
from tasks.trimul.data import TRIES


def _unrewarded(e: Evidence) -> str | None:
    if e.rewarded > 0.9:
        return None
    return f"{1 - e.rewarded:.0%} of the answers earn nothing: ask {TRIES} times and take the first that is a schedule."


EDITS = (ScaffoldEdit("retry", "Ask again where the answer is no schedule.", {"TRIES": str(TRIES)}, {}, _unrewarded),)
