"""The edits that the rules agent may make to a denoising scaffold, each with the evidence that calls for it."""

from pathlib import Path

from tasks.contract import Evidence
from tasks.denoise.data import TRIES
from tasks.edits import ScaffoldEdit

_HERE = Path(__file__).parent
_SHARED = ("counts", "magic", "metric", "program")
"""Modules of this folder that steps use; in a scaffold they are the package `denoising`."""


def _files(*steps: str) -> dict[str, Path]:
    return {
        **{f"steps/{name}.py": _HERE / "steps" / f"{name}.py" for name in ("__init__", *steps)},
        **{f"denoising/{name}.py": _HERE / f"{name}.py" for name in ("__init__", *_SHARED)},
    }


def _unparsed(e: Evidence) -> str | None:
    if e.unparsed < 0.1:
        return None
    return f"{e.unparsed:.1%} of the answers are no program: ask {TRIES} times and take one that is."


def _uneven(e: Evidence) -> str | None:
    if e.tied_groups > 0.5:
        return None
    return (
        f"Answers to one data set earn different rewards in {1 - e.tied_groups:.0%} of the groups (mean "
        f"{e.mean_reward:.2f}): draw {TRIES} "
        "programs, hold molecules of train back, and take the best."
    )


def _confined(e: Evidence) -> str | None:
    if e.dev >= 0.99:
        return None
    return (
        f"{e.dev:.2f} on dev, and test itself would score 1: six words may say too little, so let programs "
        "post-process their output."
    )


EDITS = (
    ScaffoldEdit(
        "validation",
        "Leave out answers that are no program.",
        {"TRIES": str(TRIES), "STEPS": '("valid",)'},
        _files("valid"),
        _unparsed,
    ),
    ScaffoldEdit(
        "best_by_mse",
        f"Take the best of {TRIES} programs by mse_norm on molecules held back from train.",
        {"TRIES": str(TRIES), "STEPS": '("best_by_mse",)'},
        _files("inner", "best_by_mse"),
        _uneven,
    ),
    ScaffoldEdit(
        "best_by_likelihood",
        f"Take the best of {TRIES} programs by the likelihood of molecules held back from train.",
        {"TRIES": str(TRIES), "STEPS": '("best_by_likelihood",)'},
        _files("inner", "best_by_likelihood"),
        _uneven,
    ),
    ScaffoldEdit(
        "post_processing",
        "Let programs end in a word that post-processes the output.",
        {"GRAMMAR": '"full"'},
        {},
        _confined,
    ),
)
