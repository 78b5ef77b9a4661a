"""From scores over a closed vocabulary to completions: the arithmetic that the policies of labels share, and language
models where a request offers choices.

A completion is one token, one of the labels. Choices leave scores out, and biases are added to them. A label is drawn
by inverse transform from a number in [0, 1), a hash of the request and of the completion's index. So it depends on
nothing else that is asked.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from events.errors import UsageError
from runtime.policies.interface import Sampled, SampleRequest, require_whole

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
"""One float64 for each label."""


def offered(labels: Mapping[str, int], request: SampleRequest) -> tuple[list[int], Vector]:
    """The token ids on offer and their biases, as many; raises UsageError for a choice that is no label or a bias that
    does not fit.
    """
    unknown = [choice for choice in request.choices if choice not in labels]
    if unknown:
        raise UsageError(
            f"The choice {unknown[0]!r} is not one of this policy's {len(labels)} labels; offer labels only."
        )
    tokens = [labels[choice] for choice in request.choices] or list(labels.values())
    if request.bias and len(request.bias) != len(tokens):
        raise UsageError(
            f"{len(request.bias)} biases were given for {len(tokens)} choices; give one for each, or none."
        )
    bias = np.array(request.bias, np.float64) if request.bias else np.zeros(len(tokens))
    if not np.isfinite(bias).all():
        raise UsageError("A bias is not finite; leave a label out of the choices to rule it out.")
    return tokens, bias


def log_softmax(scores: Vector) -> Vector:
    """Natural log-probabilities (labels,) from scores (labels,)."""
    shifted: Vector = scores - scores.max()
    logs: Vector = shifted - np.log(np.exp(shifted).sum())
    return logs


def complete(
    labels: Mapping[str, int],
    score: Callable[[str], Vector],
    request: SampleRequest,
    best: Callable[[Vector, float], int],
) -> Sampled:
    """The completions of one request, from a function that scores all labels (labels,) for a prompt.

    `best` chooses the index of the answer at temperature 0, from the scores on offer and a number in [0, 1). Raises
    UsageError as `offered` does.
    """
    require_whole([request])
    names = list(labels)
    tokens, bias = offered(labels, request)
    scores: Vector = score(request.prompt)[tokens] + bias
    logprobs = log_softmax(scores)
    if request.temperature > 0:
        cumulative = np.cumsum(np.exp(log_softmax(scores / request.temperature)))
        indices = [_draw(cumulative, uniform(request, i)) for i in range(request.n)]
    else:
        indices = [best(scores, uniform(request, i)) for i in range(request.n)]
    return Sampled(
        tuple(names[tokens[index]] for index in indices),
        tuple((tokens[index],) for index in indices),
        tuple((float(logprobs[index]),) for index in indices),
        len(request.prompt),
        (False,) * request.n,
    )


def first_best(scores: Vector, u: float) -> int:
    """The index of the highest score, the first of equals."""
    return int(np.argmax(scores))


def any_best(scores: Vector, u: float) -> int:
    """The index of one of the highest scores, by a number in [0, 1)."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[int(u * len(best))])


def choose(
    request: SampleRequest,
    scores: Vector,
    tokens: Sequence[int],
    prompt_tokens: int,
    best: Callable[[Vector, float], int] = first_best,
) -> Sampled:
    """The completions of one request by a language model, from its logits (choices,) of the choices' tokens; `best` as
    in `complete`.
    """
    sampled = complete({choice: at for at, choice in enumerate(request.choices)}, lambda _: scores, request, best)
    return Sampled(
        sampled.texts,
        tuple((tokens[index],) for (index,) in sampled.tokens),
        sampled.logprobs,
        prompt_tokens,
        sampled.cut,
    )


def uniform(request: SampleRequest, index: int) -> float:
    """A number in [0, 1) from sha256 of (seed, prompt, choices, bias, index)."""
    key = msgspec.json.encode([request.seed, request.prompt, request.choices, request.bias, index])
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def _draw(cumulative: Vector, u: float) -> int:
    return min(int(np.searchsorted(cumulative, u * cumulative[-1], side="right")), len(cumulative) - 1)
