"""A small HTTP server on transformers and peft with vLLM's interface: completions, chat, tokens, adapters loaded while
it runs.

`python -m runtime.policies.hf_server MODEL --port N` serves a model by the path of its folder or its id on the hub. One
base model and its adapters are in memory. A request with a field of vLLM's that this server does not honour is refused.
Equal adapter, prompt, seed and index give equal completions, whatever is asked at the same time (on one thread of a
CPU).
"""

import argparse
import hmac
import json
import os
import queue
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from algorithms.models.causal_lm import linear_layers
from algorithms.models.sampling import CompletionRequest, SampledCompletion, Sampler, choose_one
from events.errors import NotFound, UsageError, UserError
from runtime.policies import hf
from runtime.policies.client import KEY_VARIABLE, OWN_VERSION
from runtime.policies.interface import WHOLE

BODY_LIMIT = 64 * 1024 * 1024
BATCH_WINDOW = 0.002
"""Seconds that calls are collected for, to be computed in one batch."""
NONE = "none"
"""The name of an adapter that changes nothing. It gives the model the form that peft adds further adapters to."""


class _Fields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    allowed_token_ids: tuple[int, ...] = ()
    logprob_token_ids: tuple[int, ...] = ()
    return_tokens_as_token_ids: bool = False
    return_token_ids: bool = False
    stream: bool = False


class _Completions(_Fields, kw_only=True):
    prompt: str | list[int | str | tuple[int, ...]]
    """A text, its tokens, or a list of such."""
    logprobs: int | None = None


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str


class _Chat(_Fields, kw_only=True):
    messages: tuple[_Turn, ...]
    logprobs: bool = False


class _Tokenize(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str = ""
    prompt: str = ""
    messages: tuple[_Turn, ...] = ()


class _Load(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    lora_name: str
    lora_path: str


class _Unload(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    lora_name: str


class LoadedAdapter(NamedTuple):
    """An adapter in memory: its name within peft, and the folder that it was loaded from."""

    inner: str
    path: str


class _Job(NamedTuple):
    adapter: str
    asked: list[CompletionRequest]
    done: "Future[list[SampledCompletion]]"


class _ChoiceJob(NamedTuple):
    adapter: str
    asked: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Prompts, and the tokens after each of which the log-probabilities are asked for."""
    done: "Future[list[np.ndarray]]"


class HFEngine:
    """One base model and its adapters. Any thread may call it; one thread computes."""

    def __init__(self, base: hf.HFModel, name: str) -> None:
        self.base, self.name = base, name
        self.adapters: dict[str, LoadedAdapter] = {}
        targets = list(linear_layers(base.model))
        self._model: Any = get_peft_model(
            base.model, LoraConfig(r=1, target_modules=targets, task_type="CAUSAL_LM"), adapter_name=NONE
        )
        self._threads = 1 if torch.cuda.is_available() else os.cpu_count() or 1
        self._sampler = Sampler(base, self._model, self._threads)
        self._jobs: queue.SimpleQueue[_Job | _ChoiceJob | Callable[[], None]] = queue.SimpleQueue()
        self._loaded = 0
        threading.Thread(target=self._work, daemon=True).start()

    def names(self) -> list[str]:
        """The base's name, then the adapters'."""
        return [self.name, *self.adapters]

    def complete(self, name: str, requests: list[CompletionRequest]) -> list[SampledCompletion]:
        """A completion for each request by the model of this name.

        Raises NotFound for a name that is not served, UsageError for a prompt that is empty or too long.
        """
        for request in requests:
            self._check_length(request.prompt)
        done: Future[list[SampledCompletion]] = Future()
        self._jobs.put(_Job(self._inner(name), requests, done))
        return done.result()

    def choice_scores(self, name: str, prompts: Sequence[tuple[int, ...]], tokens: tuple[int, ...]) -> list[np.ndarray]:
        """After each prompt the natural log-probabilities (tokens,) of these tokens, by the model of this name; raises
        as `complete` does.
        """
        for prompt in prompts:
            self._check_length(prompt)
        done: Future[list[np.ndarray]] = Future()
        self._jobs.put(_ChoiceJob(self._inner(name), [(prompt, tokens) for prompt in prompts], done))
        return done.result()

    def score(self, name: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability (tokens - 1,) of each token but the first, after those before it."""

        def work() -> list[float]:
            with torch.inference_mode(), self._adapter_context(inner):
                return hf.log_probs_of(self._model, tokens[:1], tokens[1:])

        inner = self._inner(name)
        logprobs: list[float] = self._run_exclusively(work)
        return logprobs

    def load(self, name: str, path: str) -> None:
        """Add an adapter from a peft folder; raises UsageError where the name is taken or the folder is no adapter of
        this model.
        """
        if name in self.names():
            raise UsageError(f"The lora adapter '{name}' has already been loaded.")
        self._run_exclusively(lambda: self._load(name, path))

    def unload(self, name: str) -> None:
        """Remove an adapter; raises NotFound for a name that is not loaded."""

        def work() -> None:
            if name not in self.adapters:
                raise NotFound(f"The lora adapter '{name}' cannot be found.")
            self._model.delete_adapter(self.adapters.pop(name).inner)

        self._run_exclusively(work)

    def _check_length(self, prompt: Sequence[int]) -> None:
        if len(prompt) >= self.base.positions or not prompt:
            raise UsageError(f"A prompt has {len(prompt)} tokens; the model reads 1 to {self.base.positions - 1}.")

    def _inner(self, name: str) -> str:
        if name == self.name:
            return NONE
        if name not in self.adapters:
            raise NotFound(f"The model `{name}` does not exist.")
        return self.adapters[name].inner

    def _load(self, name: str, path: str) -> None:
        self._loaded += 1
        inner = f"a{self._loaded}"
        try:
            read = self._model.load_adapter(path, adapter_name=inner)
            strange = [*read.unexpected_keys, *(key for key in read.missing_keys if f".{inner}." in key)]
            if strange:
                raise UsageError(f"{len(strange)} of its tensors are not this model's, {strange[0]} for one")
        except Exception as wrong:  # whatever a folder of any content makes peft raise
            if inner in self._model.peft_config:
                self._model.delete_adapter(inner)
            raise UsageError(
                f"The lora adapter in {path} cannot be loaded ({type(wrong).__name__}: {wrong!s:.300})."
            ) from wrong
        self.adapters[name] = LoadedAdapter(inner, path)
        self._model.requires_grad_(False)

    def _adapter_context(self, inner: str) -> Any:
        if inner == NONE:
            return self._model.disable_adapter()
        self._model.set_adapter(inner, inference_mode=True)
        return torch.inference_mode()

    def _run_exclusively(self, work: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as wrong:
                done.set_exception(wrong)

        self._jobs.put(run)
        return done.result()

    def _work(self) -> None:
        while True:
            batch = [self._jobs.get()]
            time.sleep(BATCH_WINDOW)
            while not self._jobs.empty():
                batch.append(self._jobs.get())
            by_adapter: dict[str, list[_Job]] = {}
            choosing: dict[str, list[_ChoiceJob]] = {}
            for job in batch:
                if isinstance(job, _Job):
                    by_adapter.setdefault(job.adapter, []).append(job)
                elif isinstance(job, _ChoiceJob):
                    choosing.setdefault(job.adapter, []).append(job)
            for inner, asking in choosing.items():
                self._answer(inner, asking, partial(self._sampler.scores.after, inner))
            for inner, jobs in by_adapter.items():
                rows = [Counter(self._sampler.width(len(request.prompt)) for request in job.asked) for job in jobs]
                for part in in_parts(rows, self._threads, self._sampler.slots):  # so that nobody waits for all
                    self._answer(inner, [jobs[index] for index in part], self._sampler.sample)
            for job in batch:
                if not isinstance(job, _Job | _ChoiceJob):
                    job()

    def _answer(
        self, inner: str, jobs: Sequence[_Job | _ChoiceJob], compute: Callable[[list[Any]], Sequence[Any]]
    ) -> None:
        try:
            with self._adapter_context(inner):
                answers = iter(compute([each for job in jobs for each in job.asked]))
            for job in jobs:
                job.done.set_result([next(answers) for _ in job.asked])
        except BaseException as wrong:  # the next jobs are computed all the same
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(wrong)


def in_parts(rows: Sequence[Counter[int]], threads: int, slots: Callable[[int], int]) -> list[list[int]]:
    """Calls, by their indices, in parts that give each thread at most one forward, if it can be.

    `rows` says how many prompts of each width a call has, and `slots` how many of a width share a forward; those of one
    width come together.
    """
    parts: list[list[int]] = []
    filled: Counter[int] = Counter()
    for index in sorted(range(len(rows)), key=lambda index: max(rows[index], default=0)):
        filled += rows[index]
        if not parts or sum(-(-count // slots(width)) for width, count in filled.items()) > threads:
            parts.append([])
            filled = Counter(rows[index])
        parts[-1].append(index)
    return parts


class Server(ThreadingHTTPServer):
    """An engine over HTTP, on loopback unless another address is given.

    Where `key` is not empty, callers must have it.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: HFEngine, host: str = "127.0.0.1", port: int = 0, key: str = "") -> None:
        self.engine, self.key = engine, key
        super().__init__((host, port), _Handler)

    def answer(self, method: str, path: str, body: bytes) -> object:
        """The JSON answer to a call; raises NotFound, UsageError or ValueError."""
        match method, path:
            case "GET", "/health":
                return {}
            case "GET", "/version":
                return {"version": OWN_VERSION, "dtype": str(self.engine.base.model.dtype).removeprefix("torch.")}
            case "GET", "/v1/models":
                first = {
                    "id": self.engine.name,
                    "object": "model",
                    "root": str(self.engine.base.folder),
                    "parent": None,
                }
                rest = [
                    {"id": name, "object": "model", "root": adapter.path, "parent": self.engine.name}
                    for name, adapter in self.engine.adapters.items()
                ]
                return {"object": "list", "data": [{**first, "max_model_len": self.engine.base.positions}, *rest]}
            case "POST", "/v1/completions":
                return self._completions(msgspec.json.decode(body, type=_Completions))
            case "POST", "/v1/chat/completions":
                return self._chat(msgspec.json.decode(body, type=_Chat))
            case "POST", "/tokenize":
                text = msgspec.json.decode(body, type=_Tokenize)
                tokens = self._turns(text.messages) if text.messages else self.engine.base.encode_plain(text.prompt)
                return {"count": len(tokens), "max_model_len": self.engine.base.positions, "tokens": tokens}
            case "POST", "/v1/load_lora_adapter":
                load = msgspec.json.decode(body, type=_Load)
                self.engine.load(load.lora_name, load.lora_path)
                return f"Success: LoRA adapter '{load.lora_name}' added successfully."
            case "POST", "/v1/unload_lora_adapter":
                unload = msgspec.json.decode(body, type=_Unload)
                self.engine.unload(unload.lora_name)
                return f"Success: LoRA adapter '{unload.lora_name}' removed successfully."
            case _:
                raise NotFound(f"There is no {method} {path} here.")

    def _turns(self, turns: Sequence[_Turn]) -> tuple[int, ...]:
        if not self.engine.base.tokenizer.chat_template:
            raise UsageError("This model has no chat template; ask /v1/completions.")
        return self.engine.base.encode_turns([{"role": turn.role, "content": turn.content} for turn in turns])

    def _completions(self, call: _Completions) -> object:
        single = isinstance(call.prompt, str) or all(isinstance(prompt, int) for prompt in call.prompt)
        prompts: Sequence[Any] = [call.prompt] if single else call.prompt
        token_ids = [
            self.engine.base.encode_plain(prompt) if isinstance(prompt, str) else tuple(prompt) for prompt in prompts
        ]
        choices, usage = (self._chosen if call.allowed_token_ids else self._sampled)(call, token_ids)
        for choice in choices:
            logprobs = {"token_logprobs": choice.pop("logprobs"), "tokens": choice.pop("tokens")}
            if call.logprob_token_ids:
                logprobs["top_logprobs"] = choice.pop("top_logprobs")
            choice |= {"logprobs": logprobs if call.logprobs is not None else None}
        return {**_head(call.model, "text_completion"), "choices": choices, "usage": usage}

    def _chat(self, call: _Chat) -> object:
        prompt = self._turns(call.messages)
        choices, usage = self._sampled(call, [prompt])
        for choice in choices:
            logprobs = [
                {"token": token, "logprob": logprob, "top_logprobs": []}
                for token, logprob in zip(choice.pop("tokens"), choice.pop("logprobs"), strict=True)
            ]
            choice |= {
                "message": {"role": "assistant", "content": choice.pop("text")},
                "logprobs": {"content": logprobs} if call.logprobs else None,
            }
            choice.pop("prompt_token_ids", None)
        extra = {"prompt_token_ids": prompt} if call.return_token_ids else {}
        return {**_head(call.model, "chat.completion"), **extra, "choices": choices, "usage": usage}

    def _chosen(self, call: _Fields, prompts: Sequence[tuple[int, ...]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Completions of one token, drawn among the allowed ones by a seed; the log-probabilities shown are those among
        all of the vocabulary.
        """
        tokens = call.allowed_token_ids
        self._require_honoured(call)
        if call.logprob_token_ids not in ((), tokens) or call.max_tokens != 1 or call.prompt_logprobs is not None:
            raise UsageError(
                "Where this server chooses among allowed_token_ids, it gives one token, and the log-probabilities of "
                "these alone: order max_tokens 1 and the same logprob_token_ids."
            )
        if not call.return_tokens_as_token_ids or len(set(tokens)) < len(tokens):
            raise UsageError("Order return_tokens_as_token_ids, and no token twice: texts of several may be the same.")
        if unknown := [token for token in tokens if not 0 <= token < self.engine.base.vocabulary]:
            raise UsageError(f"The model has no token {unknown[0]}; it has {self.engine.base.vocabulary}.")
        seed = secrets.randbits(62) if call.seed is None else call.seed
        choices: list[dict[str, Any]] = []
        for prompt, scores in zip(prompts, self.engine.choice_scores(call.model, prompts, tokens), strict=True):
            named = {f"token_id:{token}": float(score) for token, score in zip(tokens, scores, strict=True)}
            for index in range(call.n):
                at = choose_one(scores, seed, index, call.temperature)
                choice = {
                    "index": len(choices),
                    "text": self.engine.base.decode([tokens[at]]),
                    "tokens": [f"token_id:{tokens[at]}"],
                    "logprobs": [float(scores[at])],
                    "top_logprobs": [named],
                    "finish_reason": "length",
                }
                if call.return_token_ids:
                    choice |= {"token_ids": [tokens[at]], "prompt_token_ids": prompt}
                choices.append(choice)
        read, written = sum(map(len, prompts)), len(choices)
        return choices, {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _require_honoured(self, call: _Fields) -> None:
        """Raise UsageError for settings that this server does not honour."""
        narrowed = any(getattr(call, name) != whole for name, whole in WHOLE.items() if name != "top_k")
        if narrowed or call.top_k not in (0, -1) or call.stream or (call.prompt_logprobs or 0) > 0:
            raise UsageError(
                "This server samples from all of the distribution, shows one log-probability a token, and does not "
                "stream."
            )
        if not (1 <= call.n <= 4096):
            raise UsageError(f"n is {call.n}; ask for 1 to 4096 completions.")

    def _sampled(
        self, call: _Fields, prompts: Sequence[tuple[int, ...]]
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        base = self.engine.base
        self._require_honoured(call)
        if call.allowed_token_ids or call.logprob_token_ids or call.return_tokens_as_token_ids:
            raise UsageError("This server knows allowed_token_ids and what belongs to it in /v1/completions alone.")
        if not base.ends.issuperset(call.stop_token_ids):
            raise UsageError(
                f"This server ends a completion at {sorted(base.ends)} alone, not at all of "
                f"{list(call.stop_token_ids)}."
            )
        default = 16 if isinstance(call, _Completions) else base.positions  # as vLLM has it

        def most(prompt: tuple[int, ...]) -> int:
            return min(default, base.positions - len(prompt)) if call.max_tokens is None else call.max_tokens

        seed = secrets.randbits(62) if call.seed is None else call.seed
        requests = [
            CompletionRequest(
                prompt=prompt, seed=seed, index=index, temperature=call.temperature, max_tokens=most(prompt)
            )
            for prompt in prompts
            for index in range(call.n)
        ]
        completions = self.engine.complete(call.model, requests)
        choices = []
        for index, (request, completion) in enumerate(zip(requests, completions, strict=True)):
            choice: dict[str, Any] = {
                "index": index,
                "text": completion.text,
                "tokens": [base.tokenizer.decode([token]) for token in completion.tokens],
                "logprobs": completion.logprobs,
                "finish_reason": "length" if completion.cut else "stop",
            }
            if call.return_token_ids:
                choice |= {"token_ids": completion.tokens, "prompt_token_ids": request.prompt}
            if call.prompt_logprobs is not None:
                logs = self.engine.score(call.model, request.prompt) if len(request.prompt) > 1 else []
                named = zip(request.prompt[1:], logs, strict=True)
                choice["prompt_logprobs"] = [None, *({str(token): {"logprob": logprob}} for token, logprob in named)]
            choices.append(choice)
        prompt_tokens, completion_tokens = (
            sum(map(len, prompts)),
            sum(len(completion.tokens) for completion in completions),
        )
        total = prompt_tokens + completion_tokens
        return choices, {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"cmpl-{secrets.token_hex(8)}", "object": kind, "created": int(time.time()), "model": model}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answer("GET", 0)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "0")
        if not (size.isascii() and size.isdigit()) or len(size) > 12 or int(size) > BODY_LIMIT:
            self.close_connection = True
            return self._refuse(413, f"A body of {size[:20]} bytes; at most {BODY_LIMIT}.")
        self._answer("POST", int(size))

    def _answer(self, method: str, size: int) -> None:
        given = self.headers.get("Authorization", "").encode(errors="replace")
        if self.server.key and not hmac.compare_digest(given, f"Bearer {self.server.key}".encode()):
            self.close_connection = True  # its body is left unread
            return self._refuse(401, "Unauthorized")
        body = self.rfile.read(size)
        try:
            self._say(200, self.server.answer(method, self.path, body))
        except NotFound as wrong:
            self._refuse(404, str(wrong))
        except (UserError, ValueError) as wrong:  # a body that is no request is a ValueError of msgspec's
            self._refuse(400, str(wrong))
        except BrokenPipeError:
            self.close_connection = True
        except Exception as wrong:  # so that whoever asked is told
            self._refuse(500, f"{type(wrong).__name__}: {wrong}")

    def _refuse(self, status: int, message: str) -> None:
        self._say(status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}})

    def _say(self, status: int, answer: object) -> None:
        text = isinstance(answer, str)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: callers record their own calls."""


def main() -> None:
    """Serve until stopped, or, with --leash, until standard input ends; the first line of output says where."""
    parser = argparse.ArgumentParser(prog="python -m runtime.policies.hf_server", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the folder of a model, or its id on the hub")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default="")
    parser.add_argument("--leash", action="store_true", help="end when standard input does")
    chosen = parser.parse_args()
    try:
        folder = hf.resolve(chosen.model)
        engine = HFEngine(hf.HFModel(folder, hf.digest_of(folder)), chosen.served_model_name or chosen.model)
        server = Server(engine, chosen.host, chosen.port, os.environ.get(KEY_VARIABLE, ""))
    except (UserError, OSError) as wrong:
        raise SystemExit(str(wrong)) from None
    print(f"http://{chosen.host}:{server.server_port}", flush=True)
    if chosen.leash:
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    server.serve_forever(0.05)


def _end_with_input(server: Server) -> None:
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
