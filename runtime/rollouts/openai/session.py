"""A scaffold process beside a bridge, for scaffolds that reach the model by `openai.OpenAI()` too.

An HTTP call does not say for which item it is made, so such a scaffold is handed its items one at a time, and says over the bridge which
attempt begins. Otherwise it is played as any other.
"""

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from events.errors import UsageError
from runtime.rollouts.host import AnswerCalls, Data, Limits, Outcome, ScaffoldProcess, ScaffoldStopped
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.server import Bridge, Budget
from runtime.rollouts.program import NO_HTTP
from runtime.sandbox.launch import Kind

MODELS = ("policy",)
"""Aliases of the policy that is being played."""
HERE = Path(__file__).parent

OverBridge = Callable[[str, int, BridgeCall], BridgeAnswer]
"""Records and answers a call that was made for an item in an attempt."""


def attempt_budget(limits: Limits, seconds: float) -> Budget:
    """What one attempt may spend over its bridge; a run's own budget is kept by its controller."""
    return Budget(calls=limits.calls, tokens=limits.tokens, seconds=seconds)


def speaks_http(files: Mapping[str, bytes]) -> bool:
    """Whether a scaffold's folder names openai, its client or its variables, without which it would not find the bridge."""
    return any(b"openai" in data.lower() for path, data in files.items() if path.endswith(".py"))


class BridgedScaffold:
    """Solves as a `ScaffoldProcess` does, one item at a time."""

    def __init__(self, scaffold: Path, data: Data, work: Path, limits: Limits = Limits(), kind: Kind = "bwrap") -> None:
        if kind == "landlock":
            raise ScaffoldStopped("unloadable", NO_HTTP)
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix="evolog-"))
        self._over_bridge: OverBridge | None = None
        self._item, self._attempts, self._attempt = "", 0, -1
        token = secrets.token_urlsafe(24)
        shown = self._folder / "shown"  # what the sandbox's account may enter, in a folder that no other can
        shown.mkdir()
        self._bridge = Bridge(shown / "bridge.sock", self._answer, token=token, models=MODELS, begin=self._begin)
        try:
            shutil.copytree(scaffold, shown / "scaffold")
            shutil.copyfile(HERE / "relay.py", shown / "bridge_relay.py")
            shutil.copyfile(HERE / "child.py", shown / "agent.py")
            (shown / "bridge.json").write_text(json.dumps({"token": token, "model": MODELS[0]}))
            self._process = ScaffoldProcess(shown, data, work, limits, kind)
        except BaseException:
            self._clear()
            raise

    def solve(self, items: Sequence[tuple[str, str]], attempts: int, answer_calls: AnswerCalls, over_bridge: OverBridge) -> list[Outcome]:
        """As `ScaffoldProcess.solve`; raises what kept the bridge from recording a call."""
        self._over_bridge, self._attempts = over_bridge, attempts
        found: list[Outcome] = []
        for item, prompt in items:
            if not self.alive:
                kind, reason = (found[-1].kind, found[-1].reason) if found else ("crashed", "the scaffold's process has ended")
                found += [Outcome(item, attempt, kind=kind, reason=reason) for attempt in range(attempts)]
                continue
            self._item, self._attempt = item, -1
            found += self._process.solve([(item, prompt)], attempts, answer_calls)
            self._attempt = -1
            if self._bridge.trouble is not None:
                raise self._bridge.trouble
        return found

    @property
    def alive(self) -> bool:
        """Whether it can solve more."""
        return self._process.alive

    def close(self) -> None:
        """Kill the process and answer nobody any more."""
        self._process.close()
        self._clear()

    def _clear(self) -> None:
        self._bridge.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, item: str, attempt: int) -> None:
        if item != self._item or attempt != self._attempt + 1 or attempt >= self._attempts:
            raise UsageError(f"Attempt {attempt} at item {item!r} cannot begin now; it is the turn of {self._item!r}.")
        self._bridge.budget, self._attempt = attempt_budget(self._limits, self._limits.silence), attempt

    def _answer(self, call: BridgeCall) -> BridgeAnswer:
        if self._attempt < 0 or self._over_bridge is None:
            raise UsageError("No item is being solved; call the model from within `solve`.")
        return self._over_bridge(self._item, self._attempt, call)
