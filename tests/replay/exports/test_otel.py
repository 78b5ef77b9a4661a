"""A run as spans: their tree, the names of the conventions, and the bytes that a receiver decodes."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from events.errors import Misconfigured
from replay.exports.attempts import PRIVATE, conversations, prompts
from replay.exports.otel import NAMES, OtlpSpan, RunSpans, as_json, as_protobuf, batches, request_of
from replay.history import History
from runtime.log.port import readable
from tests.harness.recorded_attempts import ANSWER, PROMPT, recorded_run


def spans_of(history: History, *, messages: bool = False, gold: bool = False) -> list[OtlpSpan]:
    made = RunSpans(history.run, *((prompts(history), conversations(history)) if messages else ()))
    spans = [span for one in history.messages for event in readable([one]) for span in made.take(event, one.time)]
    if not history.finished:
        spans += made.end()
    for stored in history.gold if gold else ():
        spans += [span for event in readable([stored]) for span in made.audited(event, stored.time)]
    return spans


def attributes(span: OtlpSpan) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def named(spans: list[OtlpSpan], start: str) -> list[OtlpSpan]:
    return [span for span in spans if span["name"].startswith(start)]


def test_spans_are_a_tree_of_run_generations_attempts_and_calls(tmp_path: Path) -> None:
    spans = spans_of(recorded_run(tmp_path))
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == len(spans) and len({span["traceId"] for span in spans}) == 1
    parents = Counter(
        (span["name"].split(" ")[0], by_id[span["parentSpanId"]]["name"] if "parentSpanId" in span else "")
        for span in spans
    )
    assert parents == {
        ("invoke_agent", ""): 1,
        ("generation", "invoke_agent r"): 2,
        ("invoke_agent", "generation 0"): 2,
        ("invoke_agent", "generation 1"): 3,
        ("chat", "invoke_agent scaffold"): 3,
        ("chat", "generation 1"): 1,
        ("optimizer", "generation 1"): 1,
    }
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)


def test_a_call_has_the_names_of_the_conventions(tmp_path: Path) -> None:
    spans = spans_of(recorded_run(tmp_path))
    chat = named(spans, "chat b")[0]
    found = attributes(chat)
    assert chat["kind"] == 3 and found["gen_ai.operation.name"] == "chat"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == ("9", "3")
    assert found["gen_ai.request.seed"] == str(2**62) and found["gen_ai.conversation.id"] == "r"
    reasons = [value["stringValue"] for value in found["gen_ai.response.finish_reasons"]["values"]]
    assert reasons == ["stop", "length"]
    known = {*NAMES.values(), "service.name", "service.version"}
    keys = {key for span in spans for key in attributes(span)}
    assert [key for key in keys if key not in known and not key.startswith("evolog.")] == []


def test_an_attempt_has_its_reward_as_an_evaluation_and_a_failure_as_an_error(tmp_path: Path) -> None:
    attempts = named(spans_of(recorded_run(tmp_path)), "invoke_agent scaffold")
    (event,) = attempts[0]["events"]
    assert event["name"] == "gen_ai.evaluation.result"
    scored = attributes(event)
    assert (scored["gen_ai.evaluation.name"], scored["gen_ai.evaluation.score.value"]) == ("verifier", 1.0)
    assert [attempt.get("status", {}).get("message") for attempt in attempts] == [
        None,
        None,
        None,
        "no sandbox",
        "it raised",
    ]
    assert attributes(attempts[4])["error.type"] == "crashed"
    assert attempts[3]["links"] == attempts[2]["links"]  # two completions of one call


def test_spans_that_are_made_twice_are_the_same_and_an_event_that_comes_again_gives_none(tmp_path: Path) -> None:
    history = recorded_run(tmp_path)
    twice = history._replace(messages=[one for one in history.messages for _ in range(2)])
    assert spans_of(history, gold=True) == spans_of(twice, gold=True)


def test_what_has_not_ended_is_given_at_the_end(tmp_path: Path) -> None:
    history = recorded_run(tmp_path, finished=False)
    half = history._replace(messages=history.messages[:5])
    assert [span["name"] for span in spans_of(half)] == ["chat b", "chat b", "generation 0", "invoke_agent r"]


@pytest.mark.parametrize("private", [True, False])
def test_messages_are_there_only_where_they_are_asked_for_and_not_private(tmp_path: Path, private: bool) -> None:
    history = recorded_run(tmp_path, private=private)
    assert "gen_ai.input.messages" not in attributes(named(spans_of(history), "chat b")[0])
    found = attributes(named(spans_of(history, messages=True), "chat b")[0])
    assert (PRIVATE if private else "alert(1)</script> the bond") in found["gen_ai.input.messages"]
    assert ("enzymes" in found["gen_ai.input.messages"]) != private and "enzymes" in PROMPT
    assert "onerror" in found["gen_ai.output.messages"] and "onerror" in ANSWER


def test_an_agents_conversation_is_there_with_its_tools_where_messages_are_asked_for(tmp_path: Path) -> None:
    history = recorded_run(tmp_path)
    (plain,), (full,) = (named(spans_of(history, messages=asked), "chat m") for asked in (False, True))
    assert plain["spanId"] == full["spanId"] and "gen_ai.output.messages" not in attributes(plain)
    found = {key: json.loads(text) for key, text in attributes(full).items() if "messages" in key or "system" in key}
    assert found["gen_ai.system_instructions"] == [{"type": "text", "content": "Improve it."}]
    assert found["gen_ai.input.messages"][0] == {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}
    (answer,) = found["gen_ai.output.messages"]
    assert (answer["finish_reason"], answer["parts"][1]["type"], answer["parts"][1]["name"]) == (
        "answered",
        "tool_call",
        "read",
    )


def test_gold_is_there_only_where_it_is_asked_for(tmp_path: Path) -> None:
    history = recorded_run(tmp_path)
    assert named(spans_of(history), "evaluate") == []
    asked = named(spans_of(history, gold=True), "evaluate")
    means = [attributes(span["events"][0])["gen_ai.evaluation.score.value"] for span in asked]
    assert [span["name"] for span in asked] == ["evaluate gold", "evaluate verifier", "evaluate gold"]
    assert means == [0.5, 0.5, 0.0625]


def test_protobuf_says_what_the_json_says(tmp_path: Path) -> None:
    service: Any = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans = spans_of(recorded_run(tmp_path), messages=True, gold=True)
    request = request_of(spans, "1")
    decoded = service.ExportTraceServiceRequest.FromString(as_protobuf(request))
    received = decoded.resource_spans[0].scope_spans[0].spans
    assert [(span.span_id.hex(), span.trace_id.hex(), span.name) for span in received] == [
        (span["spanId"], span["traceId"], span["name"]) for span in spans
    ]
    assert received[0].start_time_unix_nano == int(spans[0]["startTimeUnixNano"])
    assert as_protobuf(request) == as_protobuf(request) and b"\n" not in as_json(request)


def test_spans_go_in_batches() -> None:
    assert [len(batch) for batch in batches(({"spanId": str(number)} for number in range(5)), 2)] == [2, 2, 1]


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf.json_format", None)
    with pytest.raises(Misconfigured, match=r"pip install 'evolog\[otel\]', or set OTEL_EXPORTER") as raised:
        as_protobuf(request_of([], "1"))
    assert raised.value.code == 78
