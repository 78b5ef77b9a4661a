"""An edit that adds a step to a scaffold: a file of the task's folder `steps`, and its name in agent.py."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from tasks.contract import Evidence

_LINE = re.compile(r"^STEPS: tuple\[str, \.\.\.\] = \((.*)\)$", re.MULTILINE)


class StepEdit(msgspec.Struct, frozen=True):
    """Adds `steps/<name>.py` and the steps it needs, and puts the name at the end of agent.py's STEPS."""

    folder: Path
    """The folder of the steps."""
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
            f"steps/{name}.py": (self.folder / f"{name}.py").read_text(encoding="utf-8")
            for name in ("__init__", *self.needs, self.name)
        }
        return {**files, **sources, "agent.py": new}
