"""A stand-in for vLLM's server: its answers are of made-up weights, and its faults are those that a test orders."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BASE = "base-model"
ROOT = "/models/base"
RANGES: dict[str, tuple[float, float]] = {
    "top_p": (0, 1),
    "top_k": (-1, 1e9),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, 9),
}
"""What the settings of sampling may be."""


class FakeVLLM:
    """The server, on a port of loopback: started by `start`, and gone, with its adapters, by `stop`.

    The weights of a folder give each token a log-probability, by `logprob_of`; of other folders, and the base, it is
    -1. `faults` are those of the next calls for whole completions, in order: an HTTP status, `forget`, `as the base`,
    or a reason for which completions end.
    """

    def __init__(self) -> None:
        self.root, self.adapters = ROOT, dict[str, str]()
        self.logprob_of: dict[str, float] = {}
        self.faults = deque[int | str]()
        self.unread: set[str] = set()
        """Settings of sampling that it does not read."""
        self.unknown: set[str] = set()
        """Settings that it refuses, whatever their value."""
        self.refused: set[str] = set()
        """Folders that it loads no adapter from."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Its address, the same after each start."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                status, answer = fake.answer(self.path, body)
                data = json.dumps(answer if status == 200 else {"error": {"message": answer}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be gone, and forget the adapters."""
        assert self._server
        self._server.shutdown()
        self._server.server_close()
        self.adapters.clear()

    def loaded(self) -> list[str]:
        """The names that adapters were asked to be loaded under, in order."""
        return [body["lora_name"] for path, body in self.calls if path == "/v1/load_lora_adapter"]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        """The status and content of the answer to a call."""
        self.calls.append((path, body))
        match path:
            case "/version":
                return 200, {"version": "0.31.0", "dtype": "float32"}
            case "/v1/models":
                adapters = [{"id": name, "root": root, "parent": BASE} for name, root in self.adapters.items()]
                return 200, {"data": [{"id": BASE, "root": self.root, "max_model_len": 128}, *adapters]}
            case "/v1/load_lora_adapter":
                if body["lora_path"] in self.refused or body["lora_name"] in self.adapters:
                    return 400, "The lora adapter cannot be loaded."
                self.adapters[body["lora_name"]] = body["lora_path"]
                return 200, "Success"
            case "/v1/unload_lora_adapter":
                found = self.adapters.pop(body["lora_name"], None)
                return (200, "Success") if found else (404, "The lora adapter cannot be found.")
            case _:
                return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> tuple[int, object]:
        if foreign := self.unknown.intersection(body):
            return 400, f"Extra inputs are not permitted: {', '.join(foreign)}."
        for name, (least, most) in RANGES.items():
            if name not in self.unread and not least <= body.get(name, least) <= most:
                return 400, f"{name} is out of its range"
        fault = self.faults.popleft() if self.faults and "stop_token_ids" in body else "length"
        if isinstance(fault, int):
            return fault, "EngineCore encountered an issue."
        if fault == "forget":
            self.adapters.clear()
        if body["model"] not in (BASE, *self.adapters):
            return 404, f"The model `{body['model']}` does not exist."
        model = BASE if fault == "as the base" else body["model"]
        logprob = self.logprob_of.get(self.adapters.get(model, ""), -1.0)
        count, asked = body.get("max_tokens", 1), body.get("logprob_token_ids", ())
        choice = {
            "text": "a" * count,
            "token_ids": [5] * count,
            "logprobs": {
                "token_logprobs": [logprob] * count,
                "top_logprobs": [{f"token_id:{token}": logprob for token in (5, *asked)}] * count,
            },
            "finish_reason": "length" if fault in ("forget", "as the base") else fault,
        }
        prompts = 1 if isinstance(body["prompt"][0], int) else len(body["prompt"])
        return 200, {"model": model, "choices": [choice] * body.get("n", 1) * prompts}
