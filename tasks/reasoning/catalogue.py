"""The edits that the rules agent may make to a reasoning scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import ScaffoldEdit

VIEWS = 2
"""Views of each kind that are asked about."""


def _unread(e: Evidence) -> str | None:
    if e.pass_at_k >= 0.95:
        return None
    return (
        f"{1 - e.pass_at_k:.0%} of the problems have no right answer among {e.attempts} attempts: write answers in the "
        "form that the prompt asks for."
    )


def _scattered(e: Evidence) -> str | None:
    if e.agreement >= 0.95:
        return None
    return (
        f"{e.agreement:.0%} of a group agree: ask about {VIEWS} views of each kind too, and let the answers vote once "
        "the changes are undone."
    )


EDITS = (
    ScaffoldEdit("answer_form", "Write answers as the prompt asks for.", {"FORM": "True"}, {}, _unread),
    ScaffoldEdit(
        "vote_over_views",
        f"Ask about {VIEWS} views of each kind, undo the changes, and let the answers vote.",
        {"VIEWS": str(VIEWS)},
        {"voting.py": Path(__file__).parents[1] / "voting.py"},
        _scattered,
    ),
)
