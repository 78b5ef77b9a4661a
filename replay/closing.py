"""The two digests that close a run: of its events on EVOLOG up to the last event of its last decision, and of the
auditor's on GOLD up to its last fact.

They are computed from the messages as they are stored, and stand in no event. So whoever keeps them elsewhere, printed,
in an export or signed, can tell later whether anything was changed since.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import msgspec

from events.digest import sha256
from events.errors import CheckFailed, UsageError
from events.gold import AuditFinished
from events.run import DecisionMade
from events.subjects import head
from replay.history import History
from runtime.log.port import Stored

PENDING = "pending"
"""In place of a digest while a run has no decision, or its audit has not ended."""
_AUDITED = "." + AuditFinished.tag()
_HEAD = head("").removeprefix("evolog.")
_MARK_DIGITS = 12


class Closing(msgspec.Struct, frozen=True):
    """The digests that close a run: each SHA-256 in 64 hexadecimal digits, or `pending`."""

    run: str
    log: str
    """Of EVOLOG."""
    events: int
    """Number of the run's own messages on EVOLOG that `log` covers; a fork's past is covered by its first event."""
    sequence: int
    """The sequence of the last of them."""
    gold: str
    """Of GOLD."""

    @property
    def audit_ended(self) -> bool:
        """Whether the auditor has finished with the run."""
        return self.gold != PENDING


class RunDigest(msgspec.Struct):
    """The digest of one run's messages on one stream, fed with all of them in the order of the stream.

    After each message it is SHA-256 over the digest before, and the message's sequence, time in nanoseconds, subject
    and SHA-256. It can be kept as bytes half way.
    """

    digest: bytes = b""
    events: int = 0
    closed: str = PENDING
    """The digest at the last message that ended a decision, or the audit."""
    closed_events: int = 0
    closed_sequence: int = 0
    closed_head: int = 0
    """The sequence of the head of the last decision that is whole; 0 on GOLD."""
    head: int = 0
    awaited: int = 0
    """Outputs of the last decision that are still to come."""

    def take(self, stored: Stored, data_digest: bytes = b"") -> None:
        """Feed the next message; `data_digest` is the SHA-256 of its data, where the caller knows it."""
        entry = f"{stored.sequence} {stored.time} {stored.subject} ".encode()
        entry += data_digest or sha256(stored.data)
        self.digest = sha256(self.digest + entry)
        self.events += 1
        if stored.subject.endswith(_HEAD):
            self.head, self.awaited = stored.sequence, _outputs(stored.data)
        elif self.awaited:
            self.awaited -= 1
        else:
            if stored.subject.endswith(_AUDITED):
                self._close(stored)
            return
        if not self.awaited:
            self._close(stored)

    def _close(self, stored: Stored) -> None:
        self.closed, self.closed_events, self.closed_sequence = self.digest.hex(), self.events, stored.sequence
        self.closed_head = self.head


class _Head(msgspec.Struct):
    data: DecisionMade


_head_decoder = msgspec.json.Decoder(_Head)


def _outputs(data: bytes) -> int:
    """How many events a decision has after its head; 0 for a head that cannot be read."""
    try:
        return _head_decoder.decode(data).data.outputs
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def digest_of(messages: Iterable[Stored]) -> RunDigest:
    """The digest of one run's messages on one stream."""
    total = RunDigest()
    for stored in messages:
        total.take(stored)
    return total


def closing_of(run: str, messages: Iterable[Stored], gold: Iterable[Stored]) -> Closing:
    """The closing digests of a run, from its own messages on EVOLOG and on GOLD."""
    return closing_with(run, digest_of(messages), digest_of(gold))


def closing_with(run: str, log: RunDigest, gold: RunDigest) -> Closing:
    """The closing digests of a run whose messages were fed."""
    return Closing(run, log.closed, log.closed_events, log.closed_sequence, gold.closed)


def closing(history: History) -> Closing:
    """The closing digests of a recorded run."""
    return closing_of(history.run, history.messages, history.gold)


def require_digests(expected: Sequence[str]) -> None:
    """Raise `UsageError` for what is no digest."""
    for digest in expected:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(f"{digest!r} is no digest: expected are 64 hexadecimal digits, as `evolog show` prints.")


def require_expected(closing: Closing, expected: Sequence[str]) -> None:
    """Raise `CheckFailed` unless each of these is one of the run's digests, and `UsageError` for what is no digest."""
    require_digests(expected)
    for digest in expected:
        if digest not in (closing.log, closing.gold):
            raise CheckFailed(
                f"Run {closing.run} does not close with {digest}: EVOLOG closes with {closing.log}, GOLD with "
                f"{closing.gold}. Something was changed, added or lost since, or it is another run."
            )


def marks_of(messages: Iterable[Stored], every: int) -> tuple[str, ...]:
    """The first digits of the running digest after every so many messages, and after the last.

    They narrow down where two records part.
    """
    total, marks = RunDigest(), list[str]()
    for stored in messages:
        total.take(stored)
        if total.events % every == 0:
            marks.append(total.digest.hex()[:_MARK_DIGITS])
    return (*marks, total.digest.hex()[:_MARK_DIGITS]) if total.events % every else tuple(marks)


def first_changed(messages: Sequence[Stored], every: int, now: Sequence[str], then: Sequence[str]) -> Sequence[Stored]:
    """The messages, whose marks are `now`, among which the first lies that is not as it was when they were `then`.

    The last ones where some are missing at the end; none where nothing differs.
    """
    pairs = zip_longest(now, then)
    index = next((index for index, (mark, known) in enumerate(pairs) if mark != known), None)
    return [] if index is None else messages[index * every : (index + 1) * every] or messages[-1:]
