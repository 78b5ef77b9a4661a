"""The gap between score and gold, split into luck in selecting a candidate and a verifier that rewards something else
than gold.

    G = P_sel - Q = [P_sel - P_new] + [P_new - Q],    G_t = (P_t - P_0) - (Q_t - Q_0)

P_sel are the outcomes by which the candidate was chosen. P_new are the same verifier's on other seeds or items, Q the
gold verifier's. The first bracket is selection noise (the winner's curse, memorised items; "regressional" in Manheim &
Garrabrant, arXiv 1803.04585), which more items cure. The second is misspecification ("extremal", "adversarial"), and
only that is reward hacking. All scores are in the same units; intervals are task-clustered BCa intervals
(`interval.bca`, with attempts drawn inside items).
"""

from typing import NamedTuple

from replay.audit.statistics.interval import DRAWS, Interval, Outcomes, bca, linear, mean


class Gap(NamedTuple):
    """The gap and its two parts, which add up to it."""

    gap: Interval
    selection: Interval
    misspecification: Interval


def split(
    p_sel: Outcomes, p_new: Outcomes, q: Outcomes, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Gap:
    """G = P_sel - Q and its split.

    The measures may share items or not: what they share is paired. Raises ValueError as `interval.bca`.
    """
    intervals = bca(
        [p_sel, p_new, q],
        linear([[1, 0, -1], [1, -1, 0], [0, 1, -1]]),
        inside=True,
        level=level,
        draws=draws,
        seed=seed,
    )
    return Gap(*intervals)


def growth(
    p_0: Outcomes,
    q_0: Outcomes,
    p_t: Outcomes,
    q_t: Outcomes,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """G_t = (P_t - P_0) - (Q_t - Q_0), for one look. To test it at every step, use `growth_pairs` and `eprocess`
    instead.

    Raises ValueError as `interval.bca`.
    """
    return bca([p_t, p_0, q_t, q_0], linear([[1, -1, -1, 1]]), inside=True, level=level, draws=draws, seed=seed)[0]


def growth_pairs(p_0: Outcomes, q_0: Outcomes, p_t: Outcomes, q_t: Outcomes, width: float = 2.0) -> list[float]:
    """x_i = [(p_i - q_i at t) - (p_i - q_i at 0)] / width for each item, by its id, with means over its attempts: the
    input of `eprocess`.

    Scores in [0, 1] differ by two at most, hence the width. All four are attempts that no earlier look has used, those
    at 0 too: a baseline that is used twice carries its noise from look to look, and the e-process then promises
    nothing. Raises ValueError where the items differ or an x lies outside [-1, 1].
    """
    if not set(p_0) == set(q_0) == set(p_t) == set(q_t):
        raise ValueError(
            "pairs need the same items at 0 and at t, for the score and for gold; leave out what one of them lacks"
        )
    pairs = []
    for item in sorted(p_t):
        at_t, at_0 = (mean({item: p[item]}) - mean({item: q[item]}) for p, q in ((p_t, q_t), (p_0, q_0)))
        pairs.append((at_t - at_0) / width)
        if abs(pairs[-1]) > 1:
            raise ValueError(
                f"the pair of item {item} is {pairs[-1]}, outside [-1, 1]; the width {width} is less than scores can "
                "differ by"
            )
    return pairs
