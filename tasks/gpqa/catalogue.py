"""The edits that the rules agent may make to a GPQA scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import StepEdit

_STEPS = Path(__file__).parent / "steps"


def _unparsed(e: Evidence) -> str | None:
    if e.unparsed < 0.02:
        return None
    return f"{e.unparsed:.1%} of the answers are no single letter: find the letter in what the model says."


def _scattered(e: Evidence) -> str | None:
    if e.agreement >= 0.8 or e.pass_at_1 >= 0.9:
        return None
    return (
        f"The most frequent answer to a question has {e.agreement:.0%} of its answers (pass@1 {e.pass_at_1:.2f}): ask "
        "with the options in four orders, and let the answers vote."
    )


EDITS = (
    StepEdit(_STEPS, "letter_parser", "Find the letter whatever surrounds it.", (), _unparsed),
    StepEdit(
        _STEPS, "rotations", "Ask with the options in four orders and take a vote.", ("letter_parser",), _scattered
    ),
)
