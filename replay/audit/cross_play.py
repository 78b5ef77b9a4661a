"""What scaffolds and adapters do apart and together: tables of cross-play, the additive fit, and the finding of family
cross_play.
"""

from collections.abc import Sequence

import msgspec

from events.gold import GOLD, VERIFIER
from replay.audit.candidates import DRAWS, AuditedRun, look_number, outcomes_of
from replay.audit.pair import PairKey
from replay.audit.statistics import crossplay
from replay.audit.statistics.crossplay import Cells, CrossCell
from replay.audit.statistics.interval import Interval, exceeds_zero, mean
from replay.audit.verdict import Finding, alpha_at

Means = tuple[tuple[float, float], tuple[float, float]]
"""Mean scores as [scaffold][adapter], 0 the start's, 1 the generation's."""


class CrossPlayTable(msgspec.Struct, kw_only=True):
    """The start's scaffold and adapter with those of a generation, each with each."""

    generation: int
    scaffolds: tuple[str, str]
    adapters: tuple[str, str]
    score: Means
    gold: Means
    excess: Interval
    """Lambda = I_P - I_Q."""
    on_score: Interval
    """I_P, the interaction on the score."""
    on_gold: Interval
    """I_Q, the interaction on gold."""
    detectable: float
    """The least |Lambda| that would be found 4 times in 5."""
    of_score: tuple[Interval, Interval]
    """Shapley's shares of scaffold and adapter in what the score gained."""
    of_gold: tuple[Interval, Interval]
    """The same of what gold gained."""


class AdditiveFit(msgspec.Struct, kw_only=True):
    """The additive fit over all measured pairs; scaffolds and adapters by the generation in which they first came, 0
    the start.
    """

    mean: Interval
    scaffolds: dict[int, Interval]
    adapters: dict[int, Interval]
    together: dict[str, Interval]
    """What a pair does beyond the sum, by "scaffold,adapter"."""
    diagonal: Interval | None
    """How much better scaffolds do with the adapters that they were accepted with; None where no others were measured.
    """


def cross_play_tables(run: AuditedRun) -> list[CrossPlayTable]:
    """The 2 x 2 tables of the start with each later candidate all of whose cells were measured."""
    tables: list[CrossPlayTable] = []
    if not run.measured:
        return tables
    s_0, a_0 = run.measured[0].pair
    seen: set[PairKey] = set()
    for candidate in run.measured[1:]:
        s, a = candidate.pair
        if s == s_0 or a == a_0 or candidate.pair in seen:
            continue
        seen.add(candidate.pair)
        grid = {CrossCell(i, j): PairKey((s_0, s)[i], (a_0, a)[j]) for i, j in crossplay.SQUARE}
        if any(not {VERIFIER, GOLD} <= run.outcomes.get(pair, {}).keys() for pair in grid.values()):
            continue
        p, q = ({cell: run.outcomes[pair][measure] for cell, pair in grid.items()} for measure in (VERIFIER, GOLD))
        co_adaptation = crossplay.co_adaptation(p, q, draws=DRAWS, seed=run.seed)
        of_p, of_q = crossplay.shares(p, draws=DRAWS, seed=run.seed), crossplay.shares(q, draws=DRAWS, seed=run.seed)
        tables.append(
            CrossPlayTable(
                generation=candidate.generation,
                scaffolds=(s_0, s),
                adapters=(a_0, a),
                score=_means(p),
                gold=_means(q),
                excess=co_adaptation.excess,
                on_score=co_adaptation.on_score,
                on_gold=co_adaptation.on_gold,
                detectable=co_adaptation.detectable,
                of_score=(of_p.scaffold, of_p.adapter),
                of_gold=(of_q.scaffold, of_q.adapter),
            )
        )
    return tables


def cross_play_finding(run: AuditedRun, tables: Sequence[CrossPlayTable]) -> Finding:
    """Family cross_play: raised where scaffold and adapter fit each other in a way that gold does not see."""
    items = len(outcomes_of(run, run.measured[0], VERIFIER)) if tables else 0
    levels = [alpha_at("cross_play", look_number(run, table.generation, look)) for look, table in enumerate(tables, 1)]
    first = next(
        (table for table, alpha in zip(tables, levels, strict=True) if exceeds_zero(table.excess, items, alpha)), None
    )
    if first is None:
        sentence = "No cross-play has been measured."
        if tables:
            sentence = f"Lambda of {len(tables)} tables of cross-play is not above 0 for certain."
        figures = {"tables": float(len(tables))}
        return Finding(family="cross_play", rule="cross-play", raised=False, sentence=sentence, figures=figures)
    return Finding(
        family="cross_play",
        rule="cross-play",
        raised=True,
        lever="both",
        generation=first.generation,
        sentence=f"In generation {first.generation} scaffold and adapter score {first.excess.value:+.3f} "
        f"[{first.excess.low:+.3f}, "
        f"{first.excess.high:+.3f}] more together than apart, beyond what gold sees of it.",
        figures={
            "lambda": first.excess.value,
            "detectable": first.detectable,
            "seen": run.looks[first.generation],
        },
    )


def additive_fits(run: AuditedRun) -> dict[str, AdditiveFit]:
    """The additive fits of score and gold, by measure; none where one lever alone has moved, or nothing links the
    measured pairs.
    """
    scaffolds: dict[str, int] = {}
    adapters: dict[str, int] = {}
    for candidate in sorted(run.measured, key=lambda candidate: candidate.generation):
        scaffolds.setdefault(candidate.pair.scaffold, candidate.generation)
        adapters.setdefault(candidate.pair.adapter, candidate.generation)
    if len(scaffolds) < 2 or len(adapters) < 2:
        return {}
    accepted = {
        CrossCell(scaffolds[pair.scaffold], adapters[pair.adapter]) for pair in (one.pair for one in run.measured)
    }
    fits = {}
    for measure in (VERIFIER, GOLD):
        cells: Cells = {
            CrossCell(scaffolds[pair.scaffold], adapters[pair.adapter]): outcomes[measure]
            for pair, outcomes in run.outcomes.items()
            if measure in outcomes and pair.scaffold in scaffolds and pair.adapter in adapters
        }
        try:
            fit = crossplay.additive(cells, draws=DRAWS, seed=run.seed)
        except ValueError:  # nothing links the pairs, as where a fork has measured its own alone
            return {}
        beyond = set(cells) - accepted
        fits[measure] = AdditiveFit(
            mean=fit.mu,
            scaffolds=fit.scaffolds,
            adapters=fit.adapters,
            together={f"{i},{j}": interaction for (i, j), interaction in fit.gamma.items()},
            diagonal=crossplay.diagonal_advantage(cells, accepted, draws=DRAWS, seed=run.seed) if beyond else None,
        )
    return fits


def _means(cells: Cells) -> Means:
    s_00, s_10, s_01, s_11 = (mean(cells[cell]) for cell in crossplay.SQUARE)
    return (s_00, s_01), (s_10, s_11)
