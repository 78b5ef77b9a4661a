"""The edits that the rules agent may make to a scaffold of feeling, each with the evidence that calls for it."""

from collections.abc import Callable
from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import StepEdit

_STEPS = Path(__file__).parent / "steps"


def _below(bound: float, so: str) -> Callable[[Evidence], str | None]:
    """A reason where less than `bound` of the answers are right."""

    def reason(e: Evidence) -> str | None:
        return None if e.pass_at_1 >= bound else f"{e.pass_at_1:.2f} of the answers are right, below {bound:g}: {so}."

    return reason


def _no_training(e: Evidence) -> str | None:
    if e.rollouts_left >= e.attempts * e.train_items or e.agreement >= 0.95:
        return None
    return (
        f"{e.rollouts_left:,} rollouts are left, too few to train, and {e.agreement:.0%} of a word's answers agree: "
        "let several texts vote."
    )


EDITS = (
    StepEdit(
        _STEPS,
        "plain_text",
        "Put the word at the end of a plain text.",
        (),
        _below(0.5, "a small model goes on with a text better than it answers"),
    ),
    StepEdit(
        _STEPS,
        "spelling",
        "Add what a regression on the letters of train words says.",
        (),
        _below(0.7, "words that are spelled alike feel alike"),
    ),
    StepEdit(
        _STEPS,
        "calibrated",
        "Take back what the model prefers without a word.",
        (),
        _below(0.7, "the model prefers some classes whatever the word is"),
    ),
    StepEdit(
        _STEPS,
        "few_shot",
        "Show a train word of each class before the word.",
        (),
        _below(0.65, "show what is asked for"),
    ),
    StepEdit(_STEPS, "wordings", "Let several texts vote.", (), _no_training),
)
