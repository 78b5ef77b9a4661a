"""Language models as policies in this process: a base alone, a base with an adapter, or a uniform choice from its
vocabulary.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from algorithms.models import tiny_lm
from algorithms.models.sampling import CompletionRequest, Sampler, SamplerBase
from runtime.policies import closed_vocabulary
from runtime.policies.interface import Sampled, SampleRequest, require_fitting_bias, require_whole


class CausalPolicy:
    """A language model that answers freely, or with one of a request's choices, which it takes by their first tokens.
    For one thread at a time.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request. Equal requests get equal completions, whatever else is asked with them.

        Raises UsageError for a request with choices that it cannot tell apart or biases that do not fit, one that
        narrows the distribution, or whose prompt is too long.
        """
        require_whole(requests)
        require_fitting_bias(requests)
        chosen = iter(self._choose([request for request in requests if request.choices]))
        free = iter(self._complete([request for request in requests if not request.choices]))
        return [next(chosen if request.choices else free) for request in requests]

    def _choose(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        base = self._sampler.base
        asked = [
            (base.encode(request.prompt, request.plain), base.encode_choices(request.choices, request.plain))
            for request in requests
        ]
        scores = self._sampler.scores.after("", asked)
        return [
            closed_vocabulary.choose(request, logits, tokens, len(prompt))
            for request, (prompt, tokens), logits in zip(requests, asked, scores, strict=True)
        ]

    def _complete(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        base = self._sampler.base
        prompts = [base.encode(request.prompt, request.plain) for request in requests]
        completion_requests = [
            CompletionRequest(
                prompt=prompt,
                seed=request.seed,
                index=index,
                temperature=request.temperature,
                max_tokens=request.max_tokens,
            )
            for request, prompt in zip(requests, prompts, strict=True)
            for index in range(request.n)
        ]
        completions = iter(self._sampler.sample(completion_requests))
        sampled = []
        for request, prompt in zip(requests, prompts, strict=True):
            answers = [next(completions) for _ in range(request.n)]
            sampled.append(
                Sampled(
                    tuple(answer.text for answer in answers),
                    tuple(answer.tokens for answer in answers),
                    tuple(answer.logprobs for answer in answers),
                    len(prompt),
                    tuple(answer.cut for answer in answers),
                )
            )
        return sampled

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""
        return self._sampler.next_log_probs(prompt)


class UniformTokens:
    """The uniform policy over tokens: all tokens of the vocabulary are equally probable, those that end an answer
    included. Where there are choices, these are, but for their biases.
    """

    def __init__(self, base: SamplerBase) -> None:
        self._base = base

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request, at any temperature; raises UsageError for one that narrows the
        distribution.
        """
        require_whole(requests)
        require_fitting_bias(requests)
        return [self._complete(request) for request in requests]

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""
        return [-math.log(self._base.vocabulary)] * self._base.vocabulary

    def _complete(self, request: SampleRequest) -> Sampled:
        read = len(self._base.encode(request.prompt, request.plain))
        if request.choices:
            offered = self._base.encode_choices(request.choices, request.plain)
            return closed_vocabulary.choose(request, np.zeros(len(offered)), offered, read, closed_vocabulary.any_best)
        completions = []
        for index in range(request.n):
            draw = random.Random(f"{request.seed} {index} {request.prompt}")
            tokens: list[int] = []
            while len(tokens) < request.max_tokens and not self._base.ends.intersection(tokens[-1:]):
                tokens.append(draw.randrange(self._base.vocabulary))
            completions.append(tuple(tokens))
        texts = tuple(self._base.decode(tokens) for tokens in completions)
        logprobs = tuple((-math.log(self._base.vocabulary),) * len(tokens) for tokens in completions)
        cut = tuple(not self._base.ends.intersection(tokens[-1:]) for tokens in completions)
        return Sampled(texts, tuple(completions), logprobs, read, cut)


def open_policy(base: Path, adapter: Path | None, *, uniform: bool = False) -> CausalPolicy | UniformTokens:
    """Open tiny-lm from a base folder, with the adapter of a peft folder if one is given; `uniform` as
    `bases.open_policy` has it.

    Raises NotFound, CheckFailed or Misconfigured for a folder that is missing, damaged or of another base.
    """
    model = tiny_lm.TinyLM.load(base)
    return UniformTokens(model) if uniform else CausalPolicy(model.sampler(adapter))
