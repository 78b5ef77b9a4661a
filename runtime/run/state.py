"""The state of a run: all that its next decision depends on."""

from typing import Literal

import msgspec

from events.change import WeightUpdateRequested
from events.fact import derive
from events.kinds import CandidateOrigin
from events.rollouts import RolloutsRequested
from events.run import RunStarted

Phase = Literal["new", "asked", "evaluate", "again", "playing", "seal", "training", "serving", "round_done", "next", "finished"]


class Candidate(msgspec.Struct):
    """A (scaffold, adapter) pair, and the dev score once it has one."""

    id: str
    generation: int
    scaffold: str
    adapter: str
    lever: CandidateOrigin
    state: str = ""
    """What the training that gave the adapter left for the next."""
    score: float | None = None
    dev_requests: tuple[str, ...] = ()
    probe_requests: tuple[str, ...] = ()


class Shard(msgspec.Struct):
    """One request for rollouts, and what has come back of it: (trajectory, reward) by item and attempt, None for a failure."""

    requested: RolloutsRequested
    results: dict[tuple[str, int], tuple[str, float] | None] = {}

    @property
    def complete(self) -> bool:
        """Whether every attempt is scored or has failed."""
        return len(self.results) == len(self.requested.items) * self.requested.attempts


class Update(msgspec.Struct):
    """A weight update that is under way."""

    requested: WeightUpdateRequested
    parent_adapter: str
    adapter: str
    state: str
    published: str = ""
    """The state of the adapter that waits to be served."""
    round: int = 0
    hinted: bool = False
    """Whether this round's unsolved items are being played with hints, or have been."""
    requests: dict[int, list[str]] = {}
    solved: set[str] = set()
    rollouts: int = 0
    ended: str = ""
    """Why there will be no further round, if something stopped it."""


class RunState(msgspec.Struct):
    """All that the next decision depends on."""

    run: str
    phase: Phase = "new"
    started: RunStarted | None = None
    paused: bool = False
    generation: int = 0
    best: Candidate | None = None
    current: Candidate | None = None
    update: Update | None = None
    shards: dict[str, Shard] = {}
    waiting: int = 0
    """Shards of the present play that are not complete."""
    history: dict[str, Shard] = {}
    """Complete shards of the update under way."""
    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    again: dict[str, RolloutsRequested] = {}
    """Of a fork: its parent's requests that were not answered, to be asked again."""
    rebaselined: int = 0
    """Generations in which a fork changed nothing, and judged its best candidate as it means scores."""
    kept: list[Candidate] = []
    """The candidates that were kept, the start first."""
    frozen: tuple[str, ...] = ()
    """The levers that the auditor has had frozen."""
    green: str = ""
    """The candidate to go back to, where the auditor has asked for that."""
    halt: str = ""
    """Why the auditor has the run end, if it has."""
    looked: int = -1
    """The generation of the last candidate that the auditor has told the loop of."""
    stop: str = ""
    rejected: str = ""
    """Why this generation gave no candidate, if it gave none."""


def initial(run: str) -> RunState:
    """The state of a run of which nothing is known."""
    return RunState(run)


def new_candidate(run: str, generation: int, scaffold: str, adapter: str, lever: CandidateOrigin) -> Candidate:
    return Candidate(derive(run, "candidate", generation), generation, scaffold, adapter, lever)


def next_parent(state: RunState) -> Candidate | None:
    """What the next generation begins with, and what the run has arrived at if there is none."""
    return next((one for one in state.kept if one.id == state.green), state.best)
