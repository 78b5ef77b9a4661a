"""The hash chain of a run's decisions, checked as its events pass by in the order of the log.

A decision's head holds SHA-256 over the digest before it and every event folded since: the last decision's outputs, then what else came,
up to the event that the decision answers. What came between that event and the head is folded after the decision's outputs, as the
controller did. Events that cannot be read are not folded.
"""

from hashlib import sha256
from typing import NamedTuple

import msgspec

from events.run import DecisionMade, RunFinished
from events.subjects import HEAD
from runtime.run.decider import GENESIS

_FINISHED = "." + RunFinished.tag()


class Broken(NamedTuple):
    """A decision that is not made on the events that stand before it. What is wrong lies in the sequences `first` to `last`."""

    run: str
    decision: int
    first: int
    last: int
    why: str

    def __str__(self) -> str:
        """A sentence."""
        return f"Decision {self.decision} of run {self.run}, at sequence {self.last}, {self.why}."


class _Head(msgspec.Struct):
    data: DecisionMade


class _Saved(msgspec.Struct):
    run: str
    decisions: int
    digest: str
    broken: Broken | None
    finished: bool
    _folded: list[bytes]
    _first: int
    awaited: int
    _waiting: list[bytes]


_head_decoder = msgspec.json.Decoder(_Head)
_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(_Saved)
_DIGEST = sha256().digest_size


class Chain:
    """One run's chain. After the first break, and after the run's end, nothing more is looked at."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.decisions = 0
        self.digest = GENESIS
        self.broken: Broken | None = None
        self.finished = False
        self.awaited = 0
        """How many of the last decision's outputs are still to come."""
        self._folded: list[bytes] = []
        """What was folded since the last decision: ids with digests, the last decision's outputs first."""
        self._first = 0
        self._waiting: list[bytes] = []
        """What stood before the last head, but was folded after its outputs."""

    def saved(self) -> bytes:
        """All that `restored` needs to go on from here."""
        return _state_encoder.encode(vars(self))

    @classmethod
    def restored(cls, saved: bytes) -> "Chain":
        """The chain that was saved."""
        state = _state_decoder.decode(saved)
        chain = cls(state.run)
        vars(chain).update(msgspec.structs.asdict(state))
        return chain

    def take(self, sequence: int, subject: str, data: bytes) -> Broken | None:
        """The next readable event of the run; how the chain is broken there, if it is."""
        if self.broken or self.finished:
            return None
        entity = subject.split(".", 3)[2]
        self._first = self._first or sequence
        if entity == HEAD:
            return self._decide(sequence, data)
        self._folded.append(entity.encode() + sha256(data).digest())
        if self.awaited:
            self.awaited -= 1
            if not self.awaited:
                self.finished = subject.endswith(_FINISHED)
                self._folded += self._waiting
                self._waiting = []
        return None

    def _decide(self, sequence: int, data: bytes) -> Broken | None:
        made = _head_decoder.decode(data).data
        if self.awaited:
            return self._break(sequence, made, f"comes before the last {self.awaited} events of the decision before it")
        if made.number != self.decisions + 1:
            return self._break(sequence, made, f"comes after decision {self.decisions}")
        answered = made.input.encode()
        place = next((place for place in reversed(range(len(self._folded))) if self._folded[place][:-_DIGEST] == answered), None)
        if place is None:
            return self._break(sequence, made, f"answers event {made.input}, which does not stand since the decision before it")
        folded = sha256(b"".join(self._folded[: place + 1])).digest()
        digest = sha256(self.digest.encode() + folded).hexdigest()
        if digest != made.digest:
            return self._break(
                sequence, made, f"was made on other events than those before it: their digest is {digest[:12]}, recorded {made.digest[:12]}"
            )
        self.decisions, self.digest, self.awaited = made.number, digest, made.outputs
        self._folded, self._waiting = [], self._folded[place + 1 :]
        self._first = self._first if self._waiting else 0
        return None

    def _break(self, sequence: int, made: DecisionMade, why: str) -> Broken:
        self.broken = Broken(self.run, made.number, self._first, sequence, why)
        return self.broken
