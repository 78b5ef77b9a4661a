"""The interface of every policy: requests for completions, and completions with their token ids and
log-probabilities.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from events.errors import UsageError

WHOLE: Mapping[str, float] = {
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}
"""The settings of sampling, by vLLM's names, that leave the whole distribution as the temperature makes it."""


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a policy, for `n` completions of a prompt.

    `choices` restricts the completion to one of these texts (empty: whatever the model's vocabulary allows). `bias` is
    added to their logits, as OpenAI's `logit_bias` is to those of tokens. A temperature of 0 takes the most probable.
    `sampling` holds settings in place of those in `WHOLE`. A language model reads a `plain` prompt as text that goes
    on, and any other as a user's turn.
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
    sampling: dict[str, float] = msgspec.field(default_factory=dict)
    plain: bool = False

    @property
    def narrowing(self) -> dict[str, float]:
        """The settings of `sampling` under which completions are of another distribution than the whole one."""
        whole = {**WHOLE, "top_k": min(0, self.sampling.get("top_k", 0))}  # which some servers call -1, others 0
        return {name: value for name, value in self.sampling.items() if whole.get(name) != value}


class Sampled(msgspec.Struct, frozen=True):
    """The completions of one call: each one's text, token ids and natural log-probabilities.

    The log-probabilities are those at temperature 1 among the choices on offer, whatever the temperature of the
    request.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0
    cut: tuple[bool, ...] = ()
    """Of each completion, whether it ended because it reached the most tokens that there was room for.

    Empty where that is not known.
    """

    def is_cut(self, index: int, max_tokens: int) -> bool:
        """Whether a completion was cut; where that is not known, whether it has `max_tokens` tokens."""
        return self.cut[index] if self.cut else len(self.tokens[index]) >= max_tokens


def require_whole(requests: Sequence[SampleRequest]) -> None:
    """Raise UsageError for a request that a policy would have to narrow its distribution for."""
    for request in requests:
        if request.narrowing:
            name, value = next(iter(request.narrowing.items()))
            raise UsageError(
                f"This policy samples from its whole distribution, and {name} {value:g} was asked for; ask without it."
            )


def require_fitting_bias(requests: Sequence[SampleRequest]) -> None:
    """Raise UsageError for a request of a language model with biases and no choices that they belong to."""
    for request in requests:
        if request.bias and not request.choices:
            raise UsageError(
                f"{len(request.bias)} biases were given without choices; a language model adds them to choices alone."
            )


@runtime_checkable
class TokenScorer(Protocol):
    """A policy that gives the log-probabilities of given tokens, since its vocabulary is too large for those of all."""

    def score(self, prompt: str, tokens: Sequence[int]) -> list[float]:
        """The natural log-probability of each of the tokens, one after the other, after a prompt."""
