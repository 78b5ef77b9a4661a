"""Asks a task's judge model for a verifier. Every call is recorded before its answer is acted on, and never paid twice:
a judgement that is made again finds what it asked before.
"""

from collections.abc import Callable, Mapping

import msgspec

from events import codec
from events.errors import NotHere, TryAgain, UserError
from events.fact import derive_seed
from events.judgement import JudgeCalled
from events.kinds import CallStatus
from events.secret import Scanner
from runtime.agents.conversation import AgentMessage, ModelRequest, ModelTurn
from runtime.agents.prices import Price
from runtime.agents.providers import CallResult, LanguageModel, ModelClient, ask_with_retries
from runtime.blobs.directory import Blobs

DECLINED: tuple[CallStatus, ...] = ("refused", "bad_request", "too_long")
"""What a question comes to that is not answered, however often it is asked."""
ASKED_OTHERWISE = "the verifier asked the judge model something else than is recorded; it is not deterministic"


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """The judge model of one run.

    `find` gives the call of an id that stands in the log, if one does. `record` appends a call, and gives the one that
    stood there already, if one did, which then counts in its place.
    """

    run: str
    model: LanguageModel
    client: ModelClient
    price: Price | None
    blobs: Blobs
    scanner: Scanner
    seed: int
    kind: type[JudgeCalled] = JudgeCalled
    generations: Mapping[str, int] = {}
    """The generation of each trajectory that it may be asked about, as far as known."""
    find: Callable[[str], JudgeCalled | None]
    record: Callable[[JudgeCalled], JudgeCalled | None]
    ask_model: Callable[[ModelClient, ModelRequest, int], CallResult] = ask_with_retries

    def ask(self, trajectory: str, ordinal: int, prompt: str, max_tokens: int) -> str:
        """The model's answer to one question about a trajectory, or about whatever else goes by that name.

        Raises `UserError` where it refuses, or where something else is recorded of this question; `NotHere` where its
        key is not accepted; `TryAgain` where it gives no answer now.
        """
        request = ModelRequest(self.model.name, "", (AgentMessage("user", prompt),), (), max_tokens)
        called = self.find(codec.event_id(self.run, self.kind, trajectory, ordinal))
        if called is None:
            called = self._call(trajectory, ordinal, request)
        elif recorded_request(called, self.blobs) != self.scanner.redacted(msgspec.to_builtins(request)):
            raise UserError(ASKED_OTHERWISE)
        return _text(msgspec.json.decode(self.blobs.get(called.response), type=ModelTurn))

    def _call(self, trajectory: str, ordinal: int, request: ModelRequest) -> JudgeCalled:
        blob = self._put(request)
        told = msgspec.json.decode(self.blobs.get(blob), type=ModelRequest)
        result = self.ask_model(self.client, told, derive_seed(self.seed, "judge", trajectory, ordinal))
        if result.turn.status in ("unauthenticated", "not_found"):
            raise NotHere(f"The judge model {self.model.name} cannot be asked from here: {result.turn.text[:400]}")
        if result.turn.status not in ("answered", "length", *DECLINED):
            raise TryAgain(f"The judge model {self.model.name} gives no answer now: {result.turn.text[:400]}")
        called = self.kind(
            trajectory=trajectory,
            ordinal=ordinal,
            provider=self.model.provider,
            model=self.model.name,
            request=blob,
            response=self._put(result.turn),
            prompt_tokens=None if result.usage is None else result.usage.prompt,
            completion_tokens=None if result.usage is None else result.usage.completion,
            micro_usd=None if self.price is None else self.price.micro_usd(result.usage),
            seconds=result.seconds,
            attempts=result.attempts,
            status=result.turn.status,
            generation=self.generations.get(trajectory, -1),
        )
        return self.record(called) or called

    def _put(self, value: object) -> str:
        return self.blobs.put(
            msgspec.json.encode(self.scanner.redacted(msgspec.to_builtins(value)), order="deterministic")
        )


def recorded_answers(
    recorded: Mapping[str, JudgeCalled], run: str, blobs: Blobs
) -> Callable[[str, int, str, int], str]:
    """A function that answers a judgement's questions as they were answered, from the calls by id, and asks nobody."""

    def ask(trajectory: str, ordinal: int, prompt: str, max_tokens: int) -> str:
        called = recorded.get(codec.event_id(run, JudgeCalled, trajectory, ordinal))
        if called is None:
            raise UserError("what the verifier asks the judge model now is not recorded, and no model is asked again")
        request = ModelRequest(called.model, "", (AgentMessage("user", prompt),), (), max_tokens)
        if recorded_request(called, blobs) != msgspec.to_builtins(request):
            raise UserError(ASKED_OTHERWISE)
        return _text(msgspec.json.decode(blobs.get(called.response), type=ModelTurn))

    return ask


def recorded_request(called: JudgeCalled, blobs: Blobs) -> object:
    """What a recorded call told the model, as plain values."""
    return msgspec.to_builtins(msgspec.json.decode(blobs.get(called.request), type=ModelRequest))


def _text(turn: ModelTurn) -> str:
    if turn.status in DECLINED:
        raise UserError(f"the judge model would not answer: {turn.text[:400]}")
    return turn.text
