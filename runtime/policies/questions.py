"""Completions by question and answer over the broker: who samples needs no address of a policy's host.

A host listens on `policy.<base>.<adapter>` for a model that it has loaded, and whose canary agreed with the trainer's
there. So no other adapter ever answers for it, and several hosts share its calls. Where nobody listens for a model, a
question on `policy.<base>` has one of the hosts load it.

A call's requests go as a blob where they are large, the very one by which they are recorded later.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from events.errors import HostUnfit, NotHere, TryAgain, Unavailable, UsageError, UserError
from runtime.blobs.directory import Blobs
from runtime.log.questions import QUESTION_LIMIT, Asking, Declined, NobodyListens
from runtime.policies.client import PATIENCE
from runtime.policies.interface import WHOLE, Sampled, SampleRequest
from runtime.status import UNHEARD, Waits

logger = logging.getLogger("evolog")

SERVICE = "policy"
"""The first token of every subject here."""
ANY_BASE = f"{SERVICE}.*"
"""Where a host hears which models are wanted."""
NO_ADAPTER = "base"
"""The token in the place of an adapter where a base model is meant without one."""
AWAITED = "the policy server"
NOBODY = "none is up that has the model"
"""What whoever asks says that it waits for, and why where nobody listens."""
PAUSE = 0.1
"""Seconds before a question that nobody took is asked again."""


class SampleCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked: requests, or the blob that holds them."""

    requests: tuple[SampleRequest, ...] = ()
    blob: str = ""


_sampled_decoder = msgspec.msgpack.Decoder(list[Sampled])


def subject_of(model: str) -> str:
    """The subject on which the hosts of a model listen, by the model's name."""
    base, _, adapter = model.partition("@")
    return f"{SERVICE}.{base}.{adapter or NO_ADAPTER}"


def model_of(subject: str) -> str:
    """The model's name, of such a subject."""
    _, base, adapter = subject.split(".")
    return base if adapter == NO_ADAPTER else f"{base}@{adapter}"


class AskedPolicy:
    """Completions from whichever host has the model; a host is waited for. For one thread.

    `patience` are the seconds in which somebody must take a call; `waits` hears that nobody does.
    """

    def __init__(self, asking: Asking, blobs: Blobs, *, patience: float = PATIENCE, waits: Waits = UNHEARD) -> None:
        self._asking, self._blobs, self._patience, self._waits = asking, blobs, patience, waits

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the named model.

        Raises UserError where the policy refuses a request, NotHere where its host lacks the model, and TryAgain where
        nobody takes the call.
        """
        question = msgspec.json.encode(SampleCall(tuple(requests)))
        if len(question) > QUESTION_LIMIT:
            question = msgspec.json.encode(SampleCall(blob=self._blobs.put(msgspec.json.encode(list(requests)))))
        try:
            return _sampled_decoder.decode(self._ask(model, question))
        finally:
            self._waits.clear()

    def _ask(self, model: str, question: bytes) -> bytes:
        trying: UserError
        deadline, trouble = time.monotonic() + self._patience, ""
        while True:
            try:
                return self._ask_loaded(model, question)
            except (NobodyListens, TryAgain) as wrong:
                why, trying = str(wrong).removesuffix("."), wrong
                if time.monotonic() > deadline:
                    raise TryAgain(f"No policy takes calls of model {model} ({why}); see logs/policy-0.log.") from wrong
            except (
                Unavailable
            ) as wrong:  # the broker is away, or who worked on it is gone: that counts as nobody's fault
                why, trying, deadline = str(wrong), wrong, time.monotonic() + self._patience
                if trouble != why:
                    logger.warning("%s", why)
                trouble = why
            self._waits.report(AWAITED, NOBODY if isinstance(trying, NobodyListens) else why)
            time.sleep(PAUSE)

    def _ask_loaded(self, model: str, question: bytes) -> bytes:
        try:
            try:
                return self._asking.ask(subject_of(model), question)
            except NobodyListens:
                base, _, adapter = model.partition("@")
                self._asking.ask(f"{SERVICE}.{base}", adapter.encode())
                return self._asking.ask(subject_of(model), question)
        except NotHere as wrong:
            raise NotHere(f"The policy's host lacks the model: {wrong}", code=wrong.code) from wrong
        except Declined as wrong:
            raise UserError(f"The policy server refused a call: {wrong}") from wrong
        except (TryAgain, Unavailable):
            raise
        except UserError as wrong:  # this host may not ask, or no more
            raise HostUnfit(str(wrong), code=wrong.code) from wrong


class HeldModels(Protocol):
    """The models that a process holds, by name, such as `runtime.effects.serve.ServedModels`."""

    def sample(self, name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the model of that name."""

    def require_agreed(self, name: str) -> None:
        """Load the model, and raise `NotHere` where it cannot be, or does not agree with its canaries."""

    def names(self) -> list[str]:
        """The models that are loaded."""


class ModelHost:
    """The models of one host, as they are asked for over the broker.

    `listen` is told the subjects of all models that are loaded and whose canaries agreed, each time that they change.
    """

    def __init__(self, models: HeldModels, blobs: Blobs, listen: Callable[[Collection[str]], object]) -> None:
        self._models, self._blobs, self._listen = models, blobs, listen
        self._agreed: list[str] = []
        self._lock = threading.Lock()

    def answer(self, subject: str, question: bytes) -> bytes:
        """The answer to a question on `ANY_BASE`, or on a model's subject.

        Raises what `HeldModels` raise, and `UserError` for a question that is none.
        """
        if subject.count(".") == 1:
            base = subject.partition(".")[2]
            self.load(f"{base}@{question.decode()}" if question else base)
            return b""
        model = model_of(subject)
        try:
            call = msgspec.json.decode(question, type=SampleCall)
            requests: Sequence[SampleRequest] = call.requests
            if call.blob:
                requests = msgspec.json.decode(self._blobs.get(call.blob), type=list[SampleRequest])
        except msgspec.DecodeError as wrong:
            raise UserError(f"the question is no call of a policy: {wrong}") from wrong
        asked = [_as_the_endpoint_has_it(request) for request in requests]
        self.load(model)  # it may have made room for another since
        try:
            sampled = self._models.sample(model, asked)
        except ValueError as wrong:
            raise UserError(str(wrong)) from wrong
        return msgspec.msgpack.encode(
            [
                replace(one, cut=tuple(one.is_cut(index, request.max_tokens) for index in range(len(one.texts))))
                for one, request in zip(sampled, asked, strict=True)
            ]
        )

    def load(self, model: str) -> None:
        """Load a model, unless it is, and listen for it; raises `NotHere` where this host cannot, or where its canary
        differs.
        """
        if model in self._agreed and model in self._models.names():
            return
        self._models.require_agreed(model)
        with self._lock:
            here = set(self._models.names())
            self._agreed = [*(name for name in self._agreed if name in here and name != model), model]
            self._listen([ANY_BASE, *map(subject_of, self._agreed)])


def _as_the_endpoint_has_it(request: SampleRequest) -> SampleRequest:
    """The request as it comes out of the policy's HTTP endpoint; raises UsageError for what that refuses."""
    if unknown := request.sampling.keys() - WHOLE.keys():
        raise UsageError(f"the policy knows no setting {min(unknown)!r}; it has {', '.join(WHOLE)}")
    sampling = {name: value for name, value in request.sampling.items() if value != WHOLE[name]}
    return replace(request, prompt=request.prompt + request.hint, hint="", sampling=sampling)
