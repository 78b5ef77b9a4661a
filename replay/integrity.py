"""Checks whether a stream is as it was appended: reads its messages in order and names the first that is not."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from events import codec
from events.change import ChildRunFinished, ScaffoldProposed
from events.choice import AgentCalled, ContextAssembled, TrialFinished
from events.codec import SET_ASIDE_BYTES, Event
from events.errors import UserError
from events.fact import Fact
from events.gold import GoldScored, PairMeasured
from events.judgement import JudgeCalled
from events.population import ArtefactPublished
from events.rollouts import ModelCalled
from events.run import DecisionMade, EventSetAside, RunStarted
from events.subjects import LOG, run_of, tag_of
from events.time import rfc3339
from events.weights import AdapterPublished
from replay.chain import Chain, ChainBreak
from replay.closing import Closing, RunDigest
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.port import Stored, readable


class LogFault(msgspec.Struct, frozen=True):
    """Damage to a stream, which lies in the sequences `first` to `last`."""

    stream: str
    first: int
    last: int
    what: str
    """A sentence, without its full stop."""
    run: str = ""
    """The run whose events are damaged; empty for missing events, which may have been any run's."""

    def __str__(self) -> str:
        """A sentence for a person."""
        return f"{self.stream}: {self.what}."


class StreamSummary(msgspec.Struct, frozen=True):
    """The number of events, runs and decisions of a stream.

    `set_aside` counts messages that were recorded as no events when they came.
    """

    stream: str
    events: int
    runs: int
    decisions: int
    set_aside: int


class Health(msgspec.Struct, frozen=True):
    """The state of both streams, the number of blobs that they name, all damage in the order of the streams and
    sequences, then that of `imports` runs which are here as files, and the digests that close each run.
    """

    streams: list[StreamSummary]
    blobs: int
    faults: list[LogFault]
    closings: list[Closing] = []
    imports: int = 0


class BlobReference(NamedTuple):
    """A blob, with the sequence and tag of the first event that names it."""

    digest: str
    folder: bool
    sequence: int
    tag: str
    private: bool = False
    """Whether the event's run keeps its prompts private."""


class ForkPasts:
    """Computes the digest of each forked run's past as the messages pass by. The `forks` must be known beforehand."""

    def __init__(self, forks: Mapping[str, RunStarted]) -> None:
        self._forks = forks
        self._ends: dict[str, set[int]] = {}
        for started in forks.values():
            self._ends.setdefault(started.parent_run, set()).add(started.parent_sequence)
        self._totals = {"": hashlib.sha256()}
        self._past_totals = {("", 0): self._totals[""]}

    def take(self, stored: Stored) -> None:
        """Feed the next message, of any run."""
        run = run_of(stored.subject)
        if run not in self._ends:
            return
        if tag_of(stored.subject) == RunStarted.tag() and (past := self._past_total(run)):
            self._totals[run] = past.copy()
        if total := self._totals.get(run):
            for end in self._ends[run]:
                if end < stored.sequence and (run, end) not in self._past_totals:
                    self._past_totals[run, end] = total.copy()
            # as `lineage.past_digest`
            total.update(lineage.past_entry(stored))

    def digest(self, fork: str) -> str:
        """The digest of a fork's past as the log has it now; empty where a run of that past does not begin there."""
        past = self._past_total(fork)
        return past.hexdigest() if past else ""

    def ancestors(self, fork: str) -> set[str]:
        """The runs that the fork's past is made of."""
        runs = set[str]()
        while (started := self._forks.get(fork)) and started.parent_run not in runs:
            runs.add(fork := started.parent_run)
        return runs

    def _past_total(self, run: str) -> "hashlib._Hash | None":
        started = self._forks.get(run)
        end = (started.parent_run, started.parent_sequence) if started else ("", 0)
        return self._past_totals.get(end) or self._totals.get(end[0])


class Examination:
    """Examines one stream, fed with its messages in the order of their sequences."""

    def __init__(self, stream: str, forks: Mapping[str, RunStarted] = MappingProxyType({})) -> None:
        self.stream = stream
        self._pasts = ForkPasts(forks)
        self._forks: list[tuple[set[str], LogFault]] = []
        """For each fork whose past is another now: the runs that the past is made of, and the fault."""
        self.events = 0
        self.set_aside = 0
        self.blobs: dict[str, BlobReference] = {}
        self._private: set[str] = set()
        """The runs whose prompts are private."""
        self.digests: dict[str, RunDigest] = {}
        """Each run's digest on this stream."""
        self._places: dict[str, int] = {}
        """The sequence of the first event with each id."""
        self._faults: list[LogFault] = []
        self._missing = False
        self._unreadable: dict[int, tuple[LogFault, bytes]] = {}
        self._chains: dict[str, Chain] = {}
        self._heads: dict[str, int] = {}
        """For each run, the sequence of the last decision up to which its chain holds."""
        self._broken: list[ChainBreak] = []
        self._last = Stored(0, 0, "", b"")

    def take(self, stored: Stored) -> None:
        """Feed the next message."""
        if stored.sequence != self._last.sequence + 1:
            self._gap(stored.sequence, f"and {_describe(stored)}")
        self._last = stored
        self._pasts.take(stored)
        self.digests.setdefault(run_of(stored.subject), RunDigest()).take(stored)
        try:
            event = codec.decode_at(stored.subject, stored.data)
        except codec.Unreadable as wrong:
            description = f"sequence {stored.sequence} on {stored.subject} cannot be read: {wrong}"
            fault = self._fault(stored.sequence, description, run_of(stored.subject))
            self._unreadable[stored.sequence] = fault, stored.data
            return
        self.events += 1
        if (first := self._places.setdefault(event.id, stored.sequence)) != stored.sequence:
            description = (
                f"sequence {stored.sequence} on {stored.subject} is a second event on a place that was taken: sequence "
                f"{first} is the first, and counts"
            )
            self._faults.append(self._fault(stored.sequence, description, event.run))
            return
        if stored.data != (encoded := codec.encode(event)) and not _same_event(stored.data, encoded):
            description = (
                f"sequence {stored.sequence} on {stored.subject} does not have the bytes in which its event is written"
            )
            self._faults.append(self._fault(stored.sequence, description, event.run))
        match event.data:
            case EventSetAside(sequence=sequence, size=size, bytes=written) if sequence in self._unreadable:
                data = self._unreadable[sequence][1]
                if (len(data), data[:SET_ASIDE_BYTES]) == (size, base64.b64decode(written)):
                    del self._unreadable[sequence]  # it came like this
                    self.set_aside += 1
        if isinstance(event.data, RunStarted) and event.data.private_prompts:
            self._private.add(event.run)
        for digest, folder in blobs_of(event.data):
            private = event.run in self._private
            self.blobs.setdefault(digest, BlobReference(digest, folder, stored.sequence, event.tag, private))
        if self.stream == LOG:
            self._chain(stored, event)
        if isinstance(event.data, RunStarted) and event.data.parent_run:
            self._fork(event.run, event.data)

    def end(self, last: int, messages: int, archived: int = 0, lost: int = 0) -> list[LogFault]:
        """Finish, and return all damage in the order of the sequences.

        By the server's account there are `messages` messages up to sequence `last`, and it cut off `lost` bytes of its
        files when it started. The archive has read up to sequence `archived`.
        """
        if self._last.sequence < last:
            self._gap(last + 1, "and the end of the log")
        read = self.events + self.set_aside + len(self._unreadable)
        if read == last and messages != last:
            self._faults.append(self._fault(last, f"the server counts {messages} messages where {last} can be read"))
        if archived > last:
            self._faults.append(
                LogFault(
                    self.stream,
                    last + 1,
                    archived,
                    f"{archived - last:,} events are missing from its end: sequence {last + 1} is the first, since "
                    "the archive had read "
                    f"to {archived}, and the log now ends after {_describe(self._last)}",
                )
            )
        elif lost and not self._missing:
            description = (
                f"events are missing from its end: sequence {last + 1} is the first, after {_describe(self._last)}; "
                f"{lost:,} bytes of its "
                "files are damaged, or stand behind what is, and a server cuts them off"
            )
            self._faults.append(self._fault(last + 1, description))
        exact = [*self._faults, *(fault for fault, _ in self._unreadable.values())]
        for run, chain in self._chains.items():
            if (
                chain.awaited
                and not chain.broken
                and not any(fault.last > self._heads[run] and fault.run in ("", run) for fault in exact)
            ):
                description = (
                    f"decision {chain.decisions} of run {run} lacks the last {chain.awaited} of its "
                    "events, which were appended with it"
                )
                exact.append(LogFault(self.stream, last + 1, last + chain.awaited, description, run))
        broken = [
            self._chain_fault(chain_break)
            for chain_break in self._broken
            if not any(self._explains(fault, chain_break) for fault in exact)
        ]
        for runs, fault in self._forks:
            if not any(other.run in ("", *runs) and other.first <= fault.last for other in (*exact, *broken)):
                broken.append(fault)
        return sorted([*exact, *broken], key=lambda fault: fault.last if fault in broken else fault.first)

    @property
    def runs(self) -> list[str]:
        """The runs that have a message here that names them."""
        return [run for run in self.digests if run]

    def summary(self) -> StreamSummary:
        """The counts of what was read."""
        return StreamSummary(
            self.stream,
            self.events,
            len(self.runs),
            sum(chain.decisions for chain in self._chains.values()),
            self.set_aside,
        )

    def _gap(self, next_sequence: int, following: str) -> None:
        first, count = self._last.sequence + 1, next_sequence - 1 - self._last.sequence
        preceding = _describe(self._last) if self._last.sequence else "the beginning"
        description = (
            f"sequence {first} is missing"
            if count == 1
            else f"{count:,} events are missing from sequence {first} to {next_sequence - 1}"
        )
        self._missing = True
        self._faults.append(
            LogFault(
                self.stream,
                first,
                next_sequence - 1,
                f"{description}, between {preceding} {following}; the server dropped what was damaged",
            )
        )

    def _chain(self, stored: Stored, event: Event) -> None:
        chain = self._chains.setdefault(event.run, Chain(event.run))
        if broken := chain.take(stored.sequence, stored.subject, stored.data):
            self._broken.append(broken)
        elif isinstance(event.data, DecisionMade) and not chain.broken:
            self._heads[event.run] = stored.sequence

    def _fork(self, run: str, started: RunStarted) -> None:
        if (digest := self._pasts.digest(run)) != started.parent_digest:
            parent, end = started.parent_run, started.parent_sequence
            description = (
                f"run {run} was forked from run {parent} as it was up to sequence {end}, with digest "
                f"{started.parent_digest[:12]}, and now "
                f"that is {digest[:12] or 'not there'}; what was changed or lost lies in the sequences up to {end}"
            )
            self._forks.append((self._pasts.ancestors(run), LogFault(self.stream, 1, end, description, parent)))

    def _explains(self, fault: LogFault, broken: ChainBreak) -> bool:
        begins = min(broken.first, self._heads.get(broken.run, 0))
        return fault.run in ("", broken.run) and fault.first <= broken.last and fault.last >= begins

    def _chain_fault(self, broken: ChainBreak) -> LogFault:
        description = (
            f"{str(broken)[0].lower()}{str(broken).removesuffix('.')[1:]}; what was changed or lost lies "
            "in the sequences"
        )
        return LogFault(
            self.stream, broken.first, broken.last, f"{description} {broken.first} to {broken.last}", broken.run
        )

    def _fault(self, sequence: int, description: str, run: str = "") -> LogFault:
        return LogFault(self.stream, sequence, sequence, description, run)


def forks_among(messages: Iterable[Stored]) -> dict[str, RunStarted]:
    """The forks among the runs that these messages begin, by name."""
    begun = {event.run: event.data for event in readable(messages)}
    return {run: fact for run, fact in begun.items() if isinstance(fact, RunStarted) and fact.parent_run}


def blobs_of(fact: Fact) -> list[tuple[str, bool]]:
    """The digests of the blobs that a fact names, each with whether it is a folder."""
    match fact:
        case RunStarted(base_model=folder, verifier_code=code, start_adapter=adapter):
            return [(folder, True), *([(code, False)] if code else []), *([(adapter, True)] if adapter else [])]
        case ScaffoldProposed(scaffold=folder):
            return [(folder, True)]
        case ChildRunFinished(scaffold=scaffold, adapter=adapter):
            return [(folder, True) for folder in (scaffold, adapter) if folder]
        case ArtefactPublished(blob=blob):
            return [(blob, False)]
        case AdapterPublished(adapter=folder, state=state):
            return [(folder, True), *([(state, False)] if state else [])]
        case ModelCalled(body=blob) | GoldScored(blob=blob) | PairMeasured(blob=blob):
            return [(blob, False)] if blob else []
        case ContextAssembled(blob=blob, parts=parts):
            return [(digest, False) for digest in (blob, *parts.values())]
        case AgentCalled(request=request, response=response) | JudgeCalled(request=request, response=response):
            return [(request, False), (response, False)]
        case TrialFinished(scaffold=scaffold, result=result):
            return [*([(scaffold, True)] if scaffold else []), (result, False)]
    return []


def may_be_freed(tag: str, folder: bool, *, private: bool = False) -> bool:
    """Whether a blob that an event of this type names may be missing: an optimiser state, since `evolog gc` frees
    nothing else, and in the export of a run whose prompts are `private` also what the policy was asked.
    """
    return (tag == AdapterPublished.tag() and not folder) or (private and tag == ModelCalled.tag())


def find_damage(blobs: Blobs, reference: BlobReference) -> str:
    """Read a blob, with the files of a folder, and say what is wrong with it; empty where nothing is, or where it is an
    optimiser state that was freed.
    """
    if may_be_freed(reference.tag, reference.folder, private=reference.private) and blobs.freed(reference.digest):
        return ""
    try:
        for digest in blobs.members(reference.digest).values() if reference.folder else (reference.digest,):
            blobs.get(digest)
    except UserError as wrong:
        return str(wrong).removesuffix(".")
    return ""


def _describe(stored: Stored) -> str:
    return f"sequence {stored.sequence} ({rfc3339(stored.time)}, {stored.subject})"


def _same_event(data: bytes, encoded: bytes) -> bool:
    """Whether the bytes differ only by fields with defaults that were added since, or by 8.0 that was written as 8."""
    return msgspec.json.encode(_with_fields_of(msgspec.json.decode(encoded), msgspec.json.decode(data))) == data


def _with_fields_of(value_now: Any, value_then: Any) -> Any:
    if isinstance(value_now, dict) and isinstance(value_then, dict):
        return {
            name: _with_fields_of(value, value_then[name]) for name, value in value_now.items() if name in value_then
        }
    if isinstance(value_now, list) and isinstance(value_then, list) and len(value_now) == len(value_then):
        return [_with_fields_of(value, other) for value, other in zip(value_now, value_then, strict=True)]
    return value_then if value_now == value_then else value_now
