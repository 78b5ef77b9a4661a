"""The edits that the rules agent may make to a denoising scaffold, each with the evidence that calls for it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from tasks.contract import Evidence
from tasks.denoise.data import TRIES

_HERE = Path(__file__).parent
_SHARED = ("counts", "magic", "metric", "program")
"""Modules of this folder that steps use; in a scaffold they are the package `denoising`.

Their text is part of scaffolds, whose digests are recorded: a change to one of them, or to `__init__.py`, changes those
digests.
"""


class ScaffoldEdit(msgspec.Struct, frozen=True):
    """Gives constants of agent.py another value, and adds the files of steps with what they use."""

    name: str
    summary: str
    constants: Mapping[str, str]
    steps: tuple[str, ...]
    reason: Callable[[Evidence], str | None]

    def applies(self, evidence: Evidence) -> str | None:
        """Why the evidence calls for this edit, or None."""
        return self.reason(evidence)

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The folder as edited; raises Misconfigured where agent.py has no line for a constant."""
        agent = files.get("agent.py", "")
        for constant, value in self.constants.items():
            agent, count = _with_constant(agent, constant, value)
            if not count:
                raise Misconfigured(
                    f"agent.py has no line `{constant} = ...` to change; start from the reference scaffold."
                )
        added = {f"steps/{name}.py": _HERE / "steps" / f"{name}.py" for name in self.steps}
        if self.steps:
            added |= {f"denoising/{name}.py": _HERE / f"{name}.py" for name in _SHARED}
            added |= {
                "steps/__init__.py": _HERE / "steps" / "__init__.py",
                "denoising/__init__.py": _HERE / "__init__.py",
            }
        return {
            **files,
            **{path: source.read_text(encoding="utf-8") for path, source in added.items()},
            "agent.py": agent,
        }


def _with_constant(agent: str, constant: str, value: str) -> tuple[str, int]:
    return re.subn(rf"^({constant}(?:: [^=]+)?) = .*$", lambda line: f"{line[1]} = {value}", agent, flags=re.M)


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
        ("valid",),
        _unparsed,
    ),
    ScaffoldEdit(
        "best_by_mse",
        f"Take the best of {TRIES} programs by mse_norm on molecules held back from train.",
        {"TRIES": str(TRIES), "STEPS": '("best_by_mse",)'},
        ("inner", "best_by_mse"),
        _uneven,
    ),
    ScaffoldEdit(
        "best_by_likelihood",
        f"Take the best of {TRIES} programs by the likelihood of molecules held back from train.",
        {"TRIES": str(TRIES), "STEPS": '("best_by_likelihood",)'},
        ("inner", "best_by_likelihood"),
        _uneven,
    ),
    ScaffoldEdit(
        "post_processing",
        "Let programs end in a word that post-processes the output.",
        {"GRAMMAR": '"full"'},
        (),
        _confined,
    ),
)
