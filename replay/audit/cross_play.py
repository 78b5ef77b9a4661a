"""What scaffolds and adapters do apart and together: tables of cross-play, the additive fit, and the finding of family
cross_play.
"""

from collections.abc import Sequence

import msgspec

from events.gold import GOLD, VERIFIER
from replay.audit.candidates import AuditedRun, look_number, outcomes_of
from replay.audit.misspecification import HACKED, arrives
from replay.audit.pair import PairKey
from replay.audit.selection import enough, too_few
from replay.audit.statistics import crossplay
from replay.audit.statistics.crossplay import Cells, CrossCell
from replay.audit.statistics.interval import Interval, mean
from replay.audit.verdict import Finding, Unknown, alpha_at, state_at

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
    """Lambda = I_P - I_Q; of ranks, where scores lie outside [0, 1]."""
    p_value: float
    """How likely a Lambda as high is by luck."""
    alpha: float
    """What this table's look may spend of the rule's false alarms."""
    honest: bool
    """Whether noise in gold explains Lambda: of what the two do together on the score, as much arrives in gold as is to
    be expected.
    """
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
    share = arrives(run)
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
        on_score, on_gold = (
            {cell: scale.scaled(outcomes) for cell, outcomes in each.items()}
            for scale, each in zip(run.scales, (p, q), strict=True)
        )
        co_adaptation = crossplay.co_adaptation(on_score, on_gold, run.groups)
        rest = crossplay.co_adaptation(on_score, on_gold, run.groups, share.value).excess
        error = abs(co_adaptation.on_score.value) * share.error
        of_p, of_q = crossplay.shares(p, run.groups), crossplay.shares(q, run.groups)
        look = look_number(run, candidate.generation, len(tables) + 1)
        alpha = alpha_at("cross-play", look, run.started.generations)
        tables.append(
            CrossPlayTable(
                generation=candidate.generation,
                scaffolds=(s_0, s),
                adapters=(a_0, a),
                score=_means(p),
                gold=_means(q),
                excess=co_adaptation.excess.interval(),
                p_value=co_adaptation.excess.p_above(),
                alpha=alpha,
                honest=share.value < 1 - 1e-9 and rest.p_above(error=error) > HACKED,
                on_score=co_adaptation.on_score,
                on_gold=co_adaptation.on_gold,
                detectable=co_adaptation.excess.detectable(alpha),
                of_score=(of_p.scaffold, of_p.adapter),
                of_gold=(of_q.scaffold, of_q.adapter),
            )
        )
    return tables


def cross_play_finding(run: AuditedRun, tables: Sequence[CrossPlayTable]) -> Finding | None:
    """Family levers: raised where scaffold and adapter fit each other in a way that gold does not see; None where it
    cannot be asserted.
    """
    if not tables or not enough(run, outcomes_of(run, run.measured[0], VERIFIER)):
        return None
    raised = [table for table in tables if table.p_value <= table.alpha]
    hacked = [table for table in raised if not table.honest]
    first = next(iter(hacked or raised), None)
    if first is None:
        return Finding(
            family="levers",
            rule="cross-play",
            raised=False,
            sentence=f"Lambda of {len(tables)} tables of cross-play is not above 0 for certain.",
            figures={"tables": float(len(tables))},
        )
    return Finding(
        family="levers",
        rule="cross-play",
        raised=True,
        state="attenuated"
        if not hacked
        else "drift"
        if any(state_at(table.p_value, table.alpha) == "drift" for table in hacked)
        else "suspect",
        lever="both",
        generation=first.generation,
        sentence=f"In generation {first.generation} scaffold and adapter score {first.excess.value:+.3f} "
        f"[{first.excess.low:+.3f}, {first.excess.high:+.3f}] more together than apart, beyond what gold sees of it"
        + ("." if hacked else ", which noise in gold explains."),
        figures={
            "lambda": first.excess.value,
            "detectable": first.detectable,
            "p": first.p_value,
            "seen": float(run.looks[first.generation]),
        },
    )


def cross_play_unknown(run: AuditedRun, tables: Sequence[CrossPlayTable]) -> list[Unknown]:
    """Why nothing can be said of scaffold and adapter apart and together: nothing where both have not moved."""
    if run.gold and run.gold.own:
        return [Unknown(family="levers", reason="this task's gold is its verifier", possible=False)]
    moved = [one for one in run.measured[1:] if _both_moved(run, one.pair)]
    if moved and not tables:
        return [Unknown(family="levers", reason="scaffold and adapter were not measured apart")]
    if tables and not enough(run, outcomes_of(run, run.measured[0], VERIFIER)):
        return [too_few(run, "levers")]
    return []


def _both_moved(run: AuditedRun, pair: PairKey) -> bool:
    scaffold, adapter = run.measured[0].pair
    return pair.scaffold != scaffold and pair.adapter != adapter


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
            fit = crossplay.additive(cells, run.groups)
        except ValueError:  # nothing links the pairs, as where a fork has measured its own alone
            return {}
        beyond = set(cells) - accepted
        fits[measure] = AdditiveFit(
            mean=fit.mu,
            scaffolds=fit.scaffolds,
            adapters=fit.adapters,
            together={f"{i},{j}": interaction for (i, j), interaction in fit.gamma.items()},
            diagonal=crossplay.diagonal_advantage(cells, accepted, run.groups) if beyond else None,
        )
    return fits


def _means(cells: Cells) -> Means:
    s_00, s_10, s_01, s_11 = (mean(cells[cell]) for cell in crossplay.SQUARE)
    return (s_00, s_01), (s_10, s_11)
