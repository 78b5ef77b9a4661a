"""The edits that the rules agent may make to the scaffold: here one, a whole new agent.py."""

from collections.abc import Mapping
from pathlib import Path

from tasks.contract import Evidence


class SharedWords:
    """Offer the model less to choose from."""

    name = "shared_words"
    summary = "Offer the two labels whose train texts share most words."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The scaffold's files after the edit."""
        return {**files, "agent.py": Path(__file__).with_name("steps").joinpath("shared_words.py").read_text("utf-8")}

    def applies(self, evidence: Evidence) -> str | None:
        """Where the model guesses among all labels, the reason for the edit."""
        if evidence.offered < evidence.labels:
            return None
        return f"All {evidence.labels} labels are on offer and pass@1 is {evidence.pass_at_1:.2f}."


EDITS = (SharedWords(),)
