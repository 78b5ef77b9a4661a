"""The language-model agents without a log or a provider: a session whose model gives prepared answers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from events.choice import AgentCalled, FeedbackRequested
from events.codec import Event
from events.fact import Fact
from events.kinds import CallStatus, Lever
from events.secret import Scanner, Secret
from runtime.agents.context import ShownAttempt, ShownCall
from runtime.agents.conversation import ModelRequest, ModelTurn, ToolCall, Usage
from runtime.agents.endings import ChildRunLimits, Inspector
from runtime.agents.feedback import FeedbackInput, Library, Table, advise
from runtime.agents.meta import write_first
from runtime.agents.prices import Price
from runtime.agents.providers import CallResult, LanguageModel, ModelClient
from runtime.agents.session import AgentSession, UnfitRequest
from runtime.agents.trials import Workbench
from runtime.blobs.directory import Blobs
from tasks.contract import Public
from tasks.loading import load
from tests.harness import paths

TOY = load(str(paths.TOY))
PUBLIC = TOY.public(0)
KEY = "sk-planted-0123456789"
ANSWER = "def solve(item, model, data):\n    return model.complete(item.prompt, choices=data.labels).text\n"


def model_turn(*calls: tuple[str, Any], text: str = "", status: CallStatus = "answered") -> ModelTurn:
    """An answer of the model."""
    tool_calls = tuple(
        ToolCall(f"c{number}", name, arguments if isinstance(arguments, str) else json.dumps(arguments))
        for number, (name, arguments) in enumerate(calls)
    )
    return ModelTurn(status, text, tool_calls, Usage(100, 10))


def proposal_call(text: str = ANSWER + "# changed\n", path: str = "agent.py", **more: Any) -> tuple[str, Any]:
    """A call of the tool that proposes a scaffold of one file."""
    return ("propose_scaffold", {"files": [{"path": path, "text": text}], "summary": "s", "report": "r", **more})


STOP = ("stop", {"reason": "enough"})


def shown_attempt(
    number: int, outcome: str = "wrong", label: str = "baker", item: str = "", **more: Any
) -> ShownAttempt:
    """An attempt as the agent sees it; `more` replaces fields."""
    return ShownAttempt(
        **{
            "id": f"t{number}",
            "item": item or f"train{number}",
            "attempt": 0,
            "prompt": "p" * 200,
            "label": label,
            "answer": "miner",
            "reward": float(outcome == "right"),
            "outcome": outcome,
            "calls": (ShownCall("p", ("baker", "miner"), "miner"),),
            **more,
        }
    )


def request_for_feedback(levers: tuple[Lever, ...] = ("scaffold", "weights"), **more: Any) -> FeedbackRequested:
    """A request for the change of generation 1; `more` replaces fields."""
    return FeedbackRequested(
        **{
            "generation": 1,
            "candidate": "c",
            "scaffold": "parent",
            "adapter": "",
            "levers": levers,
            "rollouts_left": None,
            "generations_left": 3,
            "probe_requests": (),
            "dev_requests": (),
            **more,
        }
    )


class AgentHarness:
    """A session of the feedback agent whose model answers from a list, and all that it recorded."""

    def __init__(
        self, folder: Path, turns: Sequence[ModelTurn], known: Sequence[AgentCalled] = (), **session: Any
    ) -> None:
        self.blobs = Blobs(folder / "blobs")
        self.folder = folder
        self.scanner = Scanner([Secret(KEY)])
        self.requests: list[ModelRequest] = []
        self.facts: list[Fact] = []
        answers = iter(turns)

        def ask(client: ModelClient, request: ModelRequest, seed: int) -> CallResult:
            self.requests.append(request)
            turn = next(answers)
            return CallResult(turn, 1, 0.5, turn.usage)

        self.session = AgentSession(
            agent="feedback_agent",
            generation=1,
            model=LanguageModel("openai", "m"),
            client=lambda request: model_turn(STOP),
            price=Price(2, 10),
            blobs=self.blobs,
            scanner=self.scanner,
            seed=0,
            recorded_calls={one.ordinal: one for one in known},
            record=self.facts.append,
            ask=ask,
            **session,
        )
        self.attempts = [
            shown_attempt(number, outcome, label)
            for number, (outcome, label) in enumerate([("wrong", "baker"), ("right", "miner")])
        ]
        self.levers: tuple[Lever, ...] = ("scaffold", "weights")
        self.requested: dict[str, Any] = {}
        self.history: list[Event] = []
        self.library: dict[str, Any] = {}
        self.child_runs: ChildRunLimits | None = None
        self.workbench: Workbench | None = None
        self.record: Callable[[Fact], Fact | None] = self.facts.append
        self.queries: list[str] = []

    def inspector(self, *, must_change: bool = True) -> Inspector:
        """What tries a proposal out."""
        return Inspector(
            {"agent.py": ANSWER}, PUBLIC, (TOY.folder,), self.folder / "work", self.scanner, must_change=must_change
        )

    def query(self, sql: str) -> Table:
        """300 rows of a kilobyte, or `UnfitRequest` for whatever names dev."""
        self.queries.append(sql)
        if "dev" in sql:
            raise UnfitRequest("The query cannot be answered: no such column.")
        return Table(("n",), [(number, "x" * 1000) for number in range(300)])

    def feedback(self) -> list[Fact]:
        """The facts that end the conversation."""
        requested = request_for_feedback(self.levers, **self.requested)
        context = FeedbackInput(
            requested, "The task.", {"pass_at_1": 0.5}, "3 generations left.", self.history, self.child_runs
        )
        library = Library(
            self.attempts,
            {"far": shown_attempt(99)}.get,
            self.query,
            {"agent.py": ANSWER},
            workbench=self.workbench,
            **self.library,
        )
        return advise(self.session, context, library, self.inspector(), self.record)

    def first(self, *, must_change: bool = False, public: Public = PUBLIC, examples: int = 4) -> list[Fact]:
        """The facts that end the Meta-Agent's conversation."""
        library = Library((), lambda id: None, self.query, {"agent.py": ANSWER}, workbench=self.workbench)
        inspector = self.inspector(must_change=must_change)
        return write_first(self.session, "Name the trade.", library, inspector, self.record, public, examples)

    def calls(self) -> list[AgentCalled]:
        """The calls that were recorded."""
        return [fact for fact in self.facts if isinstance(fact, AgentCalled)]

    def tool_results(self) -> list[str]:
        """What the tools gave, in the model's last request."""
        return [result.text for message in self.requests[-1].messages for result in message.results]
