"""A scaffold process with a bridge beside it, for scaffolds with `solve` that reach the model by `openai.OpenAI()` too.

An HTTP call does not say for which item it is made. So such a scaffold gets its items one at a time, and each attempt
says over the bridge that it begins. Its silence is timed here, where it is known how long the policy takes. In all else
it is run as any other.
"""

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from events.errors import UsageError
from runtime.rollouts.host import (
    HUNG_LIMIT,
    AnswerCalls,
    AttemptOutcome,
    RefusedCall,
    ScaffoldCall,
    ScaffoldData,
    ScaffoldLimits,
    ScaffoldProcess,
    ScaffoldStopped,
    Shown,
    Stopwatch,
)
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.server import Bridge, CallBudget
from runtime.rollouts.program import NO_HTTP, RELAY
from runtime.sandbox.launch import Kind

MODELS = ("policy",)
"""Names by which a scaffold may call the policy."""
CHILD = Path(__file__).with_name("child.py")

AnswerBridgeCall = Callable[[str, int, BridgeCall], BridgeAnswer]
"""Records and answers a call that was made for an item, in the attempt of this number."""


def attempt_budget(limits: ScaffoldLimits, seconds: float, clock: Callable[[], float]) -> CallBudget:
    """What one attempt may spend over its bridge; a run's own budget is kept by its controller."""
    return CallBudget(calls=limits.calls, tokens=limits.tokens, seconds=seconds, clock=clock)


def speaks_http(files: Mapping[str, bytes]) -> bool:
    """Whether a scaffold's folder names a client of the bridge or its variables, without which it would not find the
    bridge.
    """
    sources = [data.lower() for path, data in files.items() if path.endswith(".py")]
    return any(
        client in source
        for source in sources
        for client in (b"openai", b"anthropic", b"google.genai", b"google import genai")
    )


class BridgedScaffold:
    """A `ScaffoldProcess` beside a bridge, which solves one item at a time. Raises as that does."""

    def __init__(
        self,
        scaffold: Path,
        data: ScaffoldData,
        work: Path,
        limits: ScaffoldLimits = ScaffoldLimits(),
        kind: Kind = "bwrap",
        shared_state: bool = False,
    ) -> None:
        if kind == "landlock":
            raise ScaffoldStopped("unloadable", NO_HTTP)
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix="evolog-"))
        self._answer_call: AnswerBridgeCall | None = None
        self._item, self._attempts, self._attempt = "", 0, -1
        self._shard_clock, self._silence = Stopwatch(), Stopwatch()
        token = secrets.token_urlsafe(24)
        inside = self._folder / "inside"  # what the sandbox's account may enter, in a folder that no other account can
        inside.mkdir()
        self._bridge = Bridge(inside / "bridge.sock", self._answer, token=token, models=MODELS, begin=self._begin)
        try:
            shutil.copytree(scaffold, inside / "scaffold")
            shutil.copyfile(RELAY, inside / "bridge_relay.py")
            shutil.copyfile(CHILD, inside / "agent.py")
            (inside / "bridge.json").write_text(json.dumps({"token": token, "model": MODELS[0]}))
            self._process = ScaffoldProcess(inside, data, work, limits, kind, shared_state)
        except BaseException:
            self._close_bridge()
            raise

    def solve(
        self,
        items: Sequence[Shown],
        attempts: int,
        answer_calls: AnswerCalls,
        answer_bridge: AnswerBridgeCall,
    ) -> list[AttemptOutcome]:
        """As `ScaffoldProcess.solve`; raises whatever kept the bridge from recording a call."""
        self._answer_call, self._attempts = answer_bridge, attempts
        self._shard_clock.start()
        outcomes: list[AttemptOutcome] = []

        def timed_answers(calls: list[ScaffoldCall]) -> Sequence[Sequence[str] | RefusedCall]:
            with self._silence.paused():
                return answer_calls(calls)

        for shown in items:
            item = shown[0]
            if not self.alive:
                kind, reason = (
                    (outcomes[-1].kind, outcomes[-1].reason)
                    if outcomes
                    else ("crashed", "the scaffold's process has ended")
                )
                outcomes += [AttemptOutcome(item, attempt, kind=kind, reason=reason) for attempt in range(attempts)]
                continue
            self._item, self._attempt = item, -1
            self._silence.start()
            outcomes += self._process.solve([shown], attempts, timed_answers, self._shard_clock, self._silence)
            self._attempt = -1
            if [outcome.kind for outcome in outcomes[-HUNG_LIMIT:]] == ["hung"] * HUNG_LIMIT:
                self._process.close()
            if self._bridge.failure is not None:
                raise self._bridge.failure
        return outcomes

    @property
    def alive(self) -> bool:
        """Whether it can solve more."""
        return self._process.alive

    def close(self) -> None:
        """Kill the process and answer nobody any more."""
        self._process.close()
        self._close_bridge()

    def _close_bridge(self) -> None:
        self._bridge.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, item: str, attempt: int) -> None:
        if item != self._item or attempt != self._attempt + 1 or attempt >= self._attempts:
            raise UsageError(f"Attempt {attempt} at item {item!r} cannot begin now; it is the turn of {self._item!r}.")
        self._attempt = attempt
        self._bridge.budget = attempt_budget(self._limits, self._limits.idle_timeout, self._silence.passed)

    def _answer(self, call: BridgeCall) -> BridgeAnswer:
        if self._attempt < 0 or self._answer_call is None:
            raise UsageError("No item is being solved; call the model from within `solve`.")
        with self._shard_clock.paused(), self._silence.paused():
            return self._answer_call(self._item, self._attempt, call)
