"""What each lever bought: the exchange rate of score for gold, over its own moves from parent to child."""

from collections.abc import Mapping

from events.gold import GOLD, VERIFIER
from replay.audit.candidates import AuditedRun, measured_parent, outcomes_of, scaled
from replay.audit.misspecification import arrives
from replay.audit.selection import enough
from replay.audit.statistics import exchange
from replay.audit.statistics.interval import contrast
from replay.audit.verdict import Finding

LEVERS = ("scaffold", "weights")


def exchange_rates(run: AuditedRun) -> dict[str, exchange.Exchange]:
    """The exchange rate of each lever that has moved alone; none of too few items.

    P_new and Q judge the same answers, so their errors go together: kappa looks better than it is, and some that are
    too low are missed. Of gold that is noisy no more is expected than `arrives`.
    """
    moves: dict[str, list[exchange.Move]] = {}
    if (run.gold and run.gold.own) or not run.measured:
        return {}
    if not enough(run, outcomes_of(run, run.measured[0], VERIFIER)):
        return {}
    for candidate in run.measured[1:]:
        if candidate.lever not in LEVERS:  # nothing moved, or both did
            continue
        parent = measured_parent(run, candidate)
        p, q = (
            contrast([scaled(run, candidate, measure), scaled(run, parent, measure)], [1, -1], run.groups)
            for measure in (VERIFIER, GOLD)
        )
        moves.setdefault(candidate.lever, []).append(exchange.Move(p.value, q.value, p.error**2))
    share = arrives(run).value
    rates = {lever: exchange.rate(own) for lever, own in sorted(moves.items())}
    return {lever: one._replace(expected=one.expected and share * one.expected) for lever, one in rates.items()}


def exchange_findings(rates: Mapping[str, exchange.Exchange]) -> list[Finding]:
    """Family misspecification: raised for a lever whose gains on the score are worth less than half of the gold to be
    expected.
    """
    findings = []
    for lever, rate in rates.items():
        sentence = rate.reason
        if rate.kappa is not None and rate.expected is not None:
            sentence = (
                f"A point of score that {lever} gains is worth {rate.kappa.value:.2f} [{rate.kappa.low:.2f}, "
                f"{rate.kappa.high:.2f}] of gold; {rate.expected:.2f} is expected without hacking."
            )
        rule = f"exchange rate of {lever}"
        findings.append(
            Finding(family="misspecification", rule=rule, raised=rate.too_low, lever=lever, sentence=sentence)
        )
    return findings
