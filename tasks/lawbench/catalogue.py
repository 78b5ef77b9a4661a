"""The edits that the rules agent may make to a LawBench scaffold, each with the evidence that calls for it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from tasks.contract import Evidence

_STEPS = Path(__file__).parent / "steps"
_LINE = re.compile(r"^STEPS: tuple\[str, \.\.\.\] = \((.*)\)$", re.MULTILINE)


class StepEdit(msgspec.Struct, frozen=True):
    """Adds `steps/<name>.py` and the files it needs, and puts the name at the end of agent.py's STEPS."""

    name: str
    summary: str
    needs: tuple[str, ...]
    reason: Callable[[Evidence], str | None]

    def applies(self, evidence: Evidence) -> str | None:
        """Why the evidence calls for this step, or None."""
        return self.reason(evidence)

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The folder with the step added; raises Misconfigured where agent.py has no STEPS line."""
        agent = files.get("agent.py", "")
        line = _LINE.search(agent)
        if line is None:
            raise Misconfigured(
                "agent.py has no line `STEPS: tuple[str, ...] = (...)` to add to; start from the reference scaffold."
            )
        names = [name for name in re.findall(r'"(\w+)"', line[1]) if name != self.name] + [self.name]
        listed = ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "")
        new = agent[: line.start()] + f"STEPS: tuple[str, ...] = ({listed})" + agent[line.end() :]
        sources = {
            f"steps/{name}.py": (_STEPS / f"{name}.py").read_text(encoding="utf-8")
            for name in ("__init__", *self.needs, self.name)
        }
        return {**files, **sources, "agent.py": new}


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
    StepEdit("tolerant_parser", "Find the label whatever surrounds it.", (), _unparsed),
    StepEdit(
        "retrieval_vote", "Offer the labels of the nearest train texts, weighted by votes.", ("kernel",), _scattered
    ),
    StepEdit(
        "ridge_candidates",
        "Offer the 16 labels likeliest by ridge regression, biased by its margins.",
        ("kernel",),
        _misled,
    ),
)
