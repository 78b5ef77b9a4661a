"""Facts of a run as an audit reads them, with few words, and blobs in memory."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from events import codec
from events.change import ScaffoldProposed
from events.fact import Fact, derive
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.kinds import CandidateOrigin, Purpose
from events.population import CandidateAccepted
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from replay.recorded import StoredEvent
from runtime.blobs.directory import Tree
from runtime.log.port import Stored
from tests.harness.facts import RUN, TIME, publisher


class MemoryBlobs(dict[str, bytes]):
    """Blobs in memory."""

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return digest

    def tree(self, **files: bytes) -> str:
        return self.put(msgspec.json.encode(Tree({f"{name}.py": self.put(data) for name, data in files.items()})))


def attempt_key(requested: RolloutsRequested, item: str, attempt: int = 0) -> dict[str, Any]:
    return {"request": codec.event_id(RUN, RolloutsRequested, *requested.key()), "item": item, "attempt": attempt}


def rollout_request(
    generation: int, scaffold: str, *items: str, adapter: str = "", purpose: Purpose = "dev"
) -> RolloutsRequested:
    return RolloutsRequested(
        generation=generation,
        purpose=purpose,
        round=1,
        shard=0,
        scaffold=scaffold,
        adapter=adapter,
        split="dev" if purpose == "dev" else "train",
        fold=-1,
        items=items,
        attempts=1,
        temperature=0.0,
        seed=1,
    )


def called(requested: RolloutsRequested, item: str, body: str) -> ModelCalled:
    return ModelCalled(
        request=attempt_key(requested, item)["request"],
        item=item,
        ordinal=0,
        provider="embedded",
        model="b" + (f"@{requested.adapter}" if requested.adapter else ""),
        adapter=requested.adapter,
        body=body,
        index=0,
        sampling_seed=1,
        temperature=0.0,
        texts=("a",),
        tokens=((1,),),
        logprobs=((0.0,),),
        prompt_tokens=1,
        completion_tokens=1,
        micro_usd=0,
        seconds=0.0,
    )


def recorded(requested: RolloutsRequested, item: str) -> TrajectoryRecorded:
    return TrajectoryRecorded(
        **attempt_key(requested, item),
        purpose=requested.purpose,
        split=requested.split,
        generation=requested.generation,
        scaffold=requested.scaffold,
        adapter=requested.adapter,
        answer="a",
        calls=(),
        seconds=0.0,
    )


def scored(requested: RolloutsRequested, item: str, reward: float, trajectory: str = "") -> TrajectoryScored:
    key = attempt_key(requested, item)
    trajectory = trajectory or derive(RUN, "attempt", *key.values())
    return TrajectoryScored(**key, trajectory=trajectory, reward=reward, outcome="right", verifier="v1")


def failed(requested: RolloutsRequested, item: str) -> RolloutFailed:
    return RolloutFailed(**attempt_key(requested, item), purpose=requested.purpose, kind="crashed", reason="")


def evaluated(
    requested: RolloutsRequested, score: float, items: int = 2, failed: int = 0, lever: CandidateOrigin = "scaffold"
) -> CandidateEvaluated:
    return CandidateEvaluated(
        generation=requested.generation,
        candidate=f"c{requested.generation}",
        scaffold=requested.scaffold,
        adapter=requested.adapter,
        lever=lever,
        score=score,
        low=score,
        high=score,
        items=items,
        failed=failed,
        pass_at_1=0.0,
        pass_at_k=0.0,
        tied_groups=0.0,
        rollouts=0,
        tokens=0,
        micro_usd=0,
    )


def accepted(generation: int, score: float) -> CandidateAccepted:
    return CandidateAccepted(generation=generation, candidate=f"c{generation}", score=score, reason="")


def proposed(generation: int, scaffold: str, parent: str = "") -> ScaffoldProposed:
    return ScaffoldProposed(generation=generation, scaffold=scaffold, parent=parent, summary="", reason="")


def as_stored(facts: Iterable[Fact]) -> list[StoredEvent]:
    """The facts as messages of one stream."""
    events = [codec.event(fact, run=RUN, source=publisher(fact), cause="", time=TIME) for fact in facts]
    return [
        StoredEvent(Stored(number, number, event.subject, codec.encode(event)), event)
        for number, event in enumerate(events, 1)
    ]
