"""Serving: models by name, loaded from blobs, and whether a published adapter is loaded as it was trained."""

import itertools
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

from events.errors import NotHere, hosts_own, raise_if_hosts, why
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, Canary
from runtime.blobs.directory import Blobs
from runtime.policies.bases import HF, UNIFORM, EmbeddedPolicy, kind_of, open_policy
from runtime.policies.client import model_name
from runtime.policies.interface import Sampled, SampleRequest, TokenScorer

ServedModel = EmbeddedPolicy | Any
"""Embedded, or reached through a server: an `EnginePolicy`, imported only where one is needed since it needs
transformers.
"""
MODELS_HELD = 8
"""Models held in memory."""
SCREENED = 4
"""Tokens of a canary that are scored after a call; all of them are where these are off."""
TOLERANCE = 1e-3
"""Nats by which a canary's log-probabilities may differ from the trainer's: torch sums in another order than numpy."""


class ServedModels:
    """Models by name, loaded from blobs when they are first asked for; those of Hugging Face's format have a server of
    their own.

    `find_canaries` gives those that an adapter was published with, by its digest, and is asked once for each. `doing`
    hears of each model that is loaded, for as long as that takes.
    """

    def __init__(
        self,
        blobs: Blobs,
        folder: Path,
        find_canaries: Callable[[str], Sequence[Canary]] = lambda adapter: (),
        doing: Callable[[str], AbstractContextManager[None]] = lambda doing: nullcontext(),
    ) -> None:
        self._blobs, self._folder, self._find_canaries, self._doing = blobs, folder, find_canaries, doing
        self._canaries: dict[str, Sequence[Canary]] = {}
        self._turn = itertools.count()
        self._loaded: OrderedDict[str, ServedModel] = OrderedDict()
        self._engines: dict[str, Any] = {}
        self._loading, self._computing = threading.RLock(), threading.Lock()

    def sample(self, name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request by the model of that name; an embedded model computes one call at a time.

        A server may have come to answer with other weights since the adapter was published. So one of its canaries is
        scored after each call, and the call is made again, once, where that differs from the trainer's.
        Raises `NotHere` for a model that this host cannot load, whatever is wrong with it: those who call have been
        offered it.
        """
        with hosts_own():
            policy = self.find(name)
        if not isinstance(policy, TokenScorer):  # it is in this process
            with self._computing:
                return policy.sample(requests)
        return self._sample_checked(name, policy, requests)

    def _sample_checked(self, name: str, policy: Any, requests: Sequence[SampleRequest]) -> list[Sampled]:
        sampled: list[Sampled] = policy.sample(requests)
        with hosts_own():
            if not self._wrong_by(name, policy):
                return sampled
            policy.reload()
        sampled = policy.sample(requests)
        with hosts_own():
            if error := self._wrong_by(name, policy):
                raise NotHere(
                    f"The inference server answers to adapter {name.partition('@')[2]} with other weights than were "
                    "published, also after it has loaded them again: a canary differs from the trainer's by "
                    f"{error:.2g} nats, at most {policy.tolerance:g}. Start the server again, and see that nobody else "
                    "loads adapters there."
                )
        return sampled

    def _wrong_by(self, name: str, policy: Any) -> float:
        """By how many nats one of the adapter's canaries, each in turn, differs from the trainer's, if it is too much;
        else 0.

        A few of its tokens are scored, and all where these are off: the fewer, the more their mean owes to rounding.
        Of a base alone, `NotHere` is raised where it is no longer the one that is served.
        """
        adapter = name.partition("@")[2]
        if not adapter:
            policy.require_base()
            return 0.0
        if not (canaries := self._canaries_of(adapter)):
            return 0.0
        turn = next(self._turn)
        canary = canaries[turn % len(canaries)]
        step = max(1, len(canary.tokens) // SCREENED)
        indices = range(turn % step, len(canary.tokens), step)[:SCREENED]
        some = Canary(
            canary.prompt,
            tuple(canary.logprobs[index] for index in indices),
            tuple(canary.tokens[index] for index in indices),
        )
        if canary_error(policy.score_some(canary.prompt, canary.tokens, indices), some) <= policy.tolerance:
            return 0.0
        error = canary_error(canary_log_probs(policy, canary), canary)
        return 0.0 if error <= policy.tolerance else error

    def _canaries_of(self, adapter: str) -> Sequence[Canary]:
        if adapter not in self._canaries:
            self._canaries[adapter] = self._find_canaries(adapter)
        return self._canaries[adapter]

    def require_agreed(self, name: str) -> None:
        """Load the model of that name, and compare its canaries with the trainer's; raises `NotHere` where this host
        cannot load it, or where they differ.
        """
        with hosts_own():
            policy, adapter = self.find(name), name.partition("@")[2]
            canaries = self._canaries_of(adapter) if adapter not in ("", UNIFORM) else ()
            error, tolerance = worst_canary(policy, canaries)
        if not error <= tolerance:
            raise NotHere(
                f"Adapter {adapter} as this host loads it differs from the trainer's by {error:.2g} nats on a canary, "
                f"at most {tolerance:g}: another host must serve it."
            )

    def find(self, name: str) -> ServedModel:
        """The model of that name; raises `UserError` if its blobs are missing, damaged or do not belong together."""
        with self._loading:
            base, _, adapter = name.partition("@")
            if base in self._engines and not self._engines[base].alive:
                self._engines.pop(base).close()
                self._loaded = OrderedDict(
                    (loaded_name, model)
                    for loaded_name, model in self._loaded.items()
                    if not loaded_name.startswith(base)
                )
            if name not in self._loaded:
                with self._doing(f"loads the model {base[:12]}{f' with adapter {adapter[:12]}' if adapter else ''}"):
                    self._loaded[name] = self._load(base, adapter)
                while len(self._loaded) > MODELS_HELD:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _load(self, base: str, adapter: str) -> ServedModel:
        uniform, adapter = adapter == UNIFORM, "" if adapter == UNIFORM else adapter
        base_folder = self._blobs.unpack(base, self._folder / base)
        adapter_folder = self._blobs.unpack(adapter, self._folder / adapter) if adapter else None
        if kind_of(base_folder) == HF:
            return self._through_server(base, base_folder, adapter, adapter_folder, uniform)
        model = open_policy(base_folder, adapter_folder, uniform=uniform)
        if adapter_folder is not None:  # it is in memory now
            shutil.rmtree(adapter_folder)
        return model

    def names(self) -> list[str]:
        """The models that are loaded."""
        return list(self._loaded)

    def close(self) -> None:
        """Stop the servers of models of Hugging Face's format."""
        for engine in self._engines.values():
            engine.close()

    def _through_server(
        self, base: str, base_folder: Path, adapter: str, adapter_folder: Path | None, uniform: bool
    ) -> ServedModel:
        from runtime.policies.causal import UniformTokens
        from runtime.policies.engine import EnginePolicy, connect
        from runtime.policies.hf import HFTokenizer

        tokenizer = HFTokenizer.load(base_folder)
        if uniform:
            return UniformTokens(tokenizer)
        if base not in self._engines:
            self._engines[base] = connect(tokenizer)
        return EnginePolicy(self._engines[base], tokenizer, adapter, adapter_folder)


def check_adapter(models: ServedModels, published: AdapterPublished) -> AdapterServed | AdapterRejected:
    """Load a published adapter and compare its canary prompts with the trainer's log-probabilities: served, or rejected
    with the reason.

    Raises `TryAgain` where there is no room or server for the moment, and `NotHere` where this host lacks the blobs.
    """
    common_fields: dict[str, Any] = {
        "generation": published.generation,
        "round": published.round,
        "adapter": published.adapter,
        "batch": published.batch,
    }
    try:
        policy = models.find(model_name(published.base_model, published.adapter))
        error, tolerance = worst_canary(policy, published.canary)
    except Exception as wrong:  # whatever a folder of any content makes a loader raise
        raise_if_hosts(wrong, by_words=True)
        return AdapterRejected(**common_fields, reason=why(wrong))
    if not error <= tolerance:
        return AdapterRejected(
            **common_fields, reason=f"its canary differs from the trainer's by {error:.2g} nats, at most {tolerance:g}"
        )
    return AdapterServed(**common_fields, error=error)


def worst_canary(policy: ServedModel, canaries: Sequence[Canary]) -> tuple[float, float]:
    """How far a policy is from the trainer's on the worst of some canaries, in nats, and how far it may be."""
    errors = (canary_error(canary_log_probs(policy, canary), canary) for canary in canaries)
    return max(errors, default=0.0), getattr(policy, "tolerance", TOLERANCE)


def canary_log_probs(policy: ServedModel, canary: Canary) -> Sequence[float]:
    """The policy's log-probabilities, in nats, of a canary's tokens, or of every first token where it has none."""
    return (
        policy.score(canary.prompt, canary.tokens)
        if isinstance(policy, TokenScorer)
        else policy.log_probs(canary.prompt)
    )


def canary_error(log_probs: Sequence[float], canary: Canary) -> float:
    """How far log-probabilities are from the trainer's, in nats.

    Over a canary's tokens, whose roundings differ by chance, the mean of the absolute differences; over first tokens
    the largest.
    """
    differences = [abs(mine - theirs) for mine, theirs in zip(log_probs, canary.logprobs, strict=True)]
    return fmean(differences) if canary.tokens else max(differences)
