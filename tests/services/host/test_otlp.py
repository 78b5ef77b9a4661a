"""Sending spans: to a receiver that decodes them, as the variables of OpenTelemetry say."""

import pytest

from events.errors import Misconfigured, Unavailable
from replay.exports.otel import OtlpSpan
from services.host.otlp import SpanSender, receiver
from tests.harness.otlp_receiver import otlp_receiver

SPAN: OtlpSpan = {
    "traceId": "0" * 31 + "1",
    "spanId": "0" * 15 + "2",
    "name": "chat",
    "kind": 3,
    "startTimeUnixNano": "1",
    "endTimeUnixNano": "2",
    "attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}],
}


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_a_receiver_decodes_what_is_sent(protocol: str) -> None:
    if protocol == "http/protobuf":
        pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    with otlp_receiver() as found:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": found.url + "/",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20abc, x=1",
        }
        sender = SpanSender(receiver(environment), "1")
        for _ in range(2):
            sender.send([SPAN])
    assert found.spans == {SPAN["spanId"]: "chat"} and found.paths == {"/v1/traces"}
    assert (found.arrivals, sender.sent) == (2, 2)
    assert found.attributes[SPAN["spanId"]] == {"gen_ai.operation.name": "chat"}
    assert (found.headers[0]["authorization"], found.headers[0]["x"]) == ("Basic abc", "1")


def test_a_receiver_that_is_busy_is_asked_again() -> None:
    with otlp_receiver(503, 429) as found:
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": found.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
        SpanSender(receiver(environment), "1", pause=0.0).send([SPAN])
    assert found.arrivals == 1 and len(found.headers) == 3


def test_a_receiver_that_refuses_is_a_sentence() -> None:
    with otlp_receiver(401) as found:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
        with pytest.raises(Unavailable, match=r"does not take spans \(it answers 401 Unauthorized\)"):
            SpanSender(receiver(environment), "1", pause=0.0).send([SPAN])
        assert len(found.headers) == 1
    with pytest.raises(Unavailable, match="refused"):  # nobody listens there any more
        SpanSender(receiver(environment), "1", pause=0.0).send([SPAN])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "set OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}, "expected http:// or https://"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc'"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "milliseconds"),
    ],
)
def test_settings_that_cannot_be_used_are_sentences(environment: dict[str, str], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        receiver(environment)
