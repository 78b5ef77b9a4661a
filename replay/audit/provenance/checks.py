"""All checks of provenance over a log and over GOLD, and the findings that they raise."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from events.choice import LeverChosen
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.ancestry import evaluations, moved
from replay.audit.provenance.bookkeeping import (
    counted_otherwise,
    gained_by_failing,
    out_of_range,
    served_otherwise,
    verifier_changed,
)
from replay.audit.provenance.fault import ProvenanceFault, Read
from replay.audit.provenance.leaks import hidden_in_sight, trained_on_audited
from replay.audit.provenance.scaffolds import WATCHED, Watched, check_touched, seed_only
from replay.audit.verdict import ALPHA, ROBUSTNESS_SHARES, Finding
from replay.recorded import StoredEvent


class Known(NamedTuple):
    """What the checks compare a log with."""

    hidden: Mapping[str, str] = {}
    """The items that the auditor alone may request attempts at: prompts by id."""
    audited: Mapping[str, str] = {}
    """The items that count for the gold score, likewise: `hidden` without those that the task's data publish in train
    too.
    """
    public: Mapping[str, str] = {}
    """The items that the loop may request attempts at, likewise."""
    gold_blobs: Collection[str] = ()
    """Digests of the auditor's blobs."""
    low: float = -1e9
    """The lowest reward that there is."""
    high: float = 1e9
    """The highest."""
    worst: float = 0.0
    """The score of a failed attempt in the check whether a gain is due to failures."""
    watched: Watched = WATCHED


def examine(
    events: Sequence[StoredEvent], read: Read, known: Known, among: Sequence[StoredEvent] | None = None
) -> dict[str, list[ProvenanceFault]]:
    """The faults that each check finds, by the check's name. What `read` raises travels on.

    Of what is shown or answered again, the first time counts: the first `among` these events, if they are given.
    """
    among = events if among is None else among
    return {
        "hidden_in_sight": hidden_in_sight(among, read, known.hidden, known.public.values(), known.gold_blobs),
        "check_touched": check_touched(events, read, known.watched),
        "served_otherwise": served_otherwise(events),
        "verifier_changed": verifier_changed(among),
        "out_of_range": out_of_range(events, known.low, known.high),
        "seed_only": seed_only(events, read),
        "trained_on_audited": trained_on_audited(events, known.audited, known.public),
        "counted_otherwise": counted_otherwise(events),
        "gained_by_failing": gained_by_failing(events, known.worst),
    }


def provenance_findings(
    events: Sequence[StoredEvent],
    gold: Sequence[StoredEvent],
    read: Read,
    known: Known,
    generations: Collection[int] | None = None,
) -> list[Finding]:
    """One finding for each check, over both streams; of the log's faults only those of `generations`, if given."""
    generation_at, levers = _generations(events), _levers(events)
    among = [
        stored
        for stored in events
        if generations is None
        or generation_at[stored.sequence] in generations
        or isinstance(stored.event.data, RunStarted)
    ]
    findings: list[Finding] = []
    gold_faults = examine(gold, read, known) if gold else {}
    for check, faults in examine(events, read, known, among).items():
        faults = [fault for fault in faults if generations is None or generation_at[fault.sequence] in generations]
        faults = [fault for fault in faults if fault.chance <= ALPHA["robustness"] * ROBUSTNESS_SHARES["failing"]]
        all_faults = [*faults, *gold_faults.get(check, [])]
        generation = generation_at[faults[0].sequence] if faults else None
        figures = {"found": float(len(all_faults))}
        findings.append(
            Finding(
                family="robustness"
                if check == "gained_by_failing"
                else "provenance",  # more crashes than luck explains are no proof yet
                rule=check,
                raised=bool(all_faults),
                lever="" if generation is None else levers.get(generation, ""),
                generation=generation,
                sentence=f"{all_faults[0].sentence} (sequence {all_faults[0].sequence})" if all_faults else "",
                figures=figures if generation is None else figures | {"seen": float(generation)},
            )
        )
    return findings


def _generations(events: Sequence[StoredEvent]) -> dict[int, int]:
    """The generation that each event is about, by sequence: its own, or that of the request that it answers. Of one
    that says neither, the last that was begun.
    """
    generations: dict[int, int] = {}
    requested: dict[str, int] = {}
    last = 0
    for stored in events:
        fact = stored.event.data
        own = getattr(fact, "generation", None)
        if isinstance(fact, RolloutsRequested):
            requested[stored.event.id] = fact.generation
        if own is None:
            own = requested.get(getattr(fact, "request", ""))
        last = max(last, -1 if own is None else own)
        generations[stored.sequence] = last if own is None else own
    return generations


def _levers(events: Sequence[StoredEvent]) -> dict[int, str]:
    """The lever of each generation that has chosen one; once there is a candidate, what is new in it."""
    facts = [stored.event.data for stored in events]
    chosen: dict[int, str] = {fact.generation: fact.lever for fact in facts if isinstance(fact, LeverChosen)}
    evaluated = evaluations(facts)
    by_id = {one.candidate: one for one in evaluated}
    return chosen | {one.generation: moved(one, by_id) for one in evaluated}
