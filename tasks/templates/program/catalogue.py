"""The edits that the rules agent may make to the scaffold: here one, a whole new agent.py."""

from collections.abc import Mapping
from pathlib import Path

from tasks.contract import Evidence


class TryExample:
    """Use the example that stands in each prompt."""

    name = "try_example"
    summary = "Ask up to four times for a program, and take the first that does what the example says."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The scaffold's files after the edit."""
        return {**files, "agent.py": Path(__file__).with_name("steps").joinpath("try_example.py").read_text("utf-8")}

    def applies(self, evidence: Evidence) -> str | None:
        """Where several attempts find more than one does, the reason for the edit."""
        if evidence.pass_at_k - evidence.pass_at_1 < 0.1:
            return None
        return f"pass@{evidence.attempts} is {evidence.pass_at_k:.2f} and pass@1 is {evidence.pass_at_1:.2f}."


EDITS = (TryExample(),)
