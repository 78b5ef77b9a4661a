"""The interface of every policy: requests for completions, and completions with their token ids and
log-probabilities.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a policy, for `n` completions of a prompt.

    `choices` restricts the completion to one of these texts (empty: whatever the model's vocabulary allows). `bias` is
    added to their logits, as OpenAI's `logit_bias` is to those of tokens. A temperature of 0 takes the most probable.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    bias: tuple[float, ...] = ()
    n: int = 1
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = 64
    hint: str = ""
    """A text that the model is shown after the prompt.

    The client joins the two; training takes the prompt alone, and so needs no hint.
    """


class Sampled(msgspec.Struct, frozen=True):
    """The completions of one call: each one's text, token ids and natural log-probabilities.

    The log-probabilities are those at temperature 1 among the choices on offer, whatever the temperature of the
    request.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0


@runtime_checkable
class TokenScorer(Protocol):
    """A policy that gives the log-probabilities of given tokens, since its vocabulary is too large for those of all."""

    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens, one after the other, after a prompt."""
