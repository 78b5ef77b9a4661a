"""Two edits: look twice, and look three times."""

from collections.abc import Mapping

from tasks.contract import Evidence


class Look:
    """Ask the model about its own answer, so many times in all."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.name = f"look_{times}"
        self.summary = f"Ask {times} times."

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The folder with that number in it."""
        return {**files, "agent.py": files["agent.py"].replace(f"LOOKS = {self.times - 1}", f"LOOKS = {self.times}")}

    def applies(self, evidence: Evidence) -> str | None:
        """Where the model is wrong, and rather often for a third look."""
        if evidence.pass_at_1 > 1.1 - self.times * 0.3:
            return None
        return f"pass@1 is {evidence.pass_at_1:.2f}."


EDITS = (Look(2), Look(3))
