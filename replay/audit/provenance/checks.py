"""All checks of provenance over a log and over GOLD, and the findings that they raise."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from events.choice import LeverChosen
from events.run import RunStarted
from replay.audit.ancestry import evaluations, moved
from replay.audit.provenance.bookkeeping import Bookkeeping, Generations, booked
from replay.audit.provenance.fault import ProvenanceFault, Read
from replay.audit.provenance.leaks import hidden_in_sight, trained_on_audited
from replay.audit.provenance.rewards import ALPHA as REPEATED_ALPHA
from replay.audit.provenance.scaffolds import WATCHED, Watched, check_touched, seed_only
from replay.audit.verdict import ALPHA, Family, Finding
from replay.recorded import StoredEvent

STATISTICS = {
    "gained_by_failing": ALPHA["failing"],
    "rewards_repeated": REPEATED_ALPHA,
}
"""The checks that luck can raise too, with the probability of that in a whole run."""
FAMILIES: dict[str, Family] = {
    "gained_by_failing": "robustness",
    "rewards_repeated": "misspecification",
    "seed_only": "selection",
}
"""The families of the checks that are no proof of dishonesty; the others are of provenance."""
UNPLACED = ("rewards_repeated",)
"""The checks of what no lever and no generation brought about."""


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
    missing: str = ""
    """Why the hidden items are not known, where that is for want of the task's data; then nothing can be said of them.
    """


def examine(
    events: Sequence[StoredEvent],
    read: Read,
    known: Known,
    generations: Collection[int] | None = None,
    book: Bookkeeping | None = None,
) -> dict[str, list[ProvenanceFault]]:
    """The faults that each check finds, by the check's name. What `read` raises travels on.

    Of what is shown or answered again, the first time counts: the first of these `generations`, if they are given.
    `book` has taken all events already, where `events` are without the many (`replay/audit/passing.py`).
    """
    book = book or booked(events, known.low, known.high, known.worst)
    among = events
    if generations is not None:
        generation_of = Generations().of
        among = [
            stored
            for stored in events
            if generation_of(stored) in generations or isinstance(stored.event.data, RunStarted)
        ]
    in_book = book.faults(known.low, known.high, generations)
    return {
        "hidden_in_sight": hidden_in_sight(among, read, known.hidden, known.public.values(), known.gold_blobs),
        "check_touched": check_touched(events, read, known.watched),
        "served_otherwise": in_book["served_otherwise"],
        "verifier_changed": in_book["verifier_changed"],
        "out_of_range": in_book["out_of_range"],
        "seed_only": seed_only(events, read),
        "trained_on_audited": trained_on_audited(events, known.audited, known.public),
        "counted_otherwise": in_book["counted_otherwise"],
        "gained_by_failing": in_book["gained_by_failing"],
        "rewards_repeated": in_book["rewards_repeated"],
    }


def provenance_findings(
    events: Sequence[StoredEvent],
    gold: Sequence[StoredEvent],
    read: Read,
    known: Known,
    generations: Collection[int] | None = None,
    book: Bookkeeping | None = None,
) -> list[Finding]:
    """One finding for each check, over both streams; of the log's faults only those of `generations`, if given. For
    `book` see `examine`.
    """
    generation_of = Generations().of
    generation_at, levers = {stored.sequence: generation_of(stored) for stored in events}, _levers(events)
    findings: list[Finding] = []
    gold_faults = examine(gold, read, known) if gold else {}
    for check, faults in examine(events, read, known, generations, book).items():
        faults = [
            fault
            for fault in faults
            if generations is None or check in UNPLACED or generation_at[fault.sequence] in generations
        ]
        faults = [fault for fault in faults if fault.chance <= STATISTICS.get(check, 0.0)]
        all_faults = [*faults, *gold_faults.get(check, [])]
        generation = generation_at[faults[0].sequence] if faults else None
        figures = {"found": float(len(all_faults))}
        findings.append(
            Finding(
                family=FAMILIES.get(check, "provenance"),
                rule=check,
                raised=bool(all_faults),
                state="suspect" if check in FAMILIES else "drift",
                lever="" if generation is None or check in UNPLACED else levers.get(generation, ""),
                generation=None if check in UNPLACED else generation,
                sentence=f"{all_faults[0].sentence} (sequence {all_faults[0].sequence})" if all_faults else "",
                figures=figures if generation is None else figures | {"seen": float(generation)},
            )
        )
    return findings


def _levers(events: Sequence[StoredEvent]) -> dict[int, str]:
    """The lever of each generation that has chosen one; once there is a candidate, what is new in it."""
    facts = [stored.event.data for stored in events]
    chosen: dict[int, str] = {fact.generation: fact.lever for fact in facts if isinstance(fact, LeverChosen)}
    evaluated = evaluations(facts)
    by_id = {one.candidate: one for one in evaluated}
    return chosen | {one.generation: moved(one, by_id) for one in evaluated}
