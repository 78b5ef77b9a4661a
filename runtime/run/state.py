"""The state of a run: all that its next decision depends on.

A state is a value: `evolve` makes the next one and changes none.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from events.change import WeightUpdateRequested
from events.fact import derive
from events.kinds import CandidateOrigin
from events.rollouts import RolloutsRequested
from events.run import RunStarted

Phase = Literal[
    "new",  # nothing has been asked for yet
    "proposing",  # an agent is asked for a change
    "evaluate",  # a candidate is there, and its rollouts are to be requested
    "playing",  # rollouts are under way
    "reissue",  # of a fork: its parent's unanswered requests are to be made again
    "seal",  # of a fork: the batch that its parent had sealed is to be sealed again
    "training",
    "serving",  # an adapter is published, and a policy server is to show that it loaded it
    "round_done",  # a round of a weight update is over
    "next",  # between two generations
    "finished",
]
"""Where a run stands between two barriers."""


class Candidate(msgspec.Struct, frozen=True):
    """A (scaffold, adapter) pair, with its mean reward on dev once it has one."""

    id: str
    generation: int
    scaffold: str
    adapter: str
    lever: CandidateOrigin
    optimizer_state: str = ""
    """Blob of what the training of the adapter left for the next: moments, critic, weight of KL."""
    score: float | None = None
    dev_requests: tuple[str, ...] = ()
    probe_requests: tuple[str, ...] = ()


class ScoredAttempt(NamedTuple):
    """A trajectory's id and its reward."""

    trajectory: str
    reward: float


class ShardProgress(msgspec.Struct, frozen=True):
    """A request for rollouts, and what has come back of it: by item and attempt a score, or None for a failure."""

    requested: RolloutsRequested
    results: Mapping[tuple[str, int], ScoredAttempt | None] = {}

    @property
    def complete(self) -> bool:
        """Whether every attempt is scored or has failed."""
        return len(self.results) == len(self.requested.items) * self.requested.attempts


class WeightUpdate(msgspec.Struct, frozen=True):
    """A weight update that is under way."""

    requested: WeightUpdateRequested
    parent_adapter: str
    adapter: str
    optimizer_state: str
    published_state: str = ""
    """The optimiser state of the adapter that waits to be served."""
    round: int = 0
    hinted: bool = False
    """Whether this round's unsolved items are being played with hints, or have been."""
    requests: Mapping[int, tuple[str, ...]] = {}
    """The requests of each round."""
    solved: frozenset[str] = frozenset()
    rollouts: int = 0
    end_reason: str = ""
    """Why there will be no further round, if something stopped it."""


class RunState(msgspec.Struct, frozen=True):
    """All that the next decision depends on."""

    run: str
    phase: Phase = "new"
    started: RunStarted | None = None
    paused: bool = False
    generation: int = 0
    best: Candidate | None = None
    current: Candidate | None = None
    """The candidate that is being evaluated."""
    update: WeightUpdate | None = None
    shards: Mapping[str, ShardProgress] = {}
    """The requests for rollouts that are under way, by id."""
    waiting: int = 0
    """How many of them are not complete."""
    history: Mapping[str, ShardProgress] = {}
    """Complete requests of earlier rounds of the update under way."""
    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    reissued: Mapping[str, RolloutsRequested] = {}
    """Of a fork: its parent's requests that were not answered, by id, to be made again."""
    rebaselined: int = 0
    """Generations in which a fork changed nothing, and evaluated its best candidate by scores that mean something else.
    """
    accepted: tuple[Candidate, ...] = ()
    """The candidates that were accepted, the start first."""
    frozen: tuple[str, ...] = ()
    """The levers that the auditor has had frozen."""
    rollback_to: str = ""
    """The candidate to go back to, where the auditor has asked for that."""
    audit_stop_reason: str = ""
    """Why the auditor has the run end, if it has."""
    last_audited_generation: int = -1
    """The generation of the last candidate of which the auditor has told the loop something."""
    stop_reason: str = ""
    """Why the Feedback-Agent has the run end, if it has."""
    rejection: str = ""
    """Why this generation gave no candidate, if it gave none."""

    @property
    def optimizer_states(self) -> frozenset[str]:
        """The blobs of optimiser states from which a further round of training may start."""
        candidates = [candidate for candidate in (*self.accepted, self.best, self.current) if candidate]
        update = (self.update.optimizer_state, self.update.published_state) if self.update else ()
        return frozenset((*(candidate.optimizer_state for candidate in candidates), *update)) - {""}


def initial(run: str) -> RunState:
    """The state of a run of which nothing is known."""
    return RunState(run)


def in_phase(state: RunState, phase: Phase, **changes: Any) -> RunState:
    """The state with another phase and these changes; `replace` alone takes any word for a phase."""
    return msgspec.structs.replace(state, phase=phase, **changes)


def new_candidate(
    run: str, generation: int, scaffold: str, adapter: str, lever: CandidateOrigin, optimizer_state: str
) -> Candidate:
    """A candidate without a score; its id follows from the run and the generation."""
    return Candidate(derive(run, "candidate", generation), generation, scaffold, adapter, lever, optimizer_state)


def next_parent(state: RunState) -> Candidate | None:
    """The candidate that the next generation starts from, and that a run ends with; None before the first
    is accepted.
    """
    return next((candidate for candidate in state.accepted if candidate.id == state.rollback_to), state.best)
