"""Edits that most catalogues need: other values for constants of agent.py with further files, and further steps."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from tasks.contract import Evidence

_STEPS = re.compile(r"^STEPS: tuple\[str, \.\.\.\] = \((.*)\)$", re.MULTILINE)


class ScaffoldEdit(msgspec.Struct, frozen=True):
    """Gives constants of agent.py another value, and adds files.

    The text of a file is part of the scaffold, whose digest is recorded: a change to it changes that digest.
    """

    name: str
    summary: str
    constants: Mapping[str, str]
    """The new value of each, as it is written in Python."""
    files: Mapping[str, Path]
    """Where the text of each file comes from, by its path in the scaffold."""
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
        added = {path: source.read_text(encoding="utf-8") for path, source in self.files.items()}
        return {**files, **added, "agent.py": agent}


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
        line = _STEPS.search(agent)
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


def _with_constant(agent: str, constant: str, value: str) -> tuple[str, int]:
    return re.subn(rf"^({constant}(?:: [^=]+)?) = .*$", lambda line: f"{line[1]} = {value}", agent, flags=re.M)
