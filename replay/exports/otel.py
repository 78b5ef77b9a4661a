"""A recorded run as OTLP spans, by OpenTelemetry's conventions for generative AI.

    run -> generations -> attempts -> calls of the policy and of the judge
                       -> calls of the agents' language models, optimiser steps

A trace's id follows from the run's name, a span's from the event that it is about. So a run that is sent twice, or that
is sent as it goes on and again later, has the same spans, and a receiver that keeps them by id has each once. Spans are
made as values in OTLP's JSON form (opentelemetry-proto 1.x, ids in hexadecimal digits); `as_protobuf` makes the bytes
that receivers expect by default.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from events.choice import AgentCalled, LeverChosen
from events.codec import Event
from events.errors import Misconfigured
from events.fact import derive
from events.gold import GOLD, VERIFIER, DevAnswersScored, GoldScored, PairMeasured
from events.judgement import CandidateEvaluated, JudgeCalled, ScoringFailed, TrajectoryScored
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished, RunStarted
from events.weights import OptimizerStepApplied
from runtime.agents.conversation import AgentMessage, ModelRequest, ModelTurn
from runtime.policies.interface import SampleRequest

CONVENTIONS = "opentelemetry-semantic-conventions-genai 0.1.0"
NAMES = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "agent": "gen_ai.agent.name",
    "agent_id": "gen_ai.agent.id",
    "conversation": "gen_ai.conversation.id",
    "request_model": "gen_ai.request.model",
    "temperature": "gen_ai.request.temperature",
    "seed": "gen_ai.request.seed",
    "max_tokens": "gen_ai.request.max_tokens",
    "choices": "gen_ai.request.choice.count",
    "response_id": "gen_ai.response.id",
    "response_model": "gen_ai.response.model",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "system": "gen_ai.system_instructions",
    "input_messages": "gen_ai.input.messages",
    "output_messages": "gen_ai.output.messages",
    "evaluation": "gen_ai.evaluation.result",
    "evaluation_name": "gen_ai.evaluation.name",
    "score": "gen_ai.evaluation.score.value",
    "label": "gen_ai.evaluation.score.label",
    "explanation": "gen_ai.evaluation.explanation",
    "error": "error.type",
    "chat": "chat",
    "invoke_agent": "invoke_agent",
}
"""Every name of the conventions that is used here, as the version `CONVENTIONS` has them. They are in development: a
new version is a new table. What they have no name for begins with `evolog.`.
"""
INTERNAL, CLIENT = 1, 3
"""Kinds of spans."""
ERROR = 2
"""The status of a span whose operation failed."""
_NEVER_STARTED = 0

OtlpSpan = dict[str, Any]
"""A span in OTLP's JSON form."""
ReadPrompt = Callable[[ModelCalled], SampleRequest]
ReadConversation = Callable[[AgentCalled | JudgeCalled], tuple[ModelRequest, ModelTurn] | None]


class RunSpans:
    """Makes the spans of a run out of its events, which must come in the order of the log.

    A span is made once its end is known: an attempt's when it has its reward. With `prompt`, spans say what the policy
    was asked and what it answered, and with `conversation` the same of the language models of agents and judges.
    """

    def __init__(
        self, run: str, prompt: ReadPrompt | None = None, conversation: ReadConversation | None = None
    ) -> None:
        self.run, self._prompt, self._conversation = run, prompt, conversation
        self.trace = hashlib.sha256(f"evolog trace\x1f{run}".encode()).hexdigest()[:32]
        self._root = derive(run, "span")[:16]
        self._started: RunStarted | None = None
        self._began = self._latest = _NEVER_STARTED
        self._requests: dict[str, RolloutsRequested] = {}
        self._calls: dict[str, tuple[ModelCalled, int]] = {}
        """Calls that no attempt has used yet, with the time of each."""
        self._attempts: dict[str, tuple[TrajectoryRecorded, int]] = {}
        """Attempts that have no reward yet."""
        self._generations: dict[int, int] = {}
        """When each generation began; it is taken out when it ends."""
        self._levers: dict[int, tuple[LeverChosen, int]] = {}
        self._scores: dict[int, tuple[CandidateEvaluated, int]] = {}
        self._seen: set[str] = set()

    def take(self, event: Event, time: int) -> Iterator[OtlpSpan]:
        """The spans that are known to have ended with this event, which was stored at `time`, nanoseconds since 1970.

        An event of another run, or that was taken before, gives none.
        """
        if event.run != self.run or event.id in self._seen:
            return
        self._seen.add(event.id)
        self._latest = max(self._latest, time)
        if (generation := getattr(event.data, "generation", None)) is not None and generation >= 0:
            self._generations.setdefault(generation, time)
        match event.data:
            case RunStarted() as started:
                self._started, self._began = started, time
            case RolloutsRequested() as requested:
                self._requests[event.id] = requested
            case ModelCalled() as called:
                self._calls[event.id] = called, time
            case TrajectoryRecorded() as recorded:
                self._attempts[event.id] = recorded, time
                for use in recorded.calls:
                    if found := self._calls.pop(use.call, None):
                        yield self._call(use.call, *found, parent=event.id[:16])
            case TrajectoryScored() | ScoringFailed():
                if attempt := self._attempts.pop(event.data.trajectory, None):
                    yield self._attempt(event.data.trajectory, *attempt, event.data, time)
            case RolloutFailed() as failed:
                yield self._failed(event.id, failed, time)
            case AgentCalled() as called:
                yield self._model(event.id, called, time, self._of(called.generation), {"evolog.agent": called.agent})
            case JudgeCalled() as called:
                yield self._model(event.id, called, time, called.trajectory[:16], {"evolog.agent": "judge"})
            case LeverChosen() as chosen:
                self._levers[chosen.generation] = chosen, time
            case CandidateEvaluated() as evaluated:
                self._scores[evaluated.generation] = evaluated, time
            case CandidateAccepted() | CandidateKept() | CandidateRejected():
                yield self._generation(event.data, time)
            case OptimizerStepApplied() as step:
                yield self._step(event.id, step, time)
            case RunFinished() as finished:
                yield from self._rest()
                yield self._whole(finished, time)

    def end(self) -> Iterator[OtlpSpan]:
        """The spans of what had not ended when the last event came: for a run that is not followed to its end."""
        yield from self._rest()
        if self._started is not None and self._latest:
            yield self._whole(None, self._latest)

    def audited(self, event: Event, time: int) -> Iterator[OtlpSpan]:
        """The spans of an event of the auditor's, whose scores no other span has."""
        match event.data:
            case DevAnswersScored(generation=generation, scores=scores):
                values = [score for attempts in scores.values() for score in attempts]
                yield self._evaluation(event.id, GOLD, values, time, self._of(generation), {"evolog.split": "dev"})
            case PairMeasured() as pair:
                values = [score for attempts in pair.scores.values() for score in attempts]
                pair_names = {"evolog.scaffold": pair.scaffold, "evolog.adapter": pair.adapter, "evolog.split": "test"}
                yield self._evaluation(event.id, pair.measure, values, time, self._root, pair_names)
            case GoldScored() as cell:
                cell_names = {"evolog.cell": cell.cell, "evolog.split": cell.split, "evolog.scaffold": cell.scaffold}
                yield self._evaluation(event.id, VERIFIER, [cell.score], time, self._root, cell_names)

    def _of(self, generation: int) -> str:
        """The id of a generation's span."""
        return derive(self.run, "span", generation)[:16] if generation >= 0 else self._root

    def _rest(self) -> Iterator[OtlpSpan]:
        for id, (called, time) in self._calls.items():
            requested = self._requests.get(called.request)
            yield self._call(id, called, time, parent=self._of(requested.generation if requested else -1))
        for id, (recorded, time) in self._attempts.items():
            yield self._attempt(id, recorded, time, None, time)
        for generation in list(self._generations):
            yield self._generation_span(generation, self._latest, {}, [])
        self._calls, self._attempts = {}, {}

    def _whole(self, finished: RunFinished | None, time: int) -> OtlpSpan:
        attributes: dict[str, Any] = {NAMES["operation"]: NAMES["invoke_agent"], NAMES["agent"]: "evolog"}
        if started := self._started:
            attributes |= {
                "evolog.task": started.task,
                "evolog.seed": started.seed,
                "evolog.levers": started.levers,
                "evolog.policy": started.policy,
                "evolog.agent": started.agent,
            }
        evaluations = []
        if finished:
            attributes |= {"evolog.reason": finished.reason, "evolog.rollouts": finished.rollouts}
            if finished.candidate:
                evaluations = [_evaluated("dev", finished.score, time)]
        return self._span(f"invoke_agent {self.run}", self._root, "", self._began, time, attributes, events=evaluations)

    def _generation(self, verdict: CandidateAccepted | CandidateKept | CandidateRejected, time: int) -> OtlpSpan:
        generation = verdict.generation
        words = verdict.tag().removeprefix("candidate_")
        attributes: dict[str, Any] = {"evolog.verdict": words, "evolog.reason": verdict.reason}
        events = []
        if found := self._levers.pop(generation, None):
            chosen, at = found
            attributes |= {"evolog.lever": chosen.lever, "evolog.action": chosen.action}
            events.append(_event("evolog.lever_chosen", at, {"evolog.reason": chosen.reason}))
        if evaluated := self._scores.pop(generation, None):
            attributes |= {"evolog.candidate": evaluated[0].candidate, "evolog.lever": evaluated[0].lever}
            attributes |= {"evolog.scaffold": evaluated[0].scaffold, "evolog.adapter": evaluated[0].adapter}
            attributes |= {"evolog.score.low": evaluated[0].low, "evolog.score.high": evaluated[0].high}
            events.append(_evaluated("dev", evaluated[0].score, evaluated[1]))
        return self._generation_span(generation, time, attributes, events)

    def _generation_span(
        self, generation: int, time: int, attributes: dict[str, Any], events: Sequence[dict[str, Any]]
    ) -> OtlpSpan:
        began = self._generations.pop(generation, time)
        attributes = {"evolog.generation": generation, **attributes}
        return self._span(
            f"generation {generation}", self._of(generation), self._root, began, time, attributes, events=events
        )

    def _attempt(
        self,
        id: str,
        recorded: TrajectoryRecorded,
        time: int,
        judgement: TrajectoryScored | ScoringFailed | None,
        judged: int,
    ) -> OtlpSpan:
        attributes = self._played(recorded) | {
            NAMES["agent_id"]: recorded.scaffold,
            "evolog.generation": recorded.generation,
            "evolog.split": recorded.split,
            "evolog.adapter": recorded.adapter,
        }
        events, error = [], ""
        match judgement:
            case TrajectoryScored() as scored:
                attributes["evolog.verifier"] = scored.verifier
                events = [_evaluated(VERIFIER, scored.reward, judged, scored.outcome, scored.details)]
            case ScoringFailed() as failed:
                error = failed.reason
        links = [use.call[:16] for use in recorded.calls]
        began = time - int(recorded.seconds * 1e9)
        return self._span(
            "invoke_agent scaffold",
            id[:16],
            self._of(recorded.generation),
            began,
            time,
            attributes,
            events=events,
            error=error,
            links=list(dict.fromkeys(links)),
        )

    def _failed(self, id: str, failed: RolloutFailed, time: int) -> OtlpSpan:
        requested = self._requests.get(failed.request)
        attributes = self._played(failed) | {NAMES["error"]: failed.kind}
        generation = requested.generation if requested else -1
        if requested:
            attributes |= {NAMES["agent_id"]: requested.scaffold, "evolog.generation": generation}
        parent = self._of(generation)
        return self._span("invoke_agent scaffold", id[:16], parent, time, time, attributes, error=failed.reason)

    def _played(self, recorded: TrajectoryRecorded | RolloutFailed) -> dict[str, Any]:
        return {
            NAMES["operation"]: NAMES["invoke_agent"],
            NAMES["agent"]: "scaffold",
            "evolog.item": recorded.item,
            "evolog.attempt": recorded.attempt,
            "evolog.purpose": recorded.purpose,
        }

    def _call(self, id: str, called: ModelCalled, time: int, parent: str) -> OtlpSpan:
        attributes: dict[str, Any] = {
            NAMES["operation"]: NAMES["chat"],
            NAMES["provider"]: f"evolog.{called.provider}",
            NAMES["request_model"]: called.model,
            NAMES["response_model"]: called.model,
            NAMES["response_id"]: id,
            NAMES["temperature"]: called.temperature,
            NAMES["seed"]: called.sampling_seed,
            NAMES["choices"]: len(called.texts),
            NAMES["finish_reasons"]: _finish_reasons(called),
            NAMES["input_tokens"]: called.prompt_tokens,
            NAMES["output_tokens"]: called.completion_tokens,
            "evolog.micro_usd": called.micro_usd,
        }
        if self._prompt:
            request = self._prompt(called)
            attributes[NAMES["max_tokens"]] = request.max_tokens
            attributes[NAMES["input_messages"]] = _json([_message("user", request.prompt + request.hint)])
            replies = zip(called.texts, _finish_reasons(called), strict=True)
            attributes[NAMES["output_messages"]] = _json(
                [_message("assistant", text) | {"finish_reason": reason} for text, reason in replies]
            )
        began = time - int(called.seconds * 1e9)
        return self._span(f"chat {called.model[:12]}", id[:16], parent, began, time, attributes, kind=CLIENT)

    def _model(
        self, id: str, called: AgentCalled | JudgeCalled, time: int, parent: str, more: dict[str, Any]
    ) -> OtlpSpan:
        attributes = more | {
            NAMES["operation"]: NAMES["chat"],
            NAMES["provider"]: called.provider,
            NAMES["request_model"]: called.model,
            NAMES["response_id"]: id,
            NAMES["input_tokens"]: called.prompt_tokens,
            NAMES["output_tokens"]: called.completion_tokens,
            "evolog.status": called.status,
        }
        if called.micro_usd is not None:
            attributes["evolog.micro_usd"] = called.micro_usd
        if self._conversation and (found := self._conversation(called)):
            told, answered = found
            attributes[NAMES["system"]] = _json([{"type": "text", "content": told.system}])
            attributes[NAMES["input_messages"]] = _json([_turn(one) for one in told.messages])
            reply = AgentMessage("assistant", answered.text, answered.calls)
            attributes[NAMES["output_messages"]] = _json([_turn(reply) | {"finish_reason": answered.status}])
        began = time - int(called.seconds * 1e9)
        return self._span(f"chat {called.model}", id[:16], parent, began, time, attributes, kind=CLIENT)

    def _step(self, id: str, step: OptimizerStepApplied, time: int) -> OtlpSpan:
        figures = ("round", "step", "loss", "kl_to_base", "entropy", "clip_share", "ratio_mean", "ratio_max")
        attributes = {f"evolog.{name}": getattr(step, name) for name in (*figures, "grad_norm", "tokens")}
        began = time - int(step.seconds * 1e9)
        return self._span("optimizer step", id[:16], self._of(step.generation), began, time, attributes)

    def _evaluation(
        self, id: str, name: str, values: Sequence[float], time: int, parent: str, attributes: dict[str, Any]
    ) -> OtlpSpan:
        events = [_evaluated(name, sum(values) / len(values), time)] if values else []
        more = attributes | {"evolog.scores": len(values)}
        return self._span(f"evaluate {name}", id[:16], parent, time, time, more, events=events)

    def _span(
        self,
        name: str,
        id: str,
        parent: str,
        began: int,
        ended: int,
        attributes: dict[str, Any],
        *,
        kind: int = INTERNAL,
        events: Sequence[dict[str, Any]] = (),
        error: str = "",
        links: Sequence[str] = (),
    ) -> OtlpSpan:
        span: OtlpSpan = {"traceId": self.trace, "spanId": id}
        if parent:
            span["parentSpanId"] = parent
        span |= {"name": name, "kind": kind, "startTimeUnixNano": str(began), "endTimeUnixNano": str(ended)}
        span["attributes"] = _attributes({NAMES["conversation"]: self.run} | attributes)
        if events:
            span["events"] = list(events)
        if links:
            span["links"] = [{"traceId": self.trace, "spanId": link} for link in links]
        if error:
            span["status"] = {"code": ERROR, "message": error}
        return span


def request_of(spans: Sequence[OtlpSpan], version: str) -> dict[str, Any]:
    """The request to export these spans, in OTLP's JSON form; `version` is evolog's."""
    resource = {"attributes": _attributes({"service.name": "evolog", "service.version": version})}
    scope = {"name": "evolog", "version": version, "attributes": _attributes({"evolog.conventions": CONVENTIONS})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": list(spans)}]}]}


def as_json(request: dict[str, Any]) -> bytes:
    """A request as OTLP's JSON, on one line."""
    return msgspec.json.encode(request)


def as_protobuf(request: dict[str, Any]) -> bytes:
    """A request as OTLP's protobuf. Raises `Misconfigured` where opentelemetry-proto is missing."""
    try:
        from google.protobuf.json_format import ParseDict
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    except ImportError as missing:
        raise Misconfigured(
            "opentelemetry-proto is not installed, and sending OTLP as protobuf needs it: pip install 'evolog[otel]', "
            "or set OTEL_EXPORTER_OTLP_PROTOCOL=http/json."
        ) from missing
    return bytes(ParseDict(_ids_in_base64(request), ExportTraceServiceRequest()).SerializeToString(deterministic=True))


def _ids_in_base64(request: dict[str, Any]) -> dict[str, Any]:
    """The request as protobuf's own JSON form has it, which differs from OTLP's in how ids are written."""
    import base64

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: base64.b64encode(bytes.fromhex(one)).decode()
                if name in ("traceId", "spanId", "parentSpanId")
                else changed(one)
                for name, one in value.items()
            }
        return [changed(one) for one in value] if isinstance(value, list) else value

    result: dict[str, Any] = changed(request)
    return result


def batches(spans: Iterable[OtlpSpan], size: int = 512) -> Iterator[list[OtlpSpan]]:
    """Spans in lists of this size, the last one shorter."""
    batch: list[OtlpSpan] = []
    for span in spans:
        batch.append(span)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _finish_reasons(called: ModelCalled) -> list[str]:
    cut = called.cut or (False,) * len(called.texts)
    return ["length" if one else "stop" for one in cut]


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _turn(message: AgentMessage) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "content": message.text}] if message.text else []
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments} for call in message.calls
    ]
    parts += [{"type": "tool_call_response", "id": one.id, "response": one.text} for one in message.results]
    return {"role": "tool" if message.results else message.role, "parts": parts}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _evaluated(name: str, score: float, time: int, label: str = "", explanation: str = "") -> dict[str, Any]:
    attributes: dict[str, Any] = {NAMES["evaluation_name"]: name, NAMES["score"]: float(score)}
    attributes |= {NAMES["label"]: label} if label else {}
    attributes |= {NAMES["explanation"]: explanation} if explanation else {}
    return _event(NAMES["evaluation"], time, attributes)


def _event(name: str, time: int, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "timeUnixNano": str(time), "attributes": _attributes(attributes)}


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
