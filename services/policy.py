"""Serves the embedded policy over HTTP, and says of each published adapter whether it is loaded as it was trained."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from events.codec import Event
from events.errors import TryAgain, why
from events.fact import Fact
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, Canary
from runtime.blobs.directory import Blobs
from runtime.log.worker import answer, work
from runtime.policies.bases import HF, UNIFORM, EmbeddedPolicy, kind_of, open_policy
from runtime.policies.client import model_name
from runtime.policies.interface import Sampled, SampleRequest, TokenScorer
from runtime.policies.server import PolicyServer
from services.host.context import Context

Model = EmbeddedPolicy | Any
"""Embedded, or by a server: an `EnginePolicy`, imported where one is needed since it needs transformers."""
KEPT = 8
"""Models held in memory."""
TOLERANCE = 1e-3
"""Nats by which a canary's log-probabilities may differ from the trainer's: torch sums in another order than numpy."""


class Models:
    """Models by name, loaded from blobs when they are first asked for; those of Hugging Face's format have a server of their own."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs, self._folder = blobs, folder
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._engines: dict[str, Any] = {}
        self._loading, self._computing = threading.RLock(), threading.Lock()

    def sample(self, name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the model of that name; an embedded one computes one call at a time."""
        policy = self.find(name)
        with contextlib.nullcontext() if isinstance(policy, TokenScorer) else self._computing:
            return policy.sample(requests)

    def find(self, name: str) -> Model:
        """The model of that name; raises `UserError` if its blobs are missing, damaged or do not belong together."""
        with self._loading:
            base, _, adapter = name.partition("@")
            if base in self._engines and not self._engines[base].alive:
                self._engines.pop(base).close()
                self._loaded = OrderedDict((other, model) for other, model in self._loaded.items() if not other.startswith(base))
            if name not in self._loaded:
                uniform, adapter = adapter == UNIFORM, "" if adapter == UNIFORM else adapter
                base_folder = self._blobs.unpack(base, self._folder / base)
                adapter_folder = self._blobs.unpack(adapter, self._folder / adapter) if adapter else None
                if kind_of(base_folder) == HF:
                    self._loaded[name] = self._served(base, base_folder, adapter, adapter_folder, uniform)
                else:
                    self._loaded[name] = open_policy(base_folder, adapter_folder, uniform=uniform)
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def names(self) -> list[str]:
        """The models that are loaded."""
        return list(self._loaded)

    def close(self) -> None:
        """Let go of the servers."""
        for engine in self._engines.values():
            engine.close()

    def _served(self, base: str, base_folder: Path, adapter: str, adapter_folder: Path | None, uniform: bool) -> Model:
        from runtime.policies.causal import UniformTokens
        from runtime.policies.engine import EnginePolicy, connect
        from runtime.policies.hf import HFTokenizer

        words = HFTokenizer.load(base_folder)
        if uniform:
            return UniformTokens(words)
        if base not in self._engines:
            self._engines[base] = connect(words)
        return EnginePolicy(self._engines[base], words, adapter, adapter_folder)


def judge(models: Models, published: AdapterPublished) -> Fact:
    """Load the adapter and compare its canary: served, or rejected with the reason."""
    place = {
        "generation": published.generation,
        "round": published.round,
        "adapter": published.adapter,
        "batch": published.batch,
    }
    try:
        policy = models.find(model_name(published.base_model, published.adapter))
        error = max((apart(shown(policy, canary), canary) for canary in published.canary), default=0.0)
    except TryAgain:
        raise  # this is handed out again
    except Exception as wrong:  # whatever a folder of any content makes a loader raise
        return AdapterRejected(**place, reason=why(wrong))  # type: ignore[arg-type]
    tolerance = getattr(policy, "tolerance", TOLERANCE)
    if not error <= tolerance:
        return AdapterRejected(**place, reason=f"its canary differs from the trainer's by {error:.2g} nats, at most {tolerance:g}")  # type: ignore[arg-type]
    return AdapterServed(**place, error=error)  # type: ignore[arg-type]


def shown(policy: Model, canary: Canary) -> Sequence[float]:
    """What the policy says to a canary."""
    return policy.score(canary.prompt, canary.tokens) if isinstance(policy, TokenScorer) else policy.log_probs(canary.prompt)


def apart(shown: Sequence[float], canary: Canary) -> float:
    """Nats: the mean over a canary's tokens, whose roundings differ by chance; the most of any first token."""
    each = [abs(mine - theirs) for mine, theirs in zip(shown, canary.logprobs, strict=True)]
    return fmean(each) if canary.tokens else max(each)


async def serve(context: Context) -> None:
    """Answer calls in a thread, and vouch for adapters as they are published."""
    models = Models(context.blobs, context.work)
    port = urlsplit(context.node.policy_url()).port or 0
    server = PolicyServer(port, context.policy_token(), models.sample, models.names)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        await vouch(context, models)
    finally:
        server.shutdown()
        models.close()


async def vouch(context: Context, models: Models) -> None:
    """Say of each published adapter whether it is served."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            assert isinstance(event.data, AdapterPublished)
            outputs.append(answer(await asyncio.to_thread(judge, models, event.data), event, "policy"))
        return outputs

    await work(context.log, perform, source="policy", scanner=context.scanner)
