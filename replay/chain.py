"""The hash chain of a run's decisions: shows that no event which a decision rests on was changed or removed.

A decision's head (`decision_made`) holds a SHA-256. It covers the last head's digest and every event that the
controller folded since: the outputs of the last decision, then what else came, up to the event that the decision
answers. Events between that one and the head are folded after the decision's outputs, as the controller did. Events
that cannot be read are not folded.
"""

from typing import NamedTuple

import msgspec

from events.digest import sha256
from events.run import DecisionMade, RunFinished
from events.subjects import HEAD, entity_of
from runtime.run.decider import GENESIS

_FINISHED = "." + RunFinished.tag()


class ChainBreak(NamedTuple):
    """A decision whose digest does not fit the events before it. The damage lies in the sequences `first` to `last`."""

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


class _SavedChain(msgspec.Struct):
    run: str
    decisions: int
    digest: str
    broken: ChainBreak | None
    finished: bool
    _folded: list[bytes]
    _first: int
    awaited: int
    _waiting: list[bytes]


_head_decoder = msgspec.json.Decoder(_Head)
_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(_SavedChain)
_DIGEST = 32


class Chain:
    """One run's chain, fed with its events in the order of the log, of several with one id the first alone.

    It ends at the first break, or with the run.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.decisions = 0
        self.digest = GENESIS
        self.broken: ChainBreak | None = None
        self.finished = False
        self.awaited = 0
        """Outputs of the last decision that are still to come."""
        self._folded: list[bytes] = []
        """The events folded since the last decision, its own outputs first: each as its id and SHA-256."""
        self._first = 0
        self._waiting: list[bytes] = []
        """Events that stood before the last head and are folded after its outputs."""

    def save(self) -> bytes:
        """The chain as bytes, from which `restore` makes it again."""
        return _state_encoder.encode(vars(self))

    @classmethod
    def restore(cls, saved: bytes) -> "Chain":
        """The chain that `save` gave as bytes."""
        state = _state_decoder.decode(saved)
        chain = cls(state.run)
        vars(chain).update(msgspec.structs.asdict(state))
        return chain

    def take(self, sequence: int, subject: str, data: bytes, data_digest: bytes = b"") -> ChainBreak | None:
        """Feed the next readable event of the run; gives the break where the chain does not hold there.

        `data_digest` is the SHA-256 of the data, where the caller knows it.
        """
        entity = entity_of(subject)
        if self.broken or (self.finished and entity != HEAD):
            return None
        self._first = self._first or sequence
        if entity == HEAD:
            return self._decide(sequence, data)
        self._folded.append(entity.encode() + (data_digest or sha256(data)))
        if self.awaited:
            self.awaited -= 1
            if not self.awaited:
                self.finished = subject.endswith(_FINISHED)
                self._folded += self._waiting
                self._waiting = []
        return None

    def _decide(self, sequence: int, data: bytes) -> ChainBreak | None:
        made = _head_decoder.decode(data).data
        if self.finished:
            return self._break(sequence, made, "comes after the run's end")
        if self.awaited:
            return self._break(sequence, made, f"comes before the last {self.awaited} events of the decision before it")
        if made.number != self.decisions + 1:
            return self._break(sequence, made, f"comes after decision {self.decisions}")
        answered = made.input.encode()
        index = next(
            (index for index in reversed(range(len(self._folded))) if self._folded[index][:-_DIGEST] == answered), None
        )
        if index is None:
            return self._break(
                sequence, made, f"answers event {made.input}, which does not stand since the decision before it"
            )
        folded = sha256(b"".join(self._folded[: index + 1]))
        digest = sha256(self.digest.encode() + folded).hex()
        if digest != made.digest:
            return self._break(
                sequence,
                made,
                f"was made on other events than those before it: their digest is {digest[:12]}, recorded "
                f"{made.digest[:12]}",
            )
        self.decisions, self.digest, self.awaited = made.number, digest, made.outputs
        self._folded, self._waiting = [], self._folded[index + 1 :]
        self._first = self._first if self._waiting else 0
        return None

    def _break(self, sequence: int, made: DecisionMade, why: str) -> ChainBreak:
        self.broken = ChainBreak(self.run, made.number, self._first, sequence, why)
        return self.broken
