"""A policy behind a server with vLLM's interface: vLLM itself, or the small server of `hf_server`, started here where
none is named.

Prompts go as token ids, so that the server reads what the trainer trains on; each adapter version is loaded under a
name and from a path of its own, as vLLM's prefix cache needs (vllm#42125).
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from events.errors import CheckFailed, Misconfigured, NotFound, UsageError
from runtime.policies import closed_vocabulary
from runtime.policies.client import CALL_TIMEOUT, KEY_VARIABLE, PATIENCE, Caller, engine_url, reason
from runtime.policies.hf import UNLIMITED, HFTokenizer
from runtime.policies.interface import WHOLE, Sampled, SampleRequest, require_fitting_bias

ADAPTERS = 8
"""The most adapters that are loaded into a server at once."""
CONCURRENT = 64
"""The most calls in flight; vLLM batches them."""
EXACT, ROUNDED = 1e-3, 0.1
"""The most nats by which a log-probability may differ from the trainer's: in float32, and in bfloat16, where kernels
round differently.
"""
CHOICES = 128
"""The most choices of a call, as vLLM has it (MAX_LOGPROB_TOKEN_IDS)."""
PROMPTS = 128
"""The most prompts of a call whose answers are choices."""
SEEDS = 2**63
"""Seeds go to the server modulo this."""


class _Logprobs(msgspec.Struct):
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float] | None, ...] = ()


class _Logprob(msgspec.Struct):
    logprob: float


class _Choice(msgspec.Struct):
    text: str
    logprobs: _Logprobs
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    prompt_logprobs: tuple[dict[str, _Logprob] | None, ...] | None = None


class _Completion(msgspec.Struct):
    choices: tuple[_Choice, ...]


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: tuple[_Model, ...]


class Engine:
    """A client of one server of one base model. For any thread. Raises TryAgain where the server does not answer."""

    def __init__(self, url: str, key: str, patience: float = PATIENCE) -> None:
        self.url, self._key, self._patience = url, key, patience
        self._mine = threading.local()
        self._loaded: OrderedDict[str, Path] = OrderedDict()
        self._loading = threading.Lock()
        self.pool = ThreadPoolExecutor(CONCURRENT)
        models = msgspec.json.decode(self.ask("GET", "/v1/models"), type=_Models).data
        base = next(model for model in models if not model.parent)
        self.base, self.root, self.positions = base.id, base.root or base.id, base.max_model_len or UNLIMITED
        version = json.loads(self.ask("GET", "/version"))
        self.tolerance = EXACT if version.get("dtype") == "float32" else ROUNDED

    @property
    def alive(self) -> bool:
        """Whether the server may still answer."""
        return True

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The body of the answer to a call; raises NotFound where the server knows no such model, UsageError for
        another refusal.
        """
        if not hasattr(self._mine, "caller"):
            self._mine.caller = Caller(
                self.url, self._key, "inference server", patience=self._patience, timeout=CALL_TIMEOUT
            )
        status, answer = self._mine.caller.ask(method, path, body)
        if status == 200:
            return bytes(answer)
        raise (NotFound if status == 404 else UsageError)(
            f"The inference server at {self.url} refused {path}: {reason(answer)}"
        )

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter under a name, in place of the least recently used where there are too many.

        Raises Misconfigured for a server that loads no adapters, and UsageError where it refuses this one.
        """
        with self._loading:
            if name not in self._loaded:
                self._unload(name)  # one that an earlier process left there
                while len(self._loaded) >= ADAPTERS:
                    self._unload(self._loaded.popitem(last=False)[0])
                try:
                    self.ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
                except NotFound as wrong:
                    fix = (
                        "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, where the folder "
                        "can be read"
                    )
                    raise Misconfigured(f"{wrong} Adapters cannot be loaded there: {fix}.") from wrong
                self._loaded[name] = folder
            self._loaded.move_to_end(name)

    def _unload(self, name: str) -> None:
        with contextlib.suppress(NotFound, UsageError):  # it was not there, or the server has let go of it already
            self.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, name: str, folder: Path | None, body: dict[str, object]) -> _Completion:
        """A completion by the base, or by the adapter in `folder`, which is loaded again where the server has dropped
        it.
        """
        call = {**body, "model": name}
        if folder:
            self.load(name, folder)
            try:
                return msgspec.json.decode(self.ask("POST", "/v1/completions", call), type=_Completion)
            except NotFound:
                with self._loading:
                    self._loaded.pop(name, None)
                self.load(name, folder)
        return msgspec.json.decode(self.ask("POST", "/v1/completions", call), type=_Completion)

    def close(self) -> None:
        """Close the client; a server that somebody else started goes on."""


class SpawnedEngine(Engine):
    """An `hf_server` started in a process of its own, which ends with this one."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        key = secrets.token_urlsafe(24)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.policies.hf_server", str(tokenizer.folder), "--port", "0", "--leash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": "1",
                KEY_VARIABLE: key,
            },
        )
        assert self._child.stdout
        url = self._child.stdout.readline().decode().strip()
        if not url:
            raise CheckFailed(
                f"The model in {tokenizer.folder} could not be served (exit {self._child.wait()}); see "
                "logs/policy-0.log."
            )
        try:
            super().__init__(url, key, patience=1.0)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._child.poll() is None

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin and self._child.stdout
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()


def connect(tokenizer: HFTokenizer) -> Engine:
    """The server that EVOLOG_ENGINE_URL names, or else a new `hf_server` for this model; raises Misconfigured for one
    of another model.
    """
    if (url := engine_url()) is None:
        return SpawnedEngine(tokenizer)
    engine = Engine(url, os.environ.get(KEY_VARIABLE, ""))
    if engine.root not in (str(tokenizer.folder), tokenizer.model_name):
        raise Misconfigured(
            f"The inference server at {url} serves {engine.root}, and this run is of {tokenizer.model_name}: start "
            "one that serves it."
        )
    return engine


class EnginePolicy:
    """A model behind a server, alone or with an adapter, as a policy. For any thread.

    Of a request with choices the server is asked for their log-probabilities alone, once for all completions, and which
    of them is drawn is decided here.
    """

    def __init__(self, engine: Engine, tokenizer: HFTokenizer, adapter: str = "", folder: Path | None = None) -> None:
        """Raises Misconfigured for an adapter of another base, UsageError for one that the server refuses."""
        self._engine, self._tokenizer, self._folder = engine, tokenizer, folder
        self._name = adapter or engine.base
        self.tolerance = engine.tolerance
        if folder:
            _require_base(folder, tokenizer)
            engine.load(adapter, folder)

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request, in parallel.

        Raises UsageError for one with choices that cannot be told apart or biases that do not fit, or that the server
        refuses.
        """
        require_fitting_bias(requests)
        groups: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        """The places of requests by the tokens of their choices and the tokens of their prompts."""
        for place, request in enumerate(requests):
            if request.choices:
                tokens = self._tokenizer.encode_choices(request.choices, request.plain)
                if len(tokens) > CHOICES:
                    raise UsageError(f"{len(tokens)} choices were offered, and servers compare {CHOICES} at most.")
                prompt = self._tokenizer.encode(request.prompt, request.plain)
                groups.setdefault(tokens, {}).setdefault(prompt, []).append(place)
        calls = [
            (tokens, list(prompts)[start : start + PROMPTS])
            for tokens, prompts in groups.items()
            for start in range(0, len(prompts), PROMPTS)
        ]
        free = [place for place, request in enumerate(requests) if not request.choices]
        sampled = dict(
            zip(free, self._engine.pool.map(lambda place: self._complete(requests[place]), free), strict=True)
        )
        for (tokens, prompts), scores in zip(calls, self._engine.pool.map(self._choice_scores, calls), strict=True):
            for prompt, row in zip(prompts, scores, strict=True):
                for place in groups[tokens][prompt]:
                    sampled[place] = closed_vocabulary.choose(requests[place], row, tokens, len(prompt))
        return [sampled[place] for place in range(len(requests))]

    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens after a prompt, as the server computes it."""
        ids = [*self._tokenizer.encode(prompt), *tokens]
        body = {
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "prompt_logprobs": 0,
            "return_token_ids": True,
        }
        shown = self._engine.complete(self._name, self._folder, body).choices[0].prompt_logprobs or ()
        logs = cast("Sequence[dict[str, _Logprob]]", shown)  # it is the prompt's first token alone that has none
        return [logs[position][str(ids[position])].logprob for position in range(len(ids) - len(tokens), len(ids))]

    def _choice_scores(self, call: tuple[tuple[int, ...], Sequence[tuple[int, ...]]]) -> list[np.ndarray]:
        """The log-probabilities (choices,) of the choices' tokens after each prompt, for (tokens, prompts)."""
        tokens, prompts = call
        body = {
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 1,
            **WHOLE,
            "seed": 0,
            "logprobs": 0,
            "allowed_token_ids": tokens,
            "logprob_token_ids": tokens,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
        }
        names = [f"token_id:{token}" for token in tokens]
        rows = []
        for choice in self._engine.complete(self._name, self._folder, body).choices:
            shown = (choice.logprobs.top_logprobs or (None,))[0] or {}
            if missing := [name for name in names if name not in shown]:
                raise Misconfigured(
                    f"The inference server at {self._engine.url} was asked for the log-probabilities of "
                    f"{len(names)} tokens and shows {len(names) - len(missing)}: start one that knows "
                    "logprob_token_ids, such as vLLM from 0.31 on."
                )
            rows.append(np.array([shown[name] for name in names]))
        return rows

    def _complete(self, request: SampleRequest) -> Sampled:
        prompt = self._tokenizer.encode(request.prompt, request.plain)
        body = {
            "prompt": prompt,
            "n": request.n,
            "max_tokens": max(
                1, min(request.max_tokens, min(self._tokenizer.positions, self._engine.positions) - len(prompt))
            ),
            "temperature": request.temperature,
            "seed": request.seed % SEEDS,
            **WHOLE,  # by name, or vLLM takes what the model's generation_config.json says
            **request.sampling,
            "stop_token_ids": sorted(self._tokenizer.ends),
            "logprobs": 1,
            "return_token_ids": True,
        }
        choices = self._engine.complete(self._name, self._folder, body).choices
        return Sampled(
            tuple(choice.text for choice in choices),
            tuple(choice.token_ids for choice in choices),
            tuple(choice.logprobs.token_logprobs for choice in choices),
            len(prompt),
            tuple(self._is_cut(choice) for choice in choices),
        )

    def _is_cut(self, choice: _Choice) -> bool:
        """Whether the server says so; of one that says nothing, whether the last token is none that ends an answer."""
        if choice.finish_reason:
            return choice.finish_reason == "length"
        return self._tokenizer.ends.isdisjoint(choice.token_ids[-1:])


def _require_base(folder: Path, tokenizer: HFTokenizer) -> None:
    try:
        base_name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise CheckFailed(
            f"The adapter in {folder} has no readable adapter_config.json ({wrong}); train it anew."
        ) from wrong
    if base_name != tokenizer.name:
        raise Misconfigured(
            f"The adapter in {folder} was made for the base {base_name}, not for {tokenizer.name}; train it anew."
        )
