"""The edits that the rules agent may make to an optimisation scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.edits import ScaffoldEdit
from tasks.optimum.data import TRIES

_HERE = Path(__file__).parent
_SHARED = ("functions", "search")
"""Modules of this folder that the step uses; in a scaffold they are the package `searching`."""


def _uneven(e: Evidence) -> str | None:
    if e.tied_groups > 0.5:
        return None
    return (
        f"Answers to one function earn different rewards in {1 - e.tied_groups:.0%} of the groups: draw {TRIES} "
        "programs, try each on functions of this kind that the scaffold makes, and take the best."
    )


def _confined(e: Evidence) -> str | None:
    if e.mean_reward >= 0.9:
        return None
    return (
        f"The mean reward is {e.mean_reward:.2f} of the range that the probe shows: let programs end in a walk from "
        "the best point that they found."
    )


EDITS = (
    ScaffoldEdit(
        "rehearsal",
        f"Take the best of {TRIES} programs on functions that the scaffold draws for itself.",
        {"TRIES": str(TRIES), "STEPS": '("rehearsal",)'},
        {
            **{f"steps/{name}.py": _HERE / "steps" / f"{name}.py" for name in ("__init__", "rehearsal")},
            **{f"searching/{name}.py": _HERE / f"{name}.py" for name in ("__init__", *_SHARED)},
        },
        _uneven,
    ),
    ScaffoldEdit(
        "last_walk",
        "Let programs end in a walk from the best point.",
        {"GRAMMAR": '"full"'},
        {},
        _confined,
    ),
)
