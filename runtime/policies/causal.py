"""Causal language models as policies, in this process: the base alone, with an adapter, or with nothing but chance."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

from algorithms.models import tiny_lm
from algorithms.models.sampling import CompletionRequest, Sampler, SamplerBase
from events.errors import UsageError
from runtime.policies.interface import Sampled, SampleRequest


class CausalPolicy:
    """Answers freely: it takes no choices and no bias. One thread at a time."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request; the same for the same request, whatever else is asked with it."""
        for request in requests:
            if request.choices or request.bias:
                raise UsageError("This policy answers freely and takes no choices and no bias; ask it with the prompt alone.")
        base = self._sampler.base
        prompts = [base.encode(request.prompt) for request in requests]
        asks = [
            CompletionRequest(prompt=prompt, seed=request.seed, place=place, temperature=request.temperature, max_tokens=request.max_tokens)
            for request, prompt in zip(requests, prompts, strict=True)
            for place in range(request.n)
        ]
        done = iter(self._sampler.sample(asks))
        found = []
        for request, prompt in zip(requests, prompts, strict=True):
            mine = [next(done) for _ in range(request.n)]
            found.append(
                Sampled(
                    tuple(one.text for one in mine),
                    tuple(one.tokens for one in mine),
                    tuple(one.logprobs for one in mine),
                    len(prompt),
                )
            )
        return found

    def log_probs(self, prompt: str) -> list[float]:
        """The log-probability of each first token."""
        return self._sampler.next_log_probs(prompt)


class UniformTokens:
    """The policy that knows nothing: every token of the vocabulary is as probable as the next, those that end an answer included."""

    def __init__(self, base: SamplerBase) -> None:
        self._base = base

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request, at any temperature."""
        return [self._one(request) for request in requests]

    def log_probs(self, prompt: str) -> list[float]:
        """The log-probability of each first token."""
        return [-math.log(self._base.vocabulary)] * self._base.vocabulary

    def _one(self, request: SampleRequest) -> Sampled:
        found = []
        for place in range(request.n):
            draw = random.Random(f"{request.seed} {place} {request.prompt}")
            tokens: list[int] = []
            while len(tokens) < request.max_tokens and not self._base.ends.intersection(tokens[-1:]):
                tokens.append(draw.randrange(self._base.vocabulary))
            found.append(tuple(tokens))
        texts = tuple(self._base.decode(tokens) for tokens in found)
        logprobs = tuple((-math.log(self._base.vocabulary),) * len(tokens) for tokens in found)
        return Sampled(texts, tuple(found), logprobs, len(self._base.encode(request.prompt)))


def open_policy(base: Path, adapter: Path | None, *, uniform: bool = False) -> CausalPolicy | UniformTokens:
    """The embedded language model of a base folder and, if given, a peft folder; raises NotFound, CheckFailed or Misconfigured."""
    model = tiny_lm.TinyLM.load(base)
    return UniformTokens(model) if uniform else CausalPolicy(model.sampler(adapter))
