"""A receiver of OTLP over HTTP, which decodes what it is sent as its peers do."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec


class OtlpReceiver:
    """Spans by id, as they arrived; `refusals` are status codes that are answered first, in turn."""

    def __init__(self, refusals: list[int]) -> None:
        self.refusals = refusals
        self.spans: dict[str, str] = {}
        """The name of each span, by its id in hexadecimal digits."""
        self.attributes: dict[str, dict[str, str]] = {}
        """The texts among each span's attributes."""
        self.arrivals = 0
        self.paths: set[str] = set()
        self.headers: list[dict[str, str]] = []
        """Of each request, by their names in small letters."""
        self.url = ""

    def take(self, kind: str, body: bytes) -> None:
        """Decode a request."""
        spans = _of_protobuf(body) if kind == "application/x-protobuf" else _of_json(body)
        for id, name, texts in spans:
            self.arrivals += 1
            self.spans[id], self.attributes[id] = name, texts


@contextlib.contextmanager
def otlp_receiver(*refusals: int) -> Iterator[OtlpReceiver]:
    """A receiver on a free port of this host."""
    found = OtlpReceiver(list(refusals))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.paths.add(self.path)
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            code = found.refusals.pop(0) if found.refusals else 200
            if code == 200:
                found.take(self.headers["Content-Type"], body)
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _of_protobuf(body: bytes) -> Iterator[tuple[str, str, dict[str, str]]]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert len(span.trace_id) == 16 and len(span.span_id) == 8
                texts = {one.key: one.value.string_value for one in span.attributes}
                yield span.span_id.hex(), span.name, texts


def _of_json(body: bytes) -> Iterator[tuple[str, str, dict[str, str]]]:
    request: dict[str, Any] = msgspec.json.decode(body)
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                texts = {one["key"]: one["value"].get("stringValue", "") for one in span["attributes"]}
                yield span["spanId"], span["name"], texts
