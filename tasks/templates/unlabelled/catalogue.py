"""The edits that the rules agent may make to the scaffold: here one, a whole new agent.py."""

from collections.abc import Mapping
from pathlib import Path

from tasks.contract import Evidence


class UntilItFits:
    """Take out what is too much."""

    name = "until_it_fits"
    summary = "Take things out of the model's bag, the last one first, until the rest fits."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The scaffold's files after the edit."""
        return {**files, "agent.py": Path(__file__).with_name("steps").joinpath("until_it_fits.py").read_text("utf-8")}

    def applies(self, evidence: Evidence) -> str | None:
        """Where answers often earn nothing, the reason for the edit."""
        if evidence.rewarded >= 0.95:
            return None
        return f"Only {evidence.rewarded:.0%} of the answers earn anything: take out what does not fit."


EDITS = (UntilItFits(),)
