"""Sends spans to a receiver of OTLP over HTTP, as the variables of OpenTelemetry say."""

import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from events.errors import Misconfigured, Unavailable
from replay.exports.otel import OtlpSpan, as_json, as_protobuf, request_of

ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PROTOCOLS = {"http/protobuf": "application/x-protobuf", "http/json": "application/json"}
TRIES = 5
_LATER = (429, 502, 503, 504)
"""What a receiver answers that is to be asked again, by the specification of OTLP."""


class Receiver(NamedTuple):
    """Where spans are sent, and how."""

    url: str
    protocol: str
    headers: Mapping[str, str]
    timeout: float
    """Seconds that one request may take."""


def receiver(environment: Mapping[str, str]) -> Receiver:
    """The receiver that the environment names.

    Raises `Misconfigured` where it names none, or one that is not to be reached over HTTP.
    """

    def setting(name: str, default: str = "") -> str:
        return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(
            f"OTEL_EXPORTER_OTLP_{name}", default
        )

    url = environment.get(TRACES_ENDPOINT, "")
    if not url and (base := environment.get(ENDPOINT, "")):
        url = f"{base.rstrip('/')}/v1/traces"
    if not url:
        raise Misconfigured(f"No receiver of spans is named: set {ENDPOINT}, such as http://localhost:4318.")
    if urlsplit(url).scheme not in ("http", "https"):
        raise Misconfigured(f"{url} is no address that OTLP is sent to: expected http:// or https://.")
    protocol = setting("PROTOCOL") or "http/protobuf"
    if protocol not in PROTOCOLS:
        raise Misconfigured(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, and spans are sent by {' or '.join(PROTOCOLS)}: set one of "
            "these, with the receiver's port for HTTP (4318)."
        )
    try:
        timeout = int(setting("TIMEOUT", "10000")) / 1000
    except ValueError as wrong:
        raise Misconfigured("OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds, such as 10000.") from wrong
    pairs = [pair.partition("=") for pair in setting("HEADERS").split(",") if "=" in pair]
    headers = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    return Receiver(url, protocol, headers, timeout)


class SpanSender:
    """Sends spans to one receiver, which is asked again while it is busy."""

    def __init__(self, to: Receiver, version: str, pause: float = 0.5) -> None:
        self.receiver, self.version, self.pause = to, version, pause
        self.sent = 0
        """Number of spans that the receiver has taken."""

    def send(self, spans: Sequence[OtlpSpan]) -> None:
        """Send these spans. Raises `Unavailable` where they are not taken."""
        if not spans:
            return
        request = request_of(spans, self.version)
        protocol = self.receiver.protocol
        body = as_protobuf(request) if protocol == "http/protobuf" else as_json(request)
        headers = {"Content-Type": PROTOCOLS[protocol], **self.receiver.headers}
        for attempt in range(TRIES):
            asked = urllib.request.Request(self.receiver.url, data=body, headers=headers, method="POST")
            try:
                with urllib.request.urlopen(asked, timeout=self.receiver.timeout) as answer:
                    answer.read()
                self.sent += len(spans)
                return
            except urllib.error.HTTPError as refused:
                with refused:
                    why = f"it answers {refused.code} {refused.reason}"
                if refused.code not in _LATER:
                    break
            except (OSError, HTTPException) as wrong:
                why = str(getattr(wrong, "reason", "") or wrong or type(wrong).__name__)
            if attempt < TRIES - 1:
                time.sleep(self.pause * 2**attempt)
        raise Unavailable(f"{self.receiver.url} does not take spans ({why}): look whether it receives OTLP over HTTP.")
