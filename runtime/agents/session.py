"""One conversation of an agent with its language model: it reads with tools and ends with exactly one ending.

Every call is recorded before its answer is acted on. Who begins again after a crash goes on from the last recorded
call: what had been said to the model then is what its request blob holds, and no recorded answer is paid for twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from events.choice import AgentCalled, TrialFinished
from events.errors import CheckFailed
from events.fact import derive_seed
from events.kinds import AgentName
from events.run import Budget
from events.secret import Scanner
from runtime.agents.conversation import (
    AgentMessage,
    ModelRequest,
    ModelTurn,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from runtime.agents.prices import Price
from runtime.agents.providers import CallResult, LanguageModel, ModelClient, ask_with_retries
from runtime.blobs.directory import Blobs
from runtime.status import UNHEARD, Waits

CALLS = 24
"""Most calls in one conversation."""
SHORTENINGS = 5
"""How often a request that does not fit the model's context is asked again with less."""
SHORTEST = 400
"""Characters to which a text is shortened at the most, and tokens to which the answer's room is."""
RESULT_LIMIT = 16_000
"""Characters of one tool's answer."""
READ_LIMIT = 240_000
"""Characters of all tools' answers; then the model must end."""

T = TypeVar("T")
S = TypeVar("S")


class UnfitRequest(Exception):
    """What the model asked for cannot be had, or its ending cannot be used; the text is for the model."""


class Halted(Exception):
    """The conversation cannot go on, nor any other of the run, until the operator has put something right; the text
    says what, in sentences. Nothing is recorded of the call that showed it.
    """


class NoEnding(NamedTuple):
    """The conversation came to no ending that can be used. `ending` is the tool that was last tried, if one was."""

    reason: str
    ending: str = ""


class ValidEnding(NamedTuple, Generic[T]):
    """The ending, checked."""

    name: str
    value: T


class AgentSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation needs from its service.

    `recorded_calls` are those of its calls that stand in the log, by ordinal; it grows with each call.
    """

    agent: AgentName
    generation: int
    model: LanguageModel
    client: ModelClient
    price: Price | None
    blobs: Blobs
    scanner: Scanner
    seed: int
    recorded_calls: dict[int, AgentCalled]
    record: Callable[[AgentCalled], AgentCalled | None]
    """Appends a call; gives the one that stood there already, if one did, which then counts in its place."""
    ask: Callable[[ModelClient, ModelRequest, int], CallResult] = ask_with_retries
    budget: Budget = Budget()
    """The run's."""
    spent: tuple[int, int] = (0, 0)
    """Tokens and millionths of a dollar that the run took before this conversation, as far as known."""
    trials: dict[str, TrialFinished] = {}
    """The trials of this conversation that stand in the log, by name; it grows with each."""
    unreported: bool = False
    """Whether the server did not say what a call before this conversation took."""
    waits: Waits = UNHEARD
    """Where the conversation says that it waits for its model, and why."""

    def put(self, value: Any) -> str:
        """A blob of something in JSON, secrets struck out; its digest."""
        return self.blobs.put(msgspec.json.encode(self.scanner.redacted(value), order="deterministic"))

    def read(self, digest: str, kind: type[S]) -> S:
        """What a blob holds."""
        return msgspec.json.decode(self.blobs.get(digest), type=kind)

    def call(self, ordinal: int, request: ModelRequest) -> tuple[ModelRequest, ModelTurn]:
        """Ask, record, and give what was asked and the answer as it is recorded.

        What does not fit the model's context is asked again with less. Raises `Halted` where the key is not accepted,
        or there is no such model: such a call costs nothing and is not recorded.
        """
        seed = derive_seed(self.seed, self.agent, self.generation, ordinal)
        attempts, seconds, usage = 0, 0.0, Usage()
        for shortening in range(SHORTENINGS + 1):
            request_blob = self.put(request)
            result = self.ask(self.client, self.read(request_blob, ModelRequest), seed)
            attempts, seconds = attempts + result.attempts, seconds + result.seconds
            total = None if result.usage is None else usage + result.usage
            if result.turn.status in ("unauthenticated", "not_found"):
                raise Halted(unreachable(self.model, result.turn))
            less = shortened(request) if result.turn.status == "too_long" else None
            if less is None or shortening == SHORTENINGS:
                break
            request, usage = less, total or usage
        response_blob = self.put(result.turn)
        called = AgentCalled(
            generation=self.generation,
            agent=self.agent,
            ordinal=ordinal,
            provider=self.model.provider,
            model=self.model.name,
            request=request_blob,
            response=response_blob,
            prompt_tokens=None if total is None else total.prompt,
            completion_tokens=None if total is None else total.completion,
            micro_usd=None if self.price is None else self.price.micro_usd(total),
            seconds=seconds,
            attempts=attempts,
            status=result.turn.status,
            cached_tokens=0 if total is None else total.cached,
        )
        self.recorded_calls[ordinal] = called = self.record(called) or called
        return request, self.read(called.response, ModelTurn)

    def exhausted(self) -> str:
        """Which limit of the run's budget is spent, in words; empty while there is something left.

        Raises `Halted` where a limit cannot be kept, since the server does not say what its calls take.
        """
        calls = self.recorded_calls.values()
        if self.unreported or any(call.prompt_tokens is None for call in calls):
            self._require_no_limit()
        tokens = self.spent[0] + sum((call.prompt_tokens or 0) + (call.completion_tokens or 0) for call in calls)
        tokens += sum(trial.prompt_tokens + trial.completion_tokens for trial in self.trials.values())
        micro_usd = self.spent[1] + sum(call.micro_usd or 0 for call in calls)
        if self.budget.tokens is not None and tokens >= self.budget.tokens:
            return f"the run's budget of {self.budget.tokens:,} tokens is spent ({tokens:,} so far)"
        if self.budget.micro_usd is not None and micro_usd >= self.budget.micro_usd:
            return f"the run's budget of ${self.budget.micro_usd / 1e6:,.4f} is spent (${micro_usd / 1e6:,.4f} so far)"
        return ""

    def _require_no_limit(self) -> None:
        free = self.price is not None and self.price.micro_usd(None) == 0
        limits = [
            *(["tokens"] if self.budget.tokens is not None else []),
            *(["usd"] if self.budget.micro_usd is not None and not free else []),
        ]
        if limits:
            raise Halted(
                f"The server of {self.model.provider}:{self.model.name} does not say how many tokens its answers take, "
                f"so the run's budget in {' and '.join(limits)} cannot be kept. Fork the run with another "
                "--set budget, or ask the model through a server that reports its usage."
            )


def unreachable(model: LanguageModel, turn: ModelTurn) -> str:
    """What the operator is told of a model that cannot be asked as things are."""
    name = f"{model.provider}:{model.name}"
    if turn.status == "unauthenticated":
        variable = f"{model.provider.upper()}_API_KEY"
        return f"The key for {name} was not accepted, or has nothing left to spend ({turn.text[:300]}). Fix {variable}."
    variable = f"{model.provider.upper()}_BASE_URL"
    return f"There is no {name} to ask ({turn.text[:300]}). Fix the model's name or {variable}."


def shortened(request: ModelRequest) -> ModelRequest | None:
    """The request with about a third of what the model was told left out, of the longest texts first, and half the room
    for its answer; None where there is nothing left to leave out.

    Of a text the middle is left out.
    """
    lengths = [len(text) for message in request.messages for text in _told(message)]
    wanted = sum(lengths) * 2 // 3
    limit = max(lengths, default=0)
    while limit > SHORTEST and sum(min(length, limit) for length in lengths) > wanted:
        limit = max(SHORTEST, limit * 9 // 10)
    room = max(request.max_tokens // 2, SHORTEST)
    if limit == max(lengths, default=0) and room == request.max_tokens:
        return None
    messages = [
        msgspec.structs.replace(
            message,
            text=without_middle(message.text, limit),
            results=tuple(
                msgspec.structs.replace(result, text=without_middle(result.text, limit)) for result in message.results
            ),
        )
        if message.role == "user"
        else message
        for message in request.messages
    ]
    return msgspec.structs.replace(request, messages=tuple(messages), max_tokens=room)


def _told(message: AgentMessage) -> list[str]:
    return [message.text, *(result.text for result in message.results)] if message.role == "user" else []


def without_middle(text: str, limit: int) -> str:
    """The text, or its beginning and its end where it is longer than that, and how much stood between."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[{len(text) - head - tail:,} characters are left out]\n{text[len(text) - tail :]}"


def converse(
    session: AgentSession,
    system: str,
    opening: str,
    tools: Sequence[Tool],
    readers: Mapping[str, Callable[[str], str]],
    endings: Mapping[str, Callable[[str], T]],
) -> ValidEnding[T] | NoEnding:
    """Talk until one ending can be used. `readers` and `endings` are given a call's arguments as JSON, and raise
    `UnfitRequest`. Raises `Halted` as `AgentSession.call`.

    An ending that cannot be used goes back to the model once, with the reason; so does an answer without an ending or
    without room.
    """
    model = session.model
    opened = (AgentMessage("user", opening),)
    request = ModelRequest(model.name, system, opened, tuple(tools), model.output, model.effort)
    for ordinal in range(CALLS):
        if ordinal + 1 in session.recorded_calls:
            continue  # what came of this call stands in the next one's request
        if ordinal in session.recorded_calls:
            request = session.read(session.recorded_calls[ordinal].request, ModelRequest)
            turn = session.read(session.recorded_calls[ordinal].response, ModelTurn)
        elif reason := session.exhausted():
            return NoEnding(reason)
        else:
            request, turn = session.call(ordinal, request)
        if turn.status == "refused":
            return NoEnding(f"the model refused: {turn.text[:500] or 'it gave no reason'}")
        if turn.status not in ("answered", "length"):
            return NoEnding(f"the model could not be asked ({turn.status}): {turn.text[:500]}")
        ending = _ending(turn, endings)
        if ending:
            try:
                return ValidEnding(ending.name, endings[ending.name](ending.arguments))
            except UnfitRequest as unfit:
                wrong: str = str(unfit)
        else:
            wrong = _without_ending(turn, readers, endings)
        if wrong and any(message.returned for message in request.messages):
            return NoEnding(f"twice without an ending that can be used: {wrong}"[:1000], ending.name if ending else "")
        read = sum(len(result.text) for message in request.messages for result in message.results)
        results: list[ToolResult] = []
        for call in turn.calls:
            results.append(_result(call, wrong, readers, endings, read))
            read += len(results[-1].text)
        text = _remarks(wrong if not turn.calls else "", CALLS - ordinal - 1, endings)
        answer = AgentMessage("assistant", turn.text, turn.calls, private=turn.private)
        request = msgspec.structs.replace(
            request,
            messages=(
                *request.messages,
                answer,
                AgentMessage("user", text, results=tuple(results), returned=bool(wrong)),
            ),
        )
    return NoEnding(f"no ending within {CALLS} calls")


def arguments_of(kind: type[S], arguments: str) -> S:
    """A call's arguments; raises `UnfitRequest` for those that are no JSON or of another shape."""
    try:
        return msgspec.json.decode(arguments, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise UnfitRequest(f"The arguments cannot be read ({wrong}); they were: {arguments[:300]}") from wrong


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of a tool's arguments, without references, which not every server follows."""
    (top,), parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(node: Any) -> Any:
        match node:
            case {"$ref": str(name), **more}:
                return inlined(parts[name]) | more
            case dict():
                return {name: inlined(value) for name, value in node.items() if name != "title"}
            case list() | tuple():
                return [inlined(element) for element in node]
        return node

    inlined_schema = inlined(top)
    if not isinstance(inlined_schema, dict):
        raise CheckFailed(f"{kind.__name__} has no schema that is an object.")
    return inlined_schema


def tool(kind: type[msgspec.Struct], name: str) -> Tool:
    """The tool whose arguments are this struct and whose description is its docstring."""
    return Tool(name, " ".join((kind.__doc__ or "").split()), schema(kind))


def _ending(turn: ModelTurn, endings: Mapping[str, object]) -> ToolCall | None:
    return turn.calls[0] if len(turn.calls) == 1 and turn.calls[0].name in endings else None


def _without_ending(turn: ModelTurn, readers: Mapping[str, object], endings: Mapping[str, object]) -> str:
    """What is wrong with an answer that is no ending; nothing if it only reads."""
    names = ", ".join(endings)
    if turn.status == "length":
        return f"Your answer had no room left before its end. Be briefer, and end with one call of: {names}."
    if not turn.calls:
        return f"You called no tool. End with exactly one call of: {names}."
    if any(call.name in endings for call in turn.calls):
        return f"You called {len(turn.calls)} tools at once. An ending ({names}) stands alone in its answer."
    return ""


def _result(
    call: ToolCall, wrong: str, readers: Mapping[str, Callable[[str], str]], endings: Mapping[str, object], read: int
) -> ToolResult:
    if wrong:
        return ToolResult(call.id, wrong, failed=True)
    if read > READ_LIMIT:
        return ToolResult(
            call.id, f"You have read {READ_LIMIT:,} characters: end now, with one of {', '.join(endings)}.", failed=True
        )
    if call.name not in readers:
        return ToolResult(
            call.id, f"There is no tool {call.name[:60]!r}; there are {', '.join([*readers, *endings])}.", failed=True
        )
    try:
        text = readers[call.name](call.arguments)
    except UnfitRequest as unfit:
        return ToolResult(call.id, str(unfit)[:RESULT_LIMIT], failed=True)
    return ToolResult(call.id, clipped(text, RESULT_LIMIT))


def _remarks(wrong: str, left: int, endings: Mapping[str, object]) -> str:
    last = f"{left} answers are left to you: end with one of {', '.join(endings)}." if left <= 2 else ""
    return "\n".join(filter(None, (wrong, last)))


def clipped(text: str, limit: int) -> str:
    """The text, or as much of it as fits, and how much was left off."""
    return text if len(text) <= limit else f"{text[:limit]}\n[{len(text) - limit:,} more characters]"
