"""What every policy offers: completions of a prompt, with token ids and the log-probabilities at which they were sampled."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call: `n` completions of a prompt.

    `choices` restricts the completion to one of these texts (empty: whatever the model's vocabulary allows), and `bias` is added to
    their logits, as OpenAI's `logit_bias` is to those of tokens. A temperature of 0 takes the most probable.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    bias: tuple[float, ...] = ()
    n: int = 1
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = 64
    hint: str = ""
    """What the model is shown after the prompt and does not learn to need: the client joins them, training takes the prompt alone."""


class Sampled(msgspec.Struct, frozen=True):
    """The completions of one call. `logprobs` are natural, of the tokens as sampled at temperature 1 from what was on offer."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0


@runtime_checkable
class TokenScorer(Protocol):
    """A policy of so large a vocabulary that it shows log-probabilities of given tokens alone."""

    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens, one after the other, after a prompt."""
