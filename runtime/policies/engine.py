"""A policy behind a server with vLLM's interface: vLLM itself, or the small server of `hf_server`, started here where
none is named.

Prompts go as token ids, so that the server reads what the trainer trains on; each adapter version is loaded under a
name and from a path of its own, as vLLM's prefix cache needs (vllm#42125).

A server may be started again, and forget its adapters. It may break completions off, and it may answer with another
model than was asked for. None of that becomes a completion here: what can be repeated is, and the rest is an error.
"""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import numpy as np

from events.errors import CheckFailed, Misconfigured, NotFound, NotHere, TryAgain, UsageError, hosts_own
from runtime.policies import closed_vocabulary
from runtime.policies.client import CALL_TIMEOUT, KEY_VARIABLE, OWN_VERSION, PATIENCE, Caller, engine_url, reason
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
TRIES = 3
"""How often a call is made whose adapter the server has forgotten, or whose completions it broke off."""
FINISHED = ("stop", "length")
"""The reasons for which a whole completion ends. Another one, such as vLLM's `abort`, says that it was broken off."""
IMPOSSIBLE: Mapping[str, float] = {
    "top_p": 2,
    "top_k": -7,
    "min_p": 2,
    "presence_penalty": 9,
    "frequency_penalty": 9,
    "repetition_penalty": -1,
}
"""Values of sampling's settings that a server which reads them refuses."""
DIGEST = re.compile("[0-9a-f]{64}")
"""What evolog names adapters by."""
ONE_TOKEN: Mapping[str, object] = {
    **WHOLE,
    "max_tokens": 1,
    "temperature": 1,
    "seed": 0,
    "logprobs": 0,
    "return_token_ids": True,
}
"""What a call asks for that is about log-probabilities, and not about the token that comes with them."""

T = TypeVar("T")


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
    model: str = ""


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: tuple[_Model, ...]


class Engine:
    """A client of one server of one base model. For any thread. Raises TryAgain where the server does not answer or
    fails, and NotHere where it answers as no server of this model would.
    """

    def __init__(self, url: str, key: str, patience: float = PATIENCE) -> None:
        self.url, self._key, self._patience = url, key, patience
        self._mine = threading.local()
        self.loads = Counter[str]()
        """How often each adapter was loaded by this client."""
        self._loading = threading.Lock()
        self.pool = ThreadPoolExecutor(CONCURRENT)
        models = self._models()
        base = next(model for model in models if not model.parent)
        self.base, self.root, self.positions = base.id, base.root or base.id, base.max_model_len or UNLIMITED
        self._loaded: OrderedDict[str, Path | None] = OrderedDict(
            (model.id, None) for model in models if model.parent and DIGEST.fullmatch(model.id)
        )
        """The adapters on the server by their last use; those without a folder are of an earlier process."""
        version = json.loads(self.ask("GET", "/version"))
        self.tolerance = EXACT if version.get("dtype") == "float32" else ROUNDED
        self.reads_prompts = version.get("version") == OWN_VERSION
        """Whether it gives the log-probabilities of a prompt as it gives those of completions.

        vLLM does not: under an adapter it computes them by another path, which ends the server on a CPU when other
        calls are under way, and leaves out what the adapter adds to the last layer (vllm#16668, vllm#51594).
        """
        self._require_settings()

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
        said = f"refused {path}: {reason(answer)}"
        match status:
            case 200:
                return bytes(answer)
            case 401 | 403:
                raise NotHere(f"The inference server at {self.url} {said}; set {KEY_VARIABLE} to its key.")
            case 404:
                raise NotFound(f"The inference server at {self.url} {said}")
            case _ if status >= 500:
                raise TryAgain(f"The inference server at {self.url} failed with {status} at {path}: {reason(answer)}")
            case _:
                raise UsageError(f"The inference server at {self.url} {said}")

    def _models(self) -> tuple[_Model, ...]:
        return self._decode(self.ask("GET", "/v1/models"), _Models).data

    def _decode(self, answer: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as wrong:
            raise NotHere(
                f"The inference server at {self.url} gave an answer that vLLM would not ({wrong}); see that it is "
                "vLLM, of the version that pyproject.toml names."
            ) from wrong

    def _require_settings(self) -> None:
        """Raise Misconfigured for a server that refuses the settings of sampling, or does not read them, since its own
        may be others than those that it is sent; and NotHere for one that gives no token ids.
        """
        try:
            self.complete(self.base, None, {**ONE_TOKEN, "prompt": [0]})
        except UsageError as wrong:
            raise Misconfigured(
                f"{str(wrong).removesuffix('.')}. Expected was one token, of the whole distribution; take vLLM."
            ) from wrong
        for name, value in IMPOSSIBLE.items():
            call = {"model": self.base, "prompt": [0], "max_tokens": 1, name: value}
            with contextlib.suppress(UsageError):
                self.ask("POST", "/v1/completions", call)
                raise Misconfigured(
                    f"The inference server at {self.url} does not read {name}: it answered a call with {value:g}, "
                    "which is impossible. So its own value may shape what it samples; take vLLM."
                )

    def require_base(self) -> None:
        """Raise NotHere where the server serves another base model than when this client came to it."""
        if (self.base, self.root) not in [(model.id, model.root or model.id) for model in self._models()]:
            raise NotHere(
                f"The inference server at {self.url} no longer serves {self.base} from {self.root}: start it again "
                "with that model, or evolog anew."
            )

    def load(self, name: str, folder: Path) -> int:
        """Load an adapter under a name, in place of the least recently used where there are too many, and say how often
        it was loaded so far.

        Raises Misconfigured for a server that loads no adapters, and UsageError where it refuses this one.
        """
        with self._loading:
            if self._loaded.get(name) != folder:
                self._replace(name, folder)
            self._loaded.move_to_end(name)
            return self.loads[name]

    def reload(self, name: str, folder: Path, loads: int) -> None:
        """Load an adapter again, unless somebody did since it was loaded for that time."""
        with self._loading:
            if self.loads[name] == loads:
                self._replace(name, folder)

    def _replace(self, name: str, folder: Path) -> None:
        self._loaded.pop(name, None)
        self._unload(name)
        while len(self._loaded) >= ADAPTERS:
            self._unload(self._loaded.popitem(last=False)[0])
        try:
            self.ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except NotFound as wrong:
            fix = (
                "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, where the folder can be read"
            )
            raise Misconfigured(f"{wrong} Adapters cannot be loaded there: {fix}.") from wrong
        except UsageError:  # it is loaded where the answer to a first call was lost
            if (name, str(folder)) not in [(model.id, model.root) for model in self._models()]:
                raise
        self._loaded[name] = folder
        self.loads[name] += 1

    def _unload(self, name: str) -> None:
        with contextlib.suppress(NotFound, UsageError):  # it was not there, or the server has let go of it already
            self.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, name: str, folder: Path | None, body: dict[str, object]) -> _Completion:
        """Whole completions by the base, or by the adapter in `folder`.

        The call is made again where the server has dropped the adapter, which is then loaded again, where it answers by
        another model, and where it broke completions off. Raises TryAgain where that does not help.
        """
        for _ in range(TRIES):
            with hosts_own():  # whatever is wrong with an adapter that was served
                loads = self.load(name, folder) if folder else 0
            try:
                answer = self._decode(self.ask("POST", "/v1/completions", {**body, "model": name}), _Completion)
            except NotFound as missing:
                fault = str(missing)
            else:
                broken = {str(choice.finish_reason) for choice in answer.choices}.difference(FINISHED)
                if answer.model != name:
                    fault = f"it answered by the model {answer.model!r}"
                elif broken:
                    fault = f"it broke completions off ({', '.join(sorted(broken))})"
                    continue
                else:
                    return self._of_length(answer, body)
            with hosts_own():
                if folder:
                    self.reload(name, folder, loads)
                else:
                    self.require_base()
        raise TryAgain(f"The inference server at {self.url} was asked {TRIES} times for {name}: {fault}.")

    def _of_length(self, answer: _Completion, body: Mapping[str, object]) -> _Completion:
        prompt, n = cast("Sequence[object]", body["prompt"]), cast("int", body.get("n", 1))
        count = n * (1 if isinstance(prompt[0], int) else len(prompt))
        if len(answer.choices) != count:
            raise NotHere(
                f"The inference server at {self.url} gave {len(answer.choices)} completions where {count} were asked "
                "for; see that it is vLLM."
            )
        return answer

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

    @property
    def process(self) -> int:
        """The number of the server's process."""
        return self._child.pid

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

    def reload(self) -> None:
        """Have the server load the adapter again."""
        if self._folder:
            self._engine.reload(self._name, self._folder, self._engine.loads[self._name])

    def require_base(self) -> None:
        """Raise NotHere where the server serves another base model by now."""
        self._engine.require_base()

    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens after a prompt, as the server computes it."""
        return self.score_some(prompt, tokens, range(len(tokens)))

    def score_some(self, prompt: str, tokens: Sequence[int], indices: Sequence[int]) -> list[float]:
        """As `score`, of the tokens at these indices alone."""
        start = self._tokenizer.encode(prompt)
        if self._engine.reads_prompts:
            body = {**ONE_TOKEN, "prompt": [*start, *tokens], "prompt_logprobs": 0}
            shown = self._engine.complete(self._name, self._folder, body).choices[0].prompt_logprobs or ()
            logs = cast("Sequence[dict[str, _Logprob]]", shown)  # it is the prompt's first token alone that has none
            return [logs[len(start) + index][str(tokens[index])].logprob for index in indices]
        wanted = sorted({tokens[index] for index in indices})
        rows = self._first_logprobs([(*start, *tokens[:index]) for index in indices], wanted)
        return [row[wanted.index(tokens[index])] for row, index in zip(rows, indices, strict=True)]

    def _choice_scores(self, call: tuple[tuple[int, ...], Sequence[tuple[int, ...]]]) -> list[np.ndarray]:
        """The log-probabilities (choices,) of the choices' tokens after each prompt, for (tokens, prompts)."""
        tokens, prompts = call
        return [np.array(row) for row in self._first_logprobs(prompts, tokens, allowed_token_ids=tokens)]

    def _first_logprobs(
        self, prompts: Sequence[tuple[int, ...]], tokens: Sequence[int], **settings: object
    ) -> Iterator[list[float]]:
        """The log-probabilities (tokens,), among all of the vocabulary, of these tokens as the first after each
        prompt.
        """
        logprobs = {"logprob_token_ids": tokens, "return_tokens_as_token_ids": True}
        body = {**ONE_TOKEN, "prompt": prompts, **logprobs, **settings}
        names = [f"token_id:{token}" for token in tokens]
        for choice in self._engine.complete(self._name, self._folder, body).choices:
            shown = (choice.logprobs.top_logprobs or (None,))[0] or {}
            if missing := [name for name in names if name not in shown]:
                raise NotHere(
                    f"The inference server at {self._engine.url} was asked for the log-probabilities of "
                    f"{len(names)} tokens and shows {len(names) - len(missing)}: start one that knows "
                    "logprob_token_ids, such as vLLM from 0.31 on."
                )
            yield [shown[name] for name in names]

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
            "logprobs": 0,  # more would be wrong for token 0 where vLLM computes other calls' logprob_token_ids with it
            "return_token_ids": True,
        }
        choices = self._engine.complete(self._name, self._folder, body).choices
        return Sampled(
            tuple(choice.text for choice in choices),
            tuple(choice.token_ids for choice in choices),
            tuple(choice.logprobs.token_logprobs for choice in choices),
            len(prompt),
            tuple(choice.finish_reason == "length" for choice in choices),
        )


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
