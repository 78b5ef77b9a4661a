"""Cross-play, scaffolds with other adapters than their own: whether a pair wins by fitting each other, and whether gold
sees it too.

    S_ij = mu + a_i + b_j + gamma_ij,  sums of a, of b and of gamma over rows and over columns 0;
    i scaffold, j adapter
    I = S11 - S10 - S01 + S00
    phi_scaffold = ((S10 - S00) + (S11 - S01)) / 2,  phi_adapter = ((S01 - S00) + (S11 - S10)) / 2,
    phi_s + phi_a = S11 - S00
    Lambda = I_P - I_Q,   D = mean S_ii - mean S_ij (i != j)

Two-way analysis of variance (Fisher 1925); Shapley 1953 for two players. Lambda > 0: the pair wins on the score in a
way that gold does not see. I_Q > 0 with Lambda near 0 is healthy fit, I_Q < 0 interference. On the scale of
probabilities a ceiling makes interaction out of nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from replay.audit.statistics.interval import NO_GROUPS, Contrast, Groups, Interval, Outcomes, contrast, contrasts


class CrossCell(NamedTuple):
    """A scaffold with an adapter, each by its number."""

    scaffold: int
    adapter: int


Cells = Mapping[CrossCell, Outcomes]
"""The outcomes of scaffolds with adapters, each on the same items."""
SQUARE = (CrossCell(0, 0), CrossCell(1, 0), CrossCell(0, 1), CrossCell(1, 1))
"""The cells of a 2 x 2 table, in the order of the weights below; 0 is before, 1 after."""
_INTERACTION = (1.0, -1.0, -1.0, 1.0)
_WEIGHTS = (_INTERACTION, (-0.5, 0.5, -0.5, 0.5), (-0.5, -0.5, 0.5, 0.5), (-1.0, 0.0, 0.0, 1.0))


class Additive(NamedTuple):
    """The additive fit, in score units.

    `gamma` is what scaffold and adapter do together, where that cell was measured.
    """

    mu: Interval
    scaffolds: dict[int, Interval]
    adapters: dict[int, Interval]
    gamma: dict[CrossCell, Interval]


class Shares(NamedTuple):
    """A 2 x 2 table in four figures. `scaffold` and `adapter` add up to `total` = S11 - S00."""

    interaction: Interval
    scaffold: Interval
    adapter: Interval
    total: Interval


class CoAdaptation(NamedTuple):
    """Lambda, and the two interactions whose difference it is."""

    excess: Contrast
    """Lambda = I_P - I_Q."""
    on_score: Interval
    on_gold: Interval


def additive(cells: Cells, groups: Groups = NO_GROUPS) -> Additive:
    """The least-squares additive fit. Cells may be missing as long as columns link all rows, as the diagonal with its
    lagged cells does.

    Raises ValueError where they are not linked, or items differ between cells.
    """
    ordered = _sorted_cells(cells)
    rows, columns = sorted({i for i, _ in ordered}), sorted({j for _, j in ordered})
    # scaffolds and adapters as deviations, the last of each being minus the sum of the others
    design = np.array([[1.0, *_deviation(rows, i), *_deviation(columns, j)] for i, j in ordered])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError("the cells fall into parts that share no scaffold and no adapter; play cells that link them")
    solve = np.linalg.pinv(design)
    a, b = solve[1 : len(rows)], solve[len(rows) :]
    gamma = np.eye(len(ordered)) - design @ solve
    weights = np.concatenate([solve[:1], a, -a.sum(0, keepdims=True), b, -b.sum(0, keepdims=True), gamma])
    outcomes = [cells[cell] for cell in ordered]
    fit = (one.interval() for one in contrasts(outcomes, weights.tolist(), groups))
    return Additive(
        next(fit), {i: next(fit) for i in rows}, {j: next(fit) for j in columns}, {cell: next(fit) for cell in ordered}
    )


def shares(cells: Cells, groups: Groups = NO_GROUPS) -> Shares:
    """Interaction, Shapley shares and total of a 2 x 2 table.

    Raises ValueError unless its cells are `SQUARE`'s, on the same items.
    """
    square = _square(cells)
    return Shares(*(one.interval() for one in contrasts(square, _WEIGHTS, groups)))


def co_adaptation(p: Cells, q: Cells, groups: Groups = NO_GROUPS, share: float = 1.0) -> CoAdaptation:
    """Lambda of a 2 x 2 table of scores and one of gold, in which a `share` of I_P arrives.

    Raises ValueError unless both hold `SQUARE`'s cells, on the same items each.
    """
    both = [*_square(p), *_square(q)]
    return CoAdaptation(
        contrast(both, [*(share * one for one in _INTERACTION), *(-one for one in _INTERACTION)], groups),
        contrast(both[:4], _INTERACTION, groups).interval(),
        contrast(both[4:], _INTERACTION, groups).interval(),
    )


def diagonal_advantage(cells: Cells, own: Collection[CrossCell] | None = None, groups: Groups = NO_GROUPS) -> Interval:
    """D: how much better scaffolds do with the adapters that belong to them: those of the cells `own`, or of the same
    number.

    Raises ValueError without cells on and off that diagonal.
    """
    ordered = _sorted_cells(cells)
    diagonal = [cell in own if own is not None else cell.scaffold == cell.adapter for cell in ordered]
    on = sum(diagonal)
    if not 0 < on < len(ordered):
        raise ValueError(
            f"{on} of {len(ordered)} cells lie on the diagonal; the advantage needs cells on it and off it"
        )
    weights = [1 / on if lies_on else -1 / (len(ordered) - on) for lies_on in diagonal]
    return contrast([cells[cell] for cell in ordered], weights, groups).interval()


def _sorted_cells(cells: Cells) -> list[CrossCell]:
    ordered = sorted(cells)
    for cell in ordered:
        if set(cells[cell]) != set(cells[ordered[0]]):
            raise ValueError(
                f"cells {ordered[0]} and {cell} were played on other items; compare cells on the same ones"
            )
    return ordered


def _square(cells: Cells) -> list[Outcomes]:
    if set(_sorted_cells(cells)) != set(SQUARE):
        raise ValueError(f"a 2 x 2 table has the cells {list(SQUARE)}, not {sorted(cells)}")
    return [cells[cell] for cell in SQUARE]


def _deviation(levels: Sequence[int], level: int) -> list[float]:
    return [float(one == level) - float(level == levels[-1]) for one in levels[:-1]]
