"""Facts that many tests start from: the run of two items a fold that the decider's tests know, and an example of any
type of fact.
"""

import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from events import codec
from events.catalogue import BY_FACT
from events.change import ScaffoldProposed, WeightUpdateRequested
from events.choice import AgentCalled, LeverChosen
from events.codec import Event
from events.fact import Fact
from events.judgement import TrajectoryScored
from events.kinds import LeverChoice, Memory, Resample
from events.rollouts import RolloutsRequested, TrajectoryRecorded
from events.run import Budget, Items, RunStarted
from events.weights import AdapterPublished, TrainingBatchSealed
from tasks.contract import Item

RUN = "r"
TIME = "2026-01-01T00:00:00Z"
DEV = ("d1", "d2", "d3", "d4")
FOLDS = (("t1", "t2"), ("t3",))
ANY_ITEM = Item("i", "a question")


def publisher(fact: Fact) -> str:
    """A service that may append such a fact."""
    return BY_FACT[type(fact)].publishers[0]


def event_of(fact: Fact, run: str = RUN) -> Event:
    """A fact as an event that no service made."""
    return codec.event(fact, run=run, source=publisher(fact), cause="", time="")


def started(generations: int = 3, budget: Budget = Budget(), shard_size: int = 400) -> RunStarted:
    """A run with both levers, four dev items, three train items in two folds, and one of them in the probe."""
    return RunStarted(
        task="toy",
        seed=7,
        levers=("scaffold", "weights"),
        generations=generations,
        budget=budget,
        items=Items(dev=DEV, folds=FOLDS, probe=(("t1",),)),
        splits={},
        verifier="v1",
        policy="fake",
        base_model="b",
        group_size=2,
        shard_size=shard_size,
    )


def proposed(generation: int = 0, scaffold: str = "s0") -> ScaffoldProposed:
    """A scaffold without a reason."""
    return ScaffoldProposed(generation=generation, scaffold=scaffold, parent="", summary="", reason="")


def chosen(generation: int, lever: LeverChoice) -> LeverChosen:
    """The agent's choice of a lever."""
    return LeverChosen(generation=generation, lever=lever, action="", reason="enough", propensities={}, diagnosis={})


def update(
    generation: int = 1,
    rounds: int = 2,
    resample: Resample = "unsolved",
    memory: Memory = "update",
    restart: bool = False,
    hints: bool = False,
) -> WeightUpdateRequested:
    """An order of a weight update by best_of_n."""
    return WeightUpdateRequested(
        generation=generation,
        algorithm="best_of_n",
        hyper={},
        rounds=rounds,
        resample=resample,
        memory=memory,
        reason="",
        restart=restart,
        hints=hints,
    )


def scores(requests: Sequence[RolloutsRequested], right: set[str]) -> list[TrajectoryScored]:
    """A score of 1 for each attempt at the items in `right`, and of 0 for all other attempts that these requests asked
    for.
    """
    found = []
    for requested in requests:
        request = codec.event_id(RUN, RolloutsRequested, *requested.key())
        for item in requested.items:
            for attempt in range(requested.attempts):
                reward = 1.0 if item in right else 0.0
                found.append(
                    TrajectoryScored(
                        trajectory=f"{request}-{item}-{attempt}",
                        request=request,
                        item=item,
                        attempt=attempt,
                        reward=reward,
                        outcome="right" if reward else "wrong",
                        verifier="v1",
                    )
                )
    return found


def adapter_of(sealed: TrainingBatchSealed, adapter: str) -> AdapterPublished:
    """An adapter that was trained on a sealed batch."""
    return AdapterPublished(
        generation=sealed.generation,
        round=sealed.round,
        adapter=adapter,
        parent_adapter=sealed.parent_adapter,
        base_model="b",
        batch=sealed.digest,
        algorithm=sealed.algorithm,
        canary=(),
        trained_on=1,
        state=f"{adapter} state",
    )


def agent_called(generation: int, **changes: Any) -> AgentCalled:
    """A call of the Feedback-Agent's language model; fields that a test is about are `changes`."""
    call = AgentCalled(
        generation=generation,
        agent="feedback_agent",
        ordinal=0,
        provider="openai",
        model="m",
        request="q",
        response="a",
        prompt_tokens=100,
        completion_tokens=10,
        micro_usd=1,
        seconds=1.0,
        attempts=1,
        status="answered",
    )
    return msgspec.structs.replace(call, **changes)


def trajectory(attempt: int, run: str = RUN) -> Event:
    """The executor's event of one recorded attempt at the item `i` of the request `q`."""
    fact = TrajectoryRecorded(
        request="q",
        item="i",
        attempt=attempt,
        purpose="dev",
        split="dev",
        generation=0,
        scaffold="s",
        adapter="",
        answer="a",
        calls=(),
        seconds=0.0,
    )
    return codec.event(fact, run=run, source="executor", cause="q", time=TIME)


def example(kind: Any, name: str = "", **known: Any) -> Any:
    """A value of a type, made after its type hints; numbers and texts differ by field.

    A struct's fields can be `known`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(
            **{
                field: known[field] if field in known else example(hints[field], field)
                for field in kind.__struct_fields__
            }
        )
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return (example(arguments[0], name), example(arguments[0], name + "'"))
    if origin is dict:
        return {f"{name} ü": example(arguments[1], name), "key": example(arguments[1], "value")}
    if arguments:  # X | None
        return example(arguments[0], name)
    return {str: f"{name} 'ü' \"\n", int: 2**62 + len(name), float: len(name) / 3 - 1e-300, bool: True}[kind]
