"""The edits that the rules agent may make to a LawBench scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import StepEdit

_STEPS = Path(__file__).parent / "steps"


def _unparsed(e: Evidence) -> str | None:
    if e.unparsed < 0.02:
        return None
    return f"{e.unparsed:.1%} of the answers are no label as written: read them with brackets and marks ignored."


def _scattered(e: Evidence) -> str | None:
    if e.offered < 0.5 * e.labels or e.pass_at_1 >= 0.5:
        return None
    return (
        f"{e.offered:.0f} labels are on offer and the guesses scatter (pass@1 {e.pass_at_1:.2f}, pass@{e.attempts} "
        f"{e.pass_at_k:.2f}): "
        "offer what the nearest train texts carry."
    )


def _misled(e: Evidence) -> str | None:
    if e.offered >= 0.5 * e.labels:
        return None
    if e.recall < 0.95:
        return (
            f"The truth is among the {e.offered:.1f} labels on offer in {e.recall:.1%} of the answers only: let a "
            "ridge regression choose."
        )
    if e.wrong_though_offered >= 0.15:
        return (
            f"{e.wrong_though_offered:.1%} of the answers are wrong although the truth was on offer: rank by a "
            "ridge regression."
        )
    return None


EDITS = (
    StepEdit(_STEPS, "tolerant_parser", "Find the label whatever surrounds it.", (), _unparsed),
    StepEdit(
        _STEPS,
        "retrieval_vote",
        "Offer the labels of the nearest train texts, weighted by votes.",
        ("kernel",),
        _scattered,
    ),
    StepEdit(
        _STEPS,
        "ridge_candidates",
        "Offer the 16 labels likeliest by ridge regression, biased by its margins.",
        ("kernel",),
        _misled,
    ),
)
