"""The edits that the rules agent may make to a TriMul scaffold, each with the evidence that calls for it."""

import re
from collections.abc import Callable, Mapping

import msgspec

from events.errors import Misconfigured
from tasks.contract import Evidence
from tasks.trimul.data import TRIES


class ConstantEdit(msgspec.Struct, frozen=True):
    """Gives a constant of agent.py another value."""

    name: str
    summary: str
    constant: str
    value: str
    reason: Callable[[Evidence], str | None]

    def applies(self, evidence: Evidence) -> str | None:
        """Why the evidence calls for this edit, or None."""
        return self.reason(evidence)

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The folder as edited; raises Misconfigured where agent.py has no line for the constant."""
        agent, count = re.subn(
            rf"^{self.constant} = .*$", f"{self.constant} = {self.value}", files.get("agent.py", ""), flags=re.M
        )
        if not count:
            raise Misconfigured(
                f"agent.py has no line `{self.constant} = ...` to change; start from the reference scaffold."
            )
        return {**files, "agent.py": agent}


def _unrewarded(e: Evidence) -> str | None:
    if e.rewarded > 0.9:
        return None
    return f"{1 - e.rewarded:.0%} of the answers earn nothing: ask {TRIES} times and take the first that is a schedule."


EDITS = (ConstantEdit("retry", "Ask again where the answer is no schedule.", "TRIES", str(TRIES), _unrewarded),)
