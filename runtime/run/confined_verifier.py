"""Runs a verifier that came with an export in the sandbox that scaffolds run in: its text is anybody's.

It is made into a scaffold whose items are the answers to be scored (`verifier_agent.py`). Beside it lie the modules
that a verifier may import: those of the contract, and its task's own without gold.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from events.errors import Misconfigured
from runtime.rollouts.host import ScaffoldData, ScaffoldProcess, ScaffoldStopped
from runtime.sandbox.choose import provide
from tasks.contract import Item, Scored, Submission
from tasks.loading import ONE, WHOLE, Task

T = TypeVar("T")

AGENT = Path(__file__).with_name("verifier_agent.py")
ROOT = Path(__file__).parents[2]
PACKAGE = "evolog_task"
"""The name of a task's package in the sandbox, where the task is none of evolog's own."""
LEFT_OUT = frozenset({"gold.py", "scaffold"})
"""What of a task's folder no verifier imports."""


class _Judgement(msgspec.Struct):
    """A `Scored`, its numbers in Python's own digits."""

    reward: str
    outcome: str
    details: str
    interval: tuple[str, str] | None
    micro_usd: int

    def scored(self) -> Scored:
        low, high = self.interval or ("", "")
        interval = (float(low), float(high)) if self.interval else None
        return Scored(float(self.reward), self.outcome, self.details, interval, self.micro_usd)


class _Submission(msgspec.Struct):
    """A `Submission`."""

    total: _Judgement
    items: dict[str, _Judgement]


class _Reply(msgspec.Struct):
    """What `verifier_agent.py` answers: what the verifier defines, or a judgement, or why there is none."""

    names: dict[str, Any] = {}
    functions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    """Those of the functions that take tools."""
    judged: Any = None
    raised: tuple[str, str] | None = None
    """The name of an exception, and its text."""
    gave: str = ""
    """What came in a judgement's place."""


class ConfinedVerifier:
    """A verifier in a process of its own in the sandbox, until it is closed. It answers as the verifier's module would,
    and has no tools.

    Raises `Misconfigured` where the host has no sandbox, or the text is no verifier.
    """

    def __init__(self, source: str, name: str, task: Task, work: Path) -> None:
        self.__file__ = name
        self._stopped = ""
        work.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=work))
        try:
            self._process = ScaffoldProcess(
                _scaffold(source, name, task, folder / "agent"),
                ScaffoldData([], []),
                work,
                kind=provide().kind,
                shared_state=True,
            )
        except ScaffoldStopped as stopped:
            raise Misconfigured(f"{name} cannot be imported ({stopped}); mend it and try again.") from stopped
        try:
            reply = self._ask("NAMES")
            if not isinstance(version := reply.names.get("VERSION"), str):
                raise Misconfigured(f"{name} cannot be imported (VERSION is {version!r:.60}); mend it and try again.")
            if reply.tools:
                raise Misconfigured(
                    f"{name} takes tools ({', '.join(reply.tools)}), which no verifier of an export has: name the "
                    "task's folder with --task, whose own verifier is run then."
                )
        except Misconfigured:
            self.close()
            raise
        for key, value in reply.names.items():
            setattr(self, key, value)
        for function, judge in ((ONE, self._score), (WHOLE, self._score_submission)):
            if function in reply.functions:
                setattr(self, function, judge)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _score(self, item: Item, answer: str | None, label: str | None) -> Scored:
        return self._judged(_Judgement, ONE, item, answer, label).scored()

    def _score_submission(
        self, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]
    ) -> Submission:
        judged = self._judged(_Submission, WHOLE, items, answers, labels)
        return Submission(judged.total.scored(), {id: scored.scored() for id, scored in judged.items.items()})

    def _judged(self, kind: type[T], function: str, of: Item | Sequence[Item], *arguments: object) -> T:
        """The verifier's judgement; raises what it raised, under the same name."""
        plain = [msgspec.structs.asdict(one) for one in of] if not isinstance(of, Item) else msgspec.structs.asdict(of)
        reply = self._ask([function, plain, *arguments])
        if reply.raised:
            raise type(reply.raised[0], (Exception,), {})(reply.raised[1])
        try:
            return msgspec.convert(reply.judged, kind)
        except msgspec.ValidationError:
            raise Misconfigured(
                f"{self.__file__}: {function} gave {reply.gave}; expected a Scored whose reward is a number; mend it "
                "and try again."
            ) from None

    def _ask(self, question: object) -> _Reply:
        if self._stopped:
            raise Misconfigured(self._stopped)
        (outcome,) = self._process.solve([("0", json.dumps(question))], 1, lambda calls: [])
        try:
            return msgspec.json.decode(outcome.answer or "", type=_Reply)
        except (msgspec.DecodeError, RecursionError) as wrong:
            self._stopped = f"{self.__file__} does not run in the sandbox ({outcome.reason or wrong})."
            raise Misconfigured(self._stopped) from wrong


def _scaffold(source: str, name: str, task: Task, folder: Path) -> Path:
    """A scaffold's folder with the verifier and all that it may import."""
    for package in ("events", "tasks"):
        (folder / package).mkdir(parents=True)
        for file in (ROOT / package).glob("*.py"):
            shutil.copyfile(file, folder / package / file.name)
    package = task.package if task.package.startswith("tasks.") else PACKAGE
    target = folder.joinpath(*package.split("."))
    for file in task.folder.rglob("*.py"):
        path = file.relative_to(task.folder)
        if not LEFT_OUT & set(path.parts):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / path)
    shutil.copyfile(AGENT, folder / "agent.py")
    (folder / "verifier.json").write_text(json.dumps({"source": source, "file": name, "package": package}))
    return folder
