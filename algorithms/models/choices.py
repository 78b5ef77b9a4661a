"""Answers that are one of a few: a language model takes each by its first token, and chooses among these alone."""

from collections.abc import Sequence

import torch

from events.errors import UsageError

NEVER = -1e9
"""The bias of a place that pads a row of choices."""


def first_tokens(choices: Sequence[str], encoded: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The first token of each choice, from the tokens of each.

    Raises UsageError for a choice that is empty, and for two that begin with the same token, which a distribution over
    the next token cannot tell apart.
    """
    by_token: dict[int, str] = {}
    for choice, tokens in zip(choices, encoded, strict=True):
        if not tokens:
            raise UsageError("A choice is empty; a language model takes each by its first token.")
        if tokens[0] in by_token:
            raise UsageError(
                f"The choices {by_token[tokens[0]]!r} and {choice!r} begin with the same token, and a language model "
                "takes each by its first; offer words that begin differently, or letters."
            )
        by_token[tokens[0]] = choice
    return tuple(by_token)


def pad_choices(tokens: Sequence[Sequence[int]], bias: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of choices' tokens and their biases (rows, most), padded with what is never chosen."""
    most = max(map(len, tokens))
    ids = [[*row, *[0] * (most - len(row))] for row in tokens]
    biases = [
        [*(row_bias or [0.0] * len(row)), *[NEVER] * (most - len(row))]
        for row, row_bias in zip(tokens, bias, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(biases)
