"""Whether a stream is as it was appended: reads its messages in order and names the first that is not."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from events import codec
from events.change import ScaffoldProposed
from events.choice import AgentCalled, ContextAssembled
from events.codec import SET_ASIDE_BYTES, Event
from events.errors import UserError
from events.fact import Fact
from events.gold import GoldScored
from events.rollouts import ModelCalled
from events.run import DecisionMade, EventSetAside, RunStarted
from events.subjects import LOG, run_of, tag_of
from events.time import rfc3339
from events.weights import AdapterPublished
from replay.chain import Broken, Chain
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.log.port import Stored, readable


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it was appended. What is wrong lies in the sequences `first` to `last`."""

    stream: str
    first: int
    last: int
    what: str
    """A sentence, without its full stop."""
    run: str = ""
    """Whose events are wrong; empty for what is missing, which may have been any run's."""

    def __str__(self) -> str:
        """For a person."""
        return f"{self.stream}: {self.what}."


class Summary(msgspec.Struct, frozen=True):
    """What was read of a stream. `set_aside` counts messages that never were events, and stand aside as such."""

    stream: str
    events: int
    runs: int
    decisions: int
    set_aside: int


class Health(msgspec.Struct, frozen=True):
    """Both streams, and what is wrong in them, in the order of the streams and sequences."""

    streams: list[Summary]
    blobs: int
    faults: list[Fault]


class Named(NamedTuple):
    """A blob, and the event that names it first."""

    digest: str
    folder: bool
    sequence: int
    tag: str


class Pasts:
    """The pasts of forked runs, one digest for each run that was forked, as the messages pass by; the `forks` are known beforehand."""

    def __init__(self, forks: Mapping[str, RunStarted]) -> None:
        self._forks = forks
        self._ends: dict[str, set[int]] = {}
        for started in forks.values():
            self._ends.setdefault(started.parent_run, set()).add(started.parent_sequence)
        self._totals = {"": hashlib.sha256()}
        self._left = {("", 0): self._totals[""]}

    def take(self, stored: Stored) -> None:
        """The next message, of whatever run."""
        run = run_of(stored.subject)
        if run not in self._ends:
            return
        if tag_of(stored.subject) == RunStarted.tag() and (before := self._of(run)):
            self._totals[run] = before.copy()
        if total := self._totals.get(run):
            for end in self._ends[run]:
                if end < stored.sequence and (run, end) not in self._left:
                    self._left[run, end] = total.copy()
            # as `lineage.digest`
            total.update(lineage.entry(stored))

    def digest(self, fork: str) -> str:
        """Of what a fork was made from, as it is on the log; empty where a run of it does not begin there."""
        past = self._of(fork)
        return past.hexdigest() if past else ""

    def ancestors(self, fork: str) -> set[str]:
        """The runs that its past is made of."""
        found = set[str]()
        while (started := self._forks.get(fork)) and started.parent_run not in found:
            found.add(fork := started.parent_run)
        return found

    def _of(self, run: str) -> "hashlib._Hash | None":
        started = self._forks.get(run)
        where = (started.parent_run, started.parent_sequence) if started else ("", 0)
        return self._left.get(where) or self._totals.get(where[0])


class Examination:
    """One stream, as its messages pass by in the order of their sequences."""

    def __init__(self, stream: str, forks: Mapping[str, RunStarted] = MappingProxyType({})) -> None:
        self.stream = stream
        self._pasts = Pasts(forks)
        self._forks: list[tuple[set[str], Fault]] = []
        """Of each fork whose past is another now: whose events that is, and the fault."""
        self.events = 0
        self.set_aside = 0
        self.blobs: dict[str, Named] = {}
        self._runs: set[str] = set()
        self._faults: list[Fault] = []
        self._missing = False
        self._unreadable: dict[int, tuple[Fault, bytes]] = {}
        self._chains: dict[str, Chain] = {}
        self._heads: dict[str, int] = {}
        """The sequence of each run's last decision up to which its chain holds."""
        self._broken: list[Broken] = []
        self._last = Stored(0, 0, "", b"")

    def take(self, stored: Stored) -> None:
        """The next message."""
        if stored.sequence != self._last.sequence + 1:
            self._gap(stored.sequence, f"and {_place(stored)}")
        self._last = stored
        self._pasts.take(stored)
        try:
            event = codec.decode_at(stored.subject, stored.data)
        except codec.Unreadable as wrong:
            what = f"sequence {stored.sequence} on {stored.subject} cannot be read: {wrong}"
            fault = self._fault(stored.sequence, what, run_of(stored.subject))
            self._unreadable[stored.sequence] = fault, stored.data
            return
        self.events += 1
        self._runs.add(event.run)
        if stored.data != (written := codec.encode(event)) and not _same_event(stored.data, written):
            what = f"sequence {stored.sequence} on {stored.subject} does not have the bytes in which its event is written"
            self._faults.append(self._fault(stored.sequence, what, event.run))
        match event.data:
            case EventSetAside(sequence=sequence, size=size, bytes=kept) if sequence in self._unreadable:
                data = self._unreadable[sequence][1]
                if (len(data), data[:SET_ASIDE_BYTES]) == (size, base64.b64decode(kept)):
                    del self._unreadable[sequence]  # it came like this
                    self.set_aside += 1
        for digest, folder in blobs_of(event.data):
            self.blobs.setdefault(digest, Named(digest, folder, stored.sequence, event.tag))
        if self.stream == LOG:
            self._chain(stored, event)
        if isinstance(event.data, RunStarted) and event.data.parent_run:
            self._fork(event.run, event.data)

    def end(self, last: int, messages: int, archived: int = 0, lost: int = 0) -> list[Fault]:
        """All that is wrong.

        The server says that it has so many `messages`, up to `last`, and has `lost` so many bytes of its files when it started; the archive
        has read to `archived`.
        """
        if self._last.sequence < last:
            self._gap(last + 1, "and the end of the log")
        read = self.events + self.set_aside + len(self._unreadable)
        if read == last and messages != last:
            self._faults.append(self._fault(last, f"the server counts {messages} messages where {last} can be read"))
        if archived > last:
            self._faults.append(
                Fault(
                    self.stream,
                    last + 1,
                    archived,
                    f"{archived - last:,} events are missing from its end: sequence {last + 1} is the first, since the archive had read "
                    f"to {archived}, and the log now ends after {_place(self._last)}",
                )
            )
        elif lost and not self._missing:
            what = (
                f"events are missing from its end: sequence {last + 1} is the first, after {_place(self._last)}; {lost:,} bytes of its "
                "files are damaged, or stand behind what is, and a server cuts them off"
            )
            self._faults.append(self._fault(last + 1, what))
        exact = [*self._faults, *(fault for fault, _ in self._unreadable.values())]
        for run, chain in self._chains.items():
            if chain.awaited and not chain.broken and not any(fault.last > self._heads[run] and fault.run in ("", run) for fault in exact):
                what = f"decision {chain.decisions} of run {run} lacks the last {chain.awaited} of its events, which were appended with it"
                exact.append(Fault(self.stream, last + 1, last + chain.awaited, what, run))
        broken = [self._of(of) for of in self._broken if not any(self._explains(fault, of) for fault in exact)]
        for runs, fault in self._forks:
            if not any(other.run in ("", *runs) and other.first <= fault.last for other in (*exact, *broken)):
                broken.append(fault)
        return sorted([*exact, *broken], key=lambda fault: fault.last if fault in broken else fault.first)

    def summary(self) -> Summary:
        """What was read."""
        return Summary(self.stream, self.events, len(self._runs), sum(chain.decisions for chain in self._chains.values()), self.set_aside)

    def _gap(self, upto: int, after: str) -> None:
        first, count = self._last.sequence + 1, upto - 1 - self._last.sequence
        before = _place(self._last) if self._last.sequence else "the beginning"
        what = f"sequence {first} is missing" if count == 1 else f"{count:,} events are missing from sequence {first} to {upto - 1}"
        self._missing = True
        self._faults.append(Fault(self.stream, first, upto - 1, f"{what}, between {before} {after}; the server dropped what was damaged"))

    def _chain(self, stored: Stored, event: Event) -> None:
        chain = self._chains.setdefault(event.run, Chain(event.run))
        if broken := chain.take(stored.sequence, stored.subject, stored.data):
            self._broken.append(broken)
        elif isinstance(event.data, DecisionMade) and not chain.broken:
            self._heads[event.run] = stored.sequence

    def _fork(self, run: str, started: RunStarted) -> None:
        if (found := self._pasts.digest(run)) != started.parent_digest:
            parent, end = started.parent_run, started.parent_sequence
            what = (
                f"run {run} was forked from run {parent} as it was up to sequence {end}, with digest {started.parent_digest[:12]}, and now "
                f"that is {found[:12] or 'not there'}; what was changed or lost lies in the sequences up to {end}"
            )
            self._forks.append((self._pasts.ancestors(run), Fault(self.stream, 1, end, what, parent)))

    def _explains(self, fault: Fault, broken: Broken) -> bool:
        begins = min(broken.first, self._heads.get(broken.run, 0))
        return fault.run in ("", broken.run) and fault.first <= broken.last and fault.last >= begins

    def _of(self, broken: Broken) -> Fault:
        what = f"{str(broken)[0].lower()}{str(broken).removesuffix('.')[1:]}; what was changed or lost lies in the sequences"
        return Fault(self.stream, broken.first, broken.last, f"{what} {broken.first} to {broken.last}", broken.run)

    def _fault(self, sequence: int, what: str, run: str = "") -> Fault:
        return Fault(self.stream, sequence, sequence, what, run)


def forks_of(messages: Iterable[Stored]) -> dict[str, RunStarted]:
    """The runs among those that begin in these messages that are forks."""
    begun = {event.run: event.data for event in readable(messages)}
    return {run: fact for run, fact in begun.items() if isinstance(fact, RunStarted) and fact.parent_run}


def blobs_of(fact: Fact) -> list[tuple[str, bool]]:
    """The blobs that were written for a fact before it was appended, and whether they are folders."""
    match fact:
        case RunStarted(base_model=folder) | ScaffoldProposed(scaffold=folder):
            return [(folder, True)]
        case AdapterPublished(adapter=folder, state=state):
            return [(folder, True), *([(state, False)] if state else [])]
        case ModelCalled(body=blob) | GoldScored(blob=blob):
            return [(blob, False)] if blob else []
        case ContextAssembled(blob=blob, parts=parts):
            return [(digest, False) for digest in (blob, *parts.values())]
        case AgentCalled(request=request, response=response):
            return [(request, False), (response, False)]
    return []


def damaged(blobs: Blobs, named: Named) -> str:
    """What is wrong with a blob, or with a file of a folder; empty where nothing is."""
    try:
        for digest in blobs.members(named.digest).values() if named.folder else (named.digest,):
            blobs.get(digest)
    except UserError as wrong:
        return str(wrong).removesuffix(".")
    return ""


def _place(stored: Stored) -> str:
    return f"sequence {stored.sequence} ({rfc3339(stored.time)}, {stored.subject})"


def _same_event(data: bytes, now: bytes) -> bool:
    """Whether the bytes differ in this only: a field with a default was added since, or 8.0 was written as 8."""
    return msgspec.json.encode(_as_then(msgspec.json.decode(now), msgspec.json.decode(data))) == data


def _as_then(now: Any, then: Any) -> Any:
    if isinstance(now, dict) and isinstance(then, dict):
        return {name: _as_then(value, then[name]) for name, value in now.items() if name in then}
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [_as_then(value, other) for value, other in zip(now, then, strict=True)]
    return then if now == then else now
