"""How many bits the verifier's answers have told the loop, and how far they may have moved its scores: a meter and a reason to stop.

    bits = sum over questions of log2 |possible answers|;   |E[bias]| <= sqrt(I / (2 n)),  I in nats, scores in [0, 1], n tasks

Russo & Zou 2016, arXiv 1511.05219; Xu & Raginsky 2017, arXiv 1705.07809, theorem 1. After tens of bits the bound says nothing: it is
no certificate. Imports no numpy.
"""

from math import lgamma, log, log2, sqrt

BITS_OF_DECISION = 1.0
"""Accepted or rejected."""
BITS_OF_FLOAT = 64.0
"""A score of rewards that are not only 0 and 1, as it is written: no fewer is certain."""


def bits_of_score(n: int) -> float:
    """log2(n + 1): a count of passes among n tasks. Raises ValueError for n < 1."""
    _at_least(n, 1, "tasks")
    return log2(n + 1)


def bits_of_vector(n: int, outcomes: int = 2) -> float:
    """n log2(outcomes): each of n tasks' own outcome. Raises ValueError for n < 1 or fewer than two outcomes."""
    _at_least(n, 1, "tasks")
    _at_least(outcomes, 2, "outcomes")
    return n * log2(outcomes)


def bits_of_text(tokens: int, vocabulary: int) -> float:
    """tokens log2(vocabulary): the most that a text can tell. Raises ValueError for tokens < 0 or a vocabulary below 2."""
    _at_least(tokens, 0, "tokens")
    _at_least(vocabulary, 2, "words in the vocabulary")
    return tokens * log2(vocabulary)


def bits_of_ladder(k: int, released: int, eta: float) -> float:
    """log2 C(k, B) + B log2(1 / eta): which B of k questions were answered anew, and with which of 1 / eta values (losses in [0, 1]).

    Raises ValueError unless 0 <= B <= k and 0 < eta <= 1.
    """
    if not 0 <= released <= k or not 0 < eta <= 1:
        raise ValueError(f"{released} releases of {k} questions at step {eta}; expected 0 <= releases <= questions and a step in (0, 1]")
    chosen = (lgamma(k + 1) - lgamma(released + 1) - lgamma(k - released + 1)) / log(2)
    return chosen - released * log2(eta)


def bias_bound(bits: float, n: int) -> float:
    """sqrt(bits ln 2 / (2 n)): the largest expected bias of a mean of n scores in [0, 1]. Raises ValueError for bits < 0 or n < 1."""
    _at_least(n, 1, "tasks")
    _at_least(bits, 0, "bits")
    return sqrt(bits * log(2) / (2 * n))


def _at_least(given: float, least: int, what: str) -> None:
    if not given >= least:
        raise ValueError(f"{given} {what}; expected {least} or more")
