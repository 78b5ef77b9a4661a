"""A small finished run as a value, with everything that exports show: prompts, calls, answers, rewards, a failure, an
agent's call, an optimiser step, and the auditor's scores.
"""

from pathlib import Path
from typing import Any

import msgspec

from events import codec
from events.choice import LeverChosen
from events.fact import Fact
from events.gold import AuditFinished, DevAnswersScored, PairMeasured
from events.judgement import CandidateEvaluated, ScoringFailed, TrajectoryScored
from events.kinds import Purpose, SplitName
from events.population import CandidateAccepted
from events.rollouts import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished
from events.subjects import GOLD, LOG
from events.weights import OptimizerStepApplied
from replay.archive.projection import Archive
from replay.history import History
from runtime.agents.conversation import AgentMessage, ModelRequest, ModelTurn, ToolCall
from runtime.blobs.directory import Blobs
from tests.harness.facts import RUN, agent_called, example, proposed, started
from tests.harness.made_up_runs import stored

PROMPT = "Which of four enzymes cleaves <script>alert(1)</script> the bond\u202e?"
ANSWER = 'A</script><img src=x onerror=alert(1)> "quoted" | `code` \u202e'
GOLD_OF: dict[str, tuple[float, ...]] = {"d1": (0.25,), "d2": (0.75,)}
"""Gold's scores of the answers to dev."""


def recorded_run(folder: Path, *, private: bool = False, texts: str = ANSWER, finished: bool = True) -> History:
    """The run, with its blobs in a folder; with `private`, its task wants prompts not to be shown."""
    blobs = Blobs(folder / "blobs")
    scaffold = blobs.put_tree({"agent.py": b"def solve(item, model, data):\n    return 1\n", "notes.txt": b"\xff\x00"})
    second = blobs.put_tree({"agent.py": b"def solve(item, model, data):\n    return 2\n"})
    body = blobs.put(msgspec.json.encode([{"prompt": PROMPT, "n": 2}, {"prompt": "second", "choices": ["a", "b"]}]))
    order = started(generations=1)
    facts: list[Fact] = [msgspec.structs.replace(order, private_prompts=private), proposed(0, scaffold)]
    dev = _requested("dev", "dev", ("d1", "d2"), 1, scaffold, 0)
    train = _requested("train", "train", ("t1",), 3, scaffold, 1)
    facts += [dev, _called(dev, "d1", body, 0, texts), _called(dev, "d2", body, 1, texts)]
    for item in dev.items:
        facts += [_recorded(dev, item, 0, (0,)), _scored(dev, item, 0, 1.0 if item == "d1" else 0.0)]
    facts += [
        _evaluated(0, scaffold, 0.5),
        CandidateAccepted(generation=0, candidate="c0", reason="the start", score=0.5),
    ]
    chosen = LeverChosen(
        generation=1, lever="weights", action="grpo", reason=texts, propensities={"weights": 1.0}, diagnosis={"x": 1.0}
    )
    told = ModelRequest("m", "Improve it.", (AgentMessage("user", PROMPT),), (), 100)
    turn = ModelTurn("answered", "Well.", (ToolCall("1", "read", "{}"),))
    request, response = (blobs.put(msgspec.json.encode(one)) for one in (told, turn))
    facts += [agent_called(1, request=request, response=response), chosen, train, _called(train, "t1", body, 0, texts)]
    facts += [_recorded(train, "t1", 0, (0,)), _scored(train, "t1", 0, 1.0), _recorded(train, "t1", 1, (1,))]
    facts.append(
        ScoringFailed(
            trajectory=_trajectory(train, "t1", 1), request=_id(train), item="t1", attempt=1, reason="no sandbox"
        )
    )
    facts.append(
        RolloutFailed(request=_id(train), item="t1", attempt=2, purpose="train", kind="crashed", reason="it raised")
    )
    facts.append(example(OptimizerStepApplied, generation=1, round=1, step=0, tokens=3, seconds=0.5))
    facts += [
        proposed(1, second),
        _evaluated(1, second, 0.75),
        CandidateAccepted(generation=1, candidate="c1", reason="better", score=0.75),
    ]
    if finished:
        facts.append(
            RunFinished(
                reason="all 1 generations are done",
                candidate="c1",
                scaffold=second,
                adapter="",
                score=0.75,
                generations=1,
                rollouts=5,
                tokens=30,
                micro_usd=1,
            )
        )
    gold: list[Fact] = [
        DevAnswersScored(generation=0, candidate="c0", scores=GOLD_OF, unscored=0),
        PairMeasured(scaffold=scaffold, adapter="", measure="verifier", scores={"x1": (1.0, 0.0)}, failed=0, blob="b"),
        PairMeasured(scaffold=scaffold, adapter="", measure="gold", scores={"x1": (0.125, 0.0)}, failed=0, blob="b"),
        AuditFinished(candidate="c1", cells=0, seconds=1.0),
    ]
    return History(RUN, [], stored(RUN, LOG, facts), stored(RUN, GOLD, gold), blobs, Blobs(folder / "gold_blobs"))


def archived(history: History, directory: Path) -> None:
    """Fill the archive of a project directory with a run."""
    archive = Archive(directory / "archive.duckdb")
    archive.apply(history.messages)
    archive.close()


def _requested(
    purpose: Purpose, split: SplitName, items: tuple[str, ...], attempts: int, scaffold: str, generation: int
) -> RolloutsRequested:
    return RolloutsRequested(
        generation=generation,
        purpose=purpose,
        round=1,
        shard=0,
        scaffold=scaffold,
        adapter="",
        split=split,
        fold=-1,
        items=items,
        attempts=attempts,
        temperature=1.0,
        seed=3,
    )


def _id(requested: RolloutsRequested) -> str:
    return codec.event_id(RUN, RolloutsRequested, *requested.key())


def _trajectory(requested: RolloutsRequested, item: str, attempt: int) -> str:
    return codec.event_id(RUN, TrajectoryRecorded, _id(requested), item, attempt)


def _called(requested: RolloutsRequested, item: str, body: str, index: int, text: str) -> ModelCalled:
    return ModelCalled(
        request=_id(requested),
        item=item,
        ordinal=0,
        provider="embedded",
        model="b",
        adapter="",
        body=body,
        index=index,
        sampling_seed=2**62,
        temperature=1.0,
        texts=(text, "B"),
        tokens=((1, 2), (3,)),
        logprobs=((-0.1, -0.2), (-0.3,)),
        prompt_tokens=9,
        completion_tokens=3,
        micro_usd=0,
        seconds=0.25,
        cut=(False, True),
    )


def _recorded(
    requested: RolloutsRequested, item: str, attempt: int, completions: tuple[int, ...]
) -> TrajectoryRecorded:
    call = codec.event_id(RUN, ModelCalled, _id(requested), item, 0)
    return TrajectoryRecorded(
        request=_id(requested),
        item=item,
        attempt=attempt,
        purpose=requested.purpose,
        split=requested.split,
        generation=requested.generation,
        scaffold=requested.scaffold,
        adapter="",
        answer=ANSWER,
        calls=tuple(CallUse(call, completion) for completion in completions),
        seconds=0.5,
    )


def _scored(requested: RolloutsRequested, item: str, attempt: int, reward: float) -> TrajectoryScored:
    return TrajectoryScored(
        trajectory=_trajectory(requested, item, attempt),
        request=_id(requested),
        item=item,
        attempt=attempt,
        reward=reward,
        outcome="right" if reward else "wrong",
        verifier="v1",
        details="by the book",
    )


def _evaluated(generation: int, scaffold: str, score: float) -> CandidateEvaluated:
    known: dict[str, Any] = {
        "generation": generation,
        "candidate": f"c{generation}",
        "scaffold": scaffold,
        "adapter": "",
    }
    figures: dict[str, Any] = {
        "score": score,
        "low": score - 0.1,
        "high": score + 0.1,
        "pass_at_1": 0.5,
        "pass_at_k": 1.0,
    }
    return CandidateEvaluated(
        **known,
        **figures,
        lever="start" if generation == 0 else "weights",
        items=2,
        failed=0,
        tied_groups=0.0,
        rollouts=5,
        tokens=30,
        micro_usd=1,
        parents=("c0",) if generation else (),
    )
