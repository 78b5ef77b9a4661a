"""The edits that the rules agent may make to the scaffold: here one, a whole new agent.py."""

from collections.abc import Mapping
from pathlib import Path

from tasks.contract import Evidence


class WithinRange:
    """Use what train says of answers at large."""

    name = "within_range"
    summary = "Keep each digit within the range that it has in train."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The scaffold's files after the edit."""
        return {**files, "agent.py": Path(__file__).with_name("steps").joinpath("within_range.py").read_text("utf-8")}

    def applies(self, evidence: Evidence) -> str | None:
        """Where answers are often far off, the reason for the edit."""
        if evidence.mean_reward >= 0.8:
            return None
        return f"The mean reward is {evidence.mean_reward:.2f}: keep answers within what is known to be sensible."


EDITS = (WithinRange(),)
