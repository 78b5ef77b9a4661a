"""The state of a run: all that its next decision depends on.

A run has a population of candidates, and some generations under way: each makes and judges one candidate, and is a
small state machine of its own, a `Flight`. Generations may end in any order. They are settled in the order of their
numbers.

A state is a value: `evolve` makes the next one and changes none.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from algorithms.search.strategy import Member
from events.change import ChildRunRequested, WeightUpdateRequested
from events.choice import FeedbackRequested, ParentSelected
from events.fact import derive
from events.kinds import CandidateOrigin
from events.rollouts import RolloutsRequested
from events.run import RunStarted

Phase = Literal[
    "proposing",  # an agent is asked for a change
    "evaluate",  # a candidate is there, and its rollouts are to be requested
    "playing",  # rollouts are under way
    "reissue",  # of a fork: its parent's unanswered requests are to be made again
    "seal",  # of a fork: the batch that its parent had sealed is to be sealed again
    "training",
    "serving",  # an adapter is published, and a policy server is to show that it loaded it
    "round_done",  # a round of a weight update is over
    "nest",  # a run of its own is to be ordered
    "nested",  # and is under way
    "failed",  # there is no candidate, or it was not asked all items
    "stopped",  # the agent chose to stop
]
"""Where a generation stands between two barriers."""


class Candidate(msgspec.Struct, frozen=True):
    """A (scaffold, adapter) pair, with what is known of it once it was evaluated."""

    id: str
    generation: int
    scaffold: str
    adapter: str
    lever: CandidateOrigin
    optimizer_state: str = ""
    """Blob of what the training of the adapter left for the next: moments, critic, weight of KL."""
    parents: tuple[str, ...] = ()
    """The ids of the one or two candidates that it was made from."""
    score: float | None = None
    """Mean reward on dev."""
    bar: float | None = None
    """What another must beat, where a second look said how far this one is ahead; otherwise that is the score."""
    train: float | None = None
    """Mean reward of the attempts at the probe."""
    rewards: Mapping[str, float] = {}
    """The mean reward of its attempts at each dev item."""
    dev_requests: tuple[str, ...] = ()
    probe_requests: tuple[str, ...] = ()
    accepted: bool = False
    """Whether it was the best so far when it was judged; of the population, the others were kept."""
    visits: int = 0
    """How often it was selected as a parent."""
    given_up: bool = False
    """Whether the agent, asked for a change to it, chose to stop."""
    stop_reason: str = ""
    artefacts: tuple[str, ...] = ()
    """The blobs that were published with it."""


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


class AskedRound(NamedTuple):
    """A round's rollouts: the last round that was trained when they were asked for, and how many they are."""

    trained: int
    rollouts: int = 0


class WeightUpdate(msgspec.Struct, frozen=True):
    """A weight update that is under way."""

    requested: WeightUpdateRequested
    parent_adapter: str
    adapter: str
    optimizer_state: str
    max_lag: int = 0
    """How many versions its rollouts may be behind the adapter that they train; 0: none is made while one is trained.
    """
    published_state: str = ""
    """The optimiser state of the adapter that waits to be served."""
    round: int = 0
    """The last round of which rollouts were asked for."""
    sealed: int = 0
    """The last round of which a batch was sealed."""
    trained: int = 0
    """The last round of which an adapter is served."""
    asked: Mapping[int, AskedRound] = {}
    """Where rollouts may lag: the rounds of which rollouts were asked for."""
    arrived: tuple[str, ...] = ()
    """Where rollouts may lag: the complete requests that no batch has yet, in the order in which they were complete."""
    hinted: bool = False
    """Whether this round's unsolved items are being played with hints, or have been."""
    refills: int = 0
    """How often this round's groups that tie were played again."""
    requests: Mapping[int, tuple[str, ...]] = {}
    """The requests of each round; where rollouts may lag, those of each round's batch."""
    solved: frozenset[str] = frozenset()
    rollouts: int = 0
    end_reason: str = ""
    """Why there will be no further round, if something stopped it."""


class Flight(msgspec.Struct, frozen=True):
    """A generation that is under way: where it stands, what it has, and what it has spent."""

    generation: int
    phase: Phase
    parent: Candidate | None = None
    """The first parent as it was when it was selected; None for the start."""
    second: Candidate | None = None
    """A second parent, which lends its ideas."""
    selected: ParentSelected | None = None
    """How the parents were selected."""
    requested: FeedbackRequested | None = None
    """What the agent was asked."""
    candidate: Candidate | None = None
    """The candidate that is being evaluated."""
    update: WeightUpdate | None = None
    child: ChildRunRequested | None = None
    shards: Mapping[str, ShardProgress] = {}
    """The requests for rollouts that are under way, by id."""
    waiting: int = 0
    """How many of them are not complete."""
    history: Mapping[str, ShardProgress] = {}
    """Complete requests of earlier rounds of the update under way."""
    reissued: Mapping[str, RolloutsRequested] = {}
    """Of a fork: its parent's requests that were not answered, by id, to be made again."""
    spent_before: tuple[int, int] = (0, 0)
    """Tokens and millionths of a dollar that the settled generations had spent when it began."""
    grant: int | None = None
    """Number of rollouts that it may ask for; None without a limit."""
    rollouts: int = 0
    tokens: int = 0
    micro_usd: int = 0
    rechecked: bool = False
    """Whether it was looked at a second time."""
    lead: float | None = None
    """How far it is ahead of the best after that."""
    artefacts: tuple[str, ...] = ()
    """The blobs that were published with it."""
    reason: str = ""
    """Why there is no candidate, or why the agent chose to stop."""


class RunState(msgspec.Struct, frozen=True):
    """All that the next decision depends on."""

    run: str
    started: RunStarted | None = None
    paused: bool = False
    finished: bool = False
    opened: bool = False
    """Whether the first scaffold was asked for."""
    cancelled: str | None = None
    """Why the run is to end with what it has, if it is."""
    seconds: float = 0.0
    """Seconds for which it was driven, where its budget limits them."""
    ticks: int = 0
    """How often these seconds were recorded."""
    generation: int = 0
    """The last generation that was begun."""
    reopened: Mapping[int, Flight] = {}
    """Generations that a fork is to begin again, as its parent had begun them, by number."""
    flights: Mapping[int, Flight] = {}
    """The generations under way, by number, in order."""
    population: tuple[Candidate, ...] = ()
    """The candidates that were accepted or kept, in the order in which they were."""
    rollouts: int = 0
    """What the settled generations spent; what those under way did is theirs."""
    tokens: int = 0
    micro_usd: int = 0
    rebaselined: int = 0
    """Generations in which a fork changed nothing, and evaluated its best candidate by scores that mean something else.
    """
    frozen: tuple[str, ...] = ()
    """The levers that the auditor has had frozen."""
    rolled_back: frozenset[str] = frozenset()
    """The candidates from which no other is to be made any more, as the auditor has asked; they leave the population
    when the next parent is selected.
    """
    dropped: frozenset[str] = frozenset()
    """Those that have left it so."""
    audit_stop_reason: str = ""
    """Why the auditor has the run end, if it has."""
    last_audited_generation: int = -1
    """The generation of the last candidate of which the auditor has told the loop something."""

    @property
    def best(self) -> Candidate | None:
        """The candidate that was accepted last, which is the best so far; None before the first."""
        return next((candidate for candidate in reversed(self.population) if candidate.accepted), None)

    @property
    def accepted(self) -> tuple[Candidate, ...]:
        """The candidates that were accepted, the start first."""
        return tuple(candidate for candidate in self.population if candidate.accepted)

    @property
    def begun(self) -> int:
        """The last generation that was begun, without those that a fork is to begin again."""
        number = self.generation
        while number in self.reopened:
            number -= 1
        return number

    @property
    def settled(self) -> int:
        """The last generation up to which all are settled."""
        return min((*self.flights, *self.reopened), default=self.generation + 1) - 1

    @property
    def spent(self) -> tuple[int, int, int]:
        """Rollouts, tokens and millionths of a dollar, with those of the generations under way."""
        flights = self.flights.values()
        return (
            self.rollouts + sum(flight.rollouts for flight in flights),
            self.tokens + sum(flight.tokens for flight in flights),
            self.micro_usd + sum(flight.micro_usd for flight in flights),
        )

    @property
    def optimizer_states(self) -> frozenset[str]:
        """The blobs of optimiser states from which a further round of training may start."""
        candidates = [*self.population]
        updates = []
        for flight in self.flights.values():
            candidates += [each for each in (flight.parent, flight.candidate) if each]
            updates += [flight.update] if flight.update else []
        left = [candidate.optimizer_state for candidate in candidates]
        left += [state for update in updates for state in (update.optimizer_state, update.published_state)]
        return frozenset(left) - {""}


def initial(run: str) -> RunState:
    """The state of a run of which nothing is known."""
    return RunState(run)


def in_phase(flight: Flight, phase: Phase, **changes: Any) -> Flight:
    """The generation in another phase and with these changes; `replace` alone takes any word for a phase."""
    return replace(flight, phase=phase, **changes)


def with_flight(state: RunState, flight: Flight) -> RunState:
    """The state with this generation under way, in place of what it was before."""
    if flight.generation in state.flights:
        return replace(state, flights={**state.flights, flight.generation: flight})
    flights = {**state.flights, flight.generation: flight}
    return replace(state, flights={number: flights[number] for number in sorted(flights)})


def landed(state: RunState, flight: Flight) -> RunState:
    """The state without this generation: what it spent is the run's."""
    return replace(
        state,
        flights={number: each for number, each in state.flights.items() if number != flight.generation},
        rollouts=state.rollouts + flight.rollouts,
        tokens=state.tokens + flight.tokens,
        micro_usd=state.micro_usd + flight.micro_usd,
    )


def draw_seed(started: RunStarted) -> int:
    """What the run's draws are derived from."""
    return started.seed if started.draw_seed is None else started.draw_seed


def evaluation_cost(started: RunStarted) -> int:
    """Rollouts that it takes to judge one candidate."""
    return len(started.items.dev) + started.group_size * sum(map(len, started.items.probe))


def repeat_cost(started: RunStarted) -> int:
    """Rollouts that it takes to ask a candidate again."""
    return len(started.items.dev) + sum(map(len, started.items.probe))


def child_limit(flight: Flight, wanted: ChildRunRequested, started: RunStarted) -> int | None:
    """How many rollouts a child run may ask for, so that what comes of it can be evaluated; None without a limit."""
    left = None if flight.grant is None else flight.grant - flight.rollouts - evaluation_cost(started)
    return min((limit for limit in (wanted.rollouts, left) if limit is not None), default=None)


def granted(state: RunState) -> int | None:
    """How many rollouts the next generation may ask for; None without a limit.

    It is an equal share of what is left for each that may be under way, and enough for an evaluation while there is as
    much. What those under way were granted is not left, so that it does not matter how much of it they have spent. One
    that a fork begins again has what it was granted, if the fork's budget is its parent's.
    """
    assert state.started
    limit = state.started.budget.rollouts
    again = state.reopened[min(state.reopened)].grant if state.reopened else None
    if limit is None or again is not None:
        return again
    left = limit - state.rollouts - sum(flight.grant or 0 for flight in state.flights.values())
    share = left // max(1, state.started.width - len(state.flights))
    return max(share, min(left, evaluation_cost(state.started)))


def new_candidate(
    run: str,
    generation: int,
    scaffold: str,
    adapter: str,
    lever: CandidateOrigin,
    optimizer_state: str,
    parents: tuple[str, ...] = (),
) -> Candidate:
    """A candidate without a score; its id follows from the run and the generation."""
    id = derive(run, "candidate", generation)
    return Candidate(id, generation, scaffold, adapter, lever, optimizer_state, parents)


def remaining(state: RunState) -> tuple[Candidate, ...]:
    """The population without the candidates that the auditor has had rolled back."""
    return tuple(candidate for candidate in state.population if candidate.id not in state.rolled_back)


def champion(state: RunState) -> Candidate | None:
    """The candidate that the run would end with now; None before the first is accepted."""
    return next((candidate for candidate in reversed(remaining(state)) if candidate.accepted), None)


def descendants(population: Iterable[Candidate], ids: Iterable[str]) -> frozenset[str]:
    """These candidates, and all that were made from them by one parent or the other."""
    found = set(ids)
    for candidate in population:  # parents stand before their children
        if not found.isdisjoint(candidate.parents):
            found.add(candidate.id)
    return frozenset(found)


def bar_of(candidate: Candidate) -> float:
    """The score that another must beat."""
    return (candidate.score or 0.0) if candidate.bar is None else candidate.bar


def members(population: Iterable[Candidate]) -> tuple[Member, ...]:
    """The population as a strategy sees it."""
    candidates = tuple(population)
    return tuple(
        Member(
            id=candidate.id,
            generation=candidate.generation,
            parents=candidate.parents,
            scaffold=candidate.scaffold,
            adapter=candidate.adapter,
            score=bar_of(candidate),
            rewards=candidate.rewards,
            train=candidate.train,
            accepted=candidate.accepted,
            visits=candidate.visits,
            children=sum(candidate.id in other.parents for other in candidates),
            given_up=candidate.given_up,
            artefacts=candidate.artefacts,
        )
        for candidate in candidates
    )
