"""The winner's optimism: how much better than it is the best of k candidates seems, by luck alone.

    optimism = E[max of k scores] - true score, for k independent, equally good candidates on n tasks
    normal: s / sqrt(n) E[max of k standard normals];
    exact, pass probability p: (1 / n) sum_{x=0}^{n-1} (1 - F(x)^k) - p

Independence is the worst case: candidates on the same tasks differ by less, so `sd` may be that of their paired
differences over sqrt 2. Imports no numpy.
"""

from functools import cache
from math import exp, fsum, lgamma, log, log1p, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()
_STEPS, _REACH = 4000, 10.0


@cache
def largest_of_normals(k: int) -> float:
    """E[max of k standard normals] = integral of 1 - Phi^k over x > 0, less that of Phi^k over x < 0; within 1e-6 up to
    k = 10^6.
    """
    _check_counts(k, 1)
    width = _REACH / _STEPS
    shares = [_NORMAL.cdf(-_REACH + step * width) ** k for step in range(2 * _STEPS + 1)]
    below, above = shares[: _STEPS + 1], [1 - share for share in shares[_STEPS:]]
    return width * (fsum(above) - (above[0] + above[-1]) / 2 - fsum(below) + (below[0] + below[-1]) / 2)


def optimism(k: int, n: int, sd: float) -> float:
    """The winner's optimism in score units, by normal approximation.

    `sd` is that of one task's outcome. Raises ValueError for k, n < 1.
    """
    _check_counts(k, n)
    return sd / sqrt(n) * largest_of_normals(k)


def optimism_of_passes(k: int, n: int, p: float) -> float:
    """The winner's optimism in pass rate, exact for outcomes of 0 and 1 with pass probability p.

    Raises ValueError outside (0, 1).
    """
    _check_counts(k, n)
    if not 0 < p < 1:
        raise ValueError(f"the pass probability is {p}; outside (0, 1) the best of k has no luck to have")
    log_p, log_q = log(p), log1p(-p)
    shares, share = [], 0.0
    for x in range(n):
        share += exp(lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1) + x * log_p + (n - x) * log_q)
        shares.append(min(1.0, share))
    return fsum(1 - share**k for share in shares) / n - p


def _check_counts(k: int, n: int) -> None:
    if k < 1 or n < 1:
        raise ValueError(f"{k} candidates on {n} tasks; a winner needs one of each at least")
