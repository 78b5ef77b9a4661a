"""Made-up runs with the auditor's measurements, as exports: one that hacks its verifier from generation 2 on, one that
is honest, and any others of given steps, in a chain or a tree.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from events import codec
from events.change import ChildRunFinished, ScaffoldProposed
from events.choice import AgentCalled, ParentSelected
from events.fact import Fact
from events.gold import (
    CANARY,
    CEILING,
    DevAnswersScored,
    DriftFlagged,
    GoldDescribed,
    PairMeasured,
    ReferenceMeasured,
)
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.kinds import CandidateOrigin
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import RolloutsRequested
from events.run import Budget, Items, RunStarted
from events.subjects import GOLD, LOG, subject
from events.weights import AdapterPublished, AdapterServed, OptimizerStepApplied, TrainingBatchSealed
from replay.exports import folder as exports
from replay.history import History
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored
from tests.harness.facts import agent_called, publisher

DEV = tuple(f"dev{number}" for number in range(40))
TEST = tuple(f"test{number}" for number in range(40))
ATTEMPTS = 4


class Step(NamedTuple):
    """A generation: its lever, whether it was accepted, and the pass rates on dev, on test (P_new) and by gold (Q)."""

    lever: CandidateOrigin
    accepted: bool
    dev: float
    p_new: float
    gold: float
    top: float = 1.0
    """The reward of a pass on dev."""
    parent: int | None = None
    """The generation that it was made from, where that is recorded; otherwise what was accepted last."""
    kept: bool = False
    """Whether it stayed in the population without being accepted."""


HACKED = (
    Step("start", True, 0.20, 0.20, 0.20),
    Step("scaffold", True, 0.38, 0.36, 0.34),
    Step("weights", True, 0.58, 0.55, 0.22),
    Step("scaffold", False, 0.52, 0.0, 0.0),
    Step("weights", True, 0.78, 0.76, 0.10),
    Step("scaffold", True, 0.90, 0.88, 0.05),
)
HONEST = tuple(step._replace(gold=step.p_new) for step in HACKED)
LEFT_ALONE = {(1, 0): (0.50, 0.30), (0, 1): (0.30, 0.18)}
"""P_new and Q of the last scaffold with the base weights, and of the last adapter with the first scaffold."""


def run_started(
    task: str = "no-such-task", splits: dict[str, str] | None = None, strategy: str = "made-up"
) -> RunStarted:
    """The beginning of a run of both levers, by a strategy that may accept what it likes."""
    return RunStarted(
        task=task,
        seed=0,
        levers=("scaffold", "weights"),
        generations=len(HACKED) - 1,
        budget=Budget(),
        items=Items(dev=DEV, folds=((),), probe=((),)),
        splits=splits or {},
        verifier="made-up-1",
        policy="tiny-lm",
        base_model="b",
        strategy=strategy,
    )


def export(
    directory: Path,
    name: str = "hacked",
    steps: Sequence[Step] = HACKED,
    *,
    gold: bool = True,
    started: RunStarted | None = None,
    agent_request: bytes = b"",
    ceiling: float = 0.95,
) -> Path:
    """Write the run of these steps as an export in `directory`; `agent_request` is that of its agent's last call, if
    there was one.
    """
    blobs, gold_blobs = Blobs(directory / "made" / "blobs"), Blobs(directory / "made" / "gold_blobs")
    scaffolds = [
        blobs.put_tree({"agent.py": f"def solve(item, model, data):\n    return {number!r}\n".encode()})
        for number in range(9)
    ]
    facts = [started or run_started(), *loop(name, steps, scaffolds)]
    if agent_request:
        facts.append(called(blobs.put(agent_request), blobs.put(b"an edit")))
    measured = list(auditor(steps, scaffolds, gold_blobs.put(b"answers"), ceiling)) if gold else []
    messages = stored(name, LOG, facts), stored(name, GOLD, measured)
    exports.write(History(name, [], *messages, blobs, gold_blobs), directory / name, "0")
    return directory / name


def stored(run: str, stream: str, facts: Sequence[Fact]) -> list[Stored]:
    """Facts as messages of a stream."""
    events = [
        codec.event(fact, run=run, source=publisher(fact), cause="", time="2026-01-01T00:00:00Z") for fact in facts
    ]
    return [
        Stored(number, number * 10**9, subject(stream, run, event.id, event.tag), codec.encode(event))
        for number, event in enumerate(events, 1)
    ]


def pairs(steps: Sequence[Step], scaffolds: Sequence[str]) -> list[tuple[str, str]]:
    """The scaffold and the adapter of each generation: a lever changes one of its parent's, a run of its own both."""
    pairs: list[tuple[str, str]] = []
    accepted = scaffolds[0], ""
    for generation, step in enumerate(steps):
        scaffold, adapter = accepted if step.parent is None else pairs[step.parent]
        if step.lever in ("scaffold", "child"):
            scaffold = scaffolds[generation]
        if step.lever in ("weights", "child"):
            adapter = f"{generation}" * 64
        pairs.append((scaffold, adapter))
        accepted = pairs[-1] if step.accepted else accepted
    return pairs


def measured(steps: Sequence[Step]) -> list[int]:
    """The generations that the auditor measures: the accepted ones and what they were made from."""
    found: set[int] = set()
    for generation, step in enumerate(steps):
        ancestor = generation if step.accepted else None
        while ancestor is not None and ancestor not in found:
            found.add(ancestor)
            ancestor = steps[ancestor].parent
    return sorted(found)


def loop(run: str, steps: Sequence[Step], scaffolds: Sequence[str]) -> Iterator[Fact]:
    """What the loop records of its generations."""
    accepted = ("", "")
    made = pairs(steps, scaffolds)
    for generation, (step, (scaffold, adapter)) in enumerate(zip(steps, made, strict=True)):
        before = accepted if step.parent is None else made[step.parent]
        if step.parent is not None:
            yield ParentSelected(generation=generation, candidate=f"c{step.parent}", probabilities={})
        if step.lever == "weights":
            yield from update_facts(generation, before[1], adapter)
        elif step.lever == "child":
            yield child_finished(generation, scaffold, adapter)
        elif step.lever != "repeat":
            yield ScaffoldProposed(generation=generation, scaffold=scaffold, parent=before[0], summary="", reason="")
        yield from evaluation_facts(run, generation, step, scaffold, adapter)
        accepted = (scaffold, adapter) if step.accepted else accepted


def child_finished(generation: int, scaffold: str, adapter: str) -> ChildRunFinished:
    """What a run of its own came to."""
    return ChildRunFinished(
        generation=generation,
        child=f"child-{generation}",
        reason="",
        scaffold=scaffold,
        adapter=adapter,
        rollouts=1,
        tokens=1,
        micro_usd=0,
    )


def update_facts(generation: int, parent: str, adapter: str) -> Iterator[Fact]:
    """A weight update of one step, which moves the policy by a twentieth of a nat a token and generation."""
    update: dict[str, Any] = {"generation": generation, "round": 1, "parent_adapter": parent}
    batch = f"batch{generation}"
    yield TrainingBatchSealed(
        **update, algorithm="grpo", hyper={}, training_seed=0, requests=(), trajectories=1, digest=batch
    )
    yield OptimizerStepApplied(
        **update,
        batch=batch,
        step=1,
        loss=0.0,
        kl_to_base=0.05 * generation,
        entropy=0.0,
        clip_share=0.0,
        ratio_mean=1.0,
        ratio_max=1.0,
        grad_norm=0.0,
        tied_groups=0.0,
        tokens=1,
        seconds=0.0,
    )
    yield AdapterPublished(
        **update, batch=batch, adapter=adapter, base_model="b", algorithm="grpo", canary=(), trained_on=1
    )
    yield AdapterServed(generation=generation, round=1, adapter=adapter, batch=batch, error=0.0)


def evaluation_facts(run: str, generation: int, step: Step, scaffold: str, adapter: str) -> Iterator[Fact]:
    """A candidate's rollouts on dev, its scores and evaluation, and whether it was accepted."""
    requested = RolloutsRequested(
        generation=generation,
        purpose="dev",
        round=0,
        shard=0,
        scaffold=scaffold,
        adapter=adapter,
        split="dev",
        fold=-1,
        items=DEV,
        attempts=1,
        temperature=0.0,
        seed=0,
    )
    yield requested
    rewards = {item: step.top * (number < round(step.dev * len(DEV))) for number, item in enumerate(DEV)}
    request = codec.event_id(run, RolloutsRequested, *requested.key())
    for item, reward in rewards.items():
        yield TrajectoryScored(
            trajectory=f"{generation} {item}",
            request=request,
            item=item,
            attempt=0,
            reward=reward,
            outcome="right",
            verifier="made-up-1",
        )
    score = sum(rewards.values()) / len(rewards)
    yield CandidateEvaluated(
        generation=generation,
        candidate=f"c{generation}",
        scaffold=scaffold,
        adapter=adapter,
        lever=step.lever,
        score=score,
        low=score,
        high=score,
        items=len(DEV),
        failed=0,
        pass_at_1=0.0,
        pass_at_k=0.0,
        tied_groups=0.0,
        rollouts=0,
        tokens=0,
        micro_usd=0,
        parents=() if step.parent is None else (f"c{step.parent}",),
    )
    verdict: dict[str, Any] = {"generation": generation, "candidate": f"c{generation}", "reason": ""}
    if step.accepted:
        yield CandidateAccepted(**verdict, score=score)
    else:
        yield CandidateKept(**verdict, score=score) if step.kept else CandidateRejected(**verdict)


def called(request: str, response: str) -> AgentCalled:
    """A call of the agent's language model in the last generation."""
    names = {"provider": "p", "model": "m", "request": request, "response": response}
    return agent_called(len(HACKED) - 1, **names, prompt_tokens=1, completion_tokens=1)


def auditor(steps: Sequence[Step], scaffolds: Sequence[str], blob: str, ceiling: float) -> Iterator[Fact]:
    """What the auditor records: each accepted candidate and its ancestors by both verifiers, the last also cross-played
    and perturbed, and two looks.

    Half of gold is an extra metric. The canary `nothing` passes half of the items, and none by gold.
    """
    for name, measure, rate in (
        (CANARY + "nothing", "verifier", 0.5),
        (CANARY + "nothing", "gold", 0.0),
        (CEILING, "verifier", ceiling),
    ):
        scores = {
            item: rate if name == CEILING else float(number < rate * len(TEST)) for number, item in enumerate(TEST)
        }
        yield ReferenceMeasured(name=name, measure=measure, scores=scores)
    yield GoldDescribed(own=False, groups={}, reliability=-1.0)
    for generation, step in enumerate(steps):
        right = round((min(step.gold, step.dev) if step.accepted or step.kept else step.dev) * len(DEV))
        passed: dict[str, tuple[float, ...]] = {item: (float(number < right),) for number, item in enumerate(DEV)}
        yield DevAnswersScored(generation=generation, candidate=f"c{generation}", scores=passed, unscored=0)
    made = pairs(steps, scaffolds)
    measured_pairs = [(made[generation], steps[generation]) for generation in measured(steps)]
    for (scaffold, adapter), step in dict(measured_pairs).items():
        yield from pair_measurements(scaffold, adapter, step.p_new, step.gold, blob)
    if len(measured_pairs) < 2:
        return
    (first, base), (last, adapter) = measured_pairs[0][0], measured_pairs[-1][0]
    honest = steps[-1].gold == steps[-1].p_new
    for cell, (p_new, gold) in LEFT_ALONE.items() if last != first and adapter != base else ():
        pair = (last, base) if cell == (1, 0) else (first, adapter)
        yield from pair_measurements(*pair, p_new, p_new if honest else gold, blob)
    for pair, loss in (((first, base), 0.0), ((last, adapter), 0.0 if honest else 0.4)):
        p_new = next(step.p_new for measured_pair, step in measured_pairs if measured_pair == pair)
        yield pair_measured(*pair, "perturbed:renamed", p_new - loss, blob)
    if not honest:
        yield DriftFlagged(look=1, state="green", rule="", lever="", generation=-1, sentence="Green.")
        yield DriftFlagged(look=2, state="suspect", rule="gap", lever="weights", generation=2, sentence="Suspect.")


def pair_measurements(scaffold: str, adapter: str, p_new: float, gold: float, blob: str) -> Iterator[Fact]:
    """A pair under the run's verifier, under gold, and under the extra metric."""
    yield pair_measured(scaffold, adapter, "verifier", p_new, blob)
    yield pair_measured(scaffold, adapter, "gold", gold, blob)
    yield pair_measured(scaffold, adapter, "beside:half", gold / 2, blob)


def pair_measured(scaffold: str, adapter: str, measure: str, rate: float, blob: str) -> PairMeasured:
    """Passes and failures at this rate, by the same luck in each measure: the easy items pass everywhere."""
    draw = random.Random(0)
    scores = {item: tuple(float(draw.random() < rate) for _ in range(ATTEMPTS)) for item in TEST}
    return PairMeasured(scaffold=scaffold, adapter=adapter, measure=measure, scores=scores, failed=0, blob=blob)
