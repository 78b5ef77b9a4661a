"""The rows of the final table that ask the start again, and the reference scaffold's own."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from events import codec
from events.fact import Fact
from events.gold import GoldFailed, GoldScored
from events.run import RunFinished
from events.secret import Scanner
from events.subjects import GOLD
from replay.audit.pair import PairKey
from runtime.blobs.directory import Blobs
from runtime.effects.scoring import Failed, in_process
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.rollouts.shard import AttemptResult, RolloutShard
from services.auditor.final_table import (
    best_among,
    cells_of,
    reference_of,
    score_start_of_k,
    vote_among,
    why_not_asked_again,
)
from services.auditor.measure import AuditHost, RunAudit
from tasks.loading import Task, load
from tests.harness.facts import event_of, example, started
from tests.harness.paths import TOY

START = PairKey("s0", "")
NO_SCORE = Failed("not judged")
ATTEMPTS = 3


def test_a_vote_is_the_most_frequent_answer_and_of_equals_the_first() -> None:
    attempts: list[dict[str, str | None]] = [
        {"most": "x", "tie": "x", "silent": None, "late": None, "once": "z"},
        {"most": "y", "tie": "y", "silent": None, "late": ""},
        {"most": "y", "silent": None, "late": "w"},
    ]
    assert vote_among(attempts) == {"most": "y", "tie": "x", "silent": None, "late": "w", "once": "z"}
    assert vote_among([{}, {}]) == {}, "an item of which all attempts failed has no answer"


def test_the_best_is_the_highest_reward_that_an_answer_could_be_given() -> None:
    rewards: list[dict[str, float | Failed]] = [
        {"rises": -0.5, "falls": 2.0, "mended": NO_SCORE, "broken": 0.25, "unscored": NO_SCORE},
        {"rises": 0.25, "falls": 1.0, "mended": -1.0, "broken": NO_SCORE, "unscored": NO_SCORE},
    ]
    best = {"rises": 0.25, "falls": 2.0, "mended": -1.0, "broken": 0.25, "unscored": NO_SCORE}
    assert best_among(rewards) == best_among(rewards[::-1]) == best
    assert best_among([{}, {}]) == {}


class ScriptedRunner:
    """Gives each attempt at each item the answer that is written down for it; one without an answer there fails."""

    def __init__(self, answers: Mapping[str, Sequence[str | None]]) -> None:
        self.answers = answers
        self.shards: list[RolloutShard] = []

    def run(self, shard: RolloutShard, public: Any, log: Any) -> list[AttemptResult]:
        self.shards.append(shard)
        return [
            AttemptResult(item, attempt, answer=self.answers[item][attempt])
            if attempt < len(self.answers[item])
            else AttemptResult(item, attempt, kind="crashed", reason="it ended")
            for item in shard.items
            for attempt in range(shard.attempts)
        ]


def played(folder: Path, task: Task, runner: Any, rollouts: int, most: int, shard_size: int = 400) -> list[Fact]:
    """What is recorded of the start asked again, on the second time as well as on the first."""
    gold = MemoryLog(MemoryStream(GOLD))

    async def record(events: list[codec.Event], on: Any) -> None:
        await append_once(on, events, Scanner([]))

    async def asked() -> list[Fact]:
        context: Any = SimpleNamespace(record=record)
        host = AuditHost(context, gold, Blobs(folder), in_process, [runner])
        loaded: Any = SimpleNamespace(
            task=task, public=task.public(0), started=started(shard_size=shard_size), items=items_of(task)
        )
        audit = RunAudit(host, event_of(example(RunFinished)), loaded, task.gold(0))
        facts = list(await score_start_of_k(audit, START, rollouts, most))
        await audit.record(facts)
        again = await score_start_of_k(audit, START, rollouts, most)
        assert again == ([] if isinstance(facts[0], GoldScored) else facts)
        return facts

    return asyncio.run(asked())


def items_of(task: Task) -> Any:
    """A loaded run's items by id."""
    known = {item.id: item for item in task.public(0).test}
    return lambda ids: {id: known[id] for id in ids}


def answers_of(task: Task) -> dict[str, Sequence[str | None]]:
    """Three attempts at each of the 40 items: ten of each kind, of which the last has two that fail altogether."""
    written: dict[str, Sequence[str | None]] = {}
    for number, item in enumerate(task.public(0).test):
        right = task.gold(0)[item.id]
        kinds = ([right, "x", "x"], ["x", right, right], [None, None, right], ["x", "y"] if number < 38 else [])
        written[item.id] = kinds[number // 10]
    return written


def test_vote_and_best_of_the_start_are_scored_as_other_rows_are(tmp_path: Path) -> None:
    """The vote is right on 20 of the 38 items that were answered, the best on 30.

    p = 20/38, n = 38: Wilson's centre is (p + 3.8415/76) / (1 + 3.8415/38) = .5239, its half-width .1513.
    """
    task = load(str(TOY))
    vote, best = played(tmp_path, task, ScriptedRunner(answers_of(task)), rollouts=1000, most=ATTEMPTS)
    assert isinstance(vote, GoldScored) and isinstance(best, GoldScored)
    assert (vote.cell, best.cell) == ("start_vote_of_k", "start_best_of_k")
    assert (vote.score, best.score) == pytest.approx((20 / 38, 30 / 38))
    assert (vote.low, vote.high) == pytest.approx((0.3726, 0.6752), abs=2e-4)
    assert [(one.items, one.failed, one.attempts, one.split) for one in (vote, best)] == [(40, 2, 3, "test")] * 2
    assert (vote.rollouts, best.rollouts) == (120, 0), "they are the same attempts"
    assert vote.blob == best.blob and (vote.scaffold, vote.adapter) == START
    blob = msgspec.json.decode(Blobs(tmp_path).get(vote.blob))
    assert [len(attempt) for attempt in blob["attempts"]] == [38, 38, 30]


def test_k_is_what_the_runs_rollouts_buy_up_to_the_most(tmp_path: Path) -> None:
    task = load(str(TOY))

    def attempts(rollouts: int, most: int) -> int:
        (one, _) = played(tmp_path, task, ScriptedRunner(answers_of(task)), rollouts, most)
        assert isinstance(one, GoldScored)
        return one.attempts

    assert [attempts(40, 16), attempts(119, 16), attempts(120, 16), attempts(4000, 2)] == [1, 2, 3, 2]


def test_attempts_are_played_at_temperature_1_in_shards_of_the_runs_size_under_one_seed(tmp_path: Path) -> None:
    """Of 7 attempts, 3 at each item of two make a shard: the 40 items are 20 of them."""
    task, again = load(str(TOY)), ScriptedRunner(answers_of(load(str(TOY))))
    runner = ScriptedRunner(answers_of(task))
    facts = played(tmp_path, task, runner, 1000, ATTEMPTS, shard_size=7)
    assert facts == played(tmp_path / "again", task, again, 1000, ATTEMPTS, shard_size=7)
    assert again.shards == runner.shards and len({shard.id for shard in runner.shards}) == 20
    assert sum((shard.items for shard in runner.shards), ()) == tuple(item.id for item in task.public(0).test)
    assert {(shard.attempts, shard.temperature, shard.seed, shard.scaffold) for shard in runner.shards} == {
        (3, 1.0, 7, "s0")
    }
    assert played(tmp_path, task, ScriptedRunner(answers_of(task)), 1000, ATTEMPTS)[0] == facts[0]


def test_where_the_start_is_not_asked_again_that_is_recorded_in_words(tmp_path: Path) -> None:
    facts = played(tmp_path, load(str(TOY)), ScriptedRunner({}), rollouts=39, most=16)
    assert facts == [
        GoldFailed(cell="start_of_k", split="test", reason="the run used fewer rollouts than test has items")
    ]


def with_verifier(text: str) -> Task:
    """The toy task with further names in its verifier."""
    return load(str(TOY)).with_verifier((TOY / "verifier.py").read_text() + text, "other.py")


WHOLE = """
from tasks.contract import Submission


def score_submission(items, answers, labels):
    return Submission(Scored(0.0, "wrong"))


del score
"""


@pytest.mark.parametrize(
    ("text", "most", "words"),
    [
        ("", 16, ""),
        ("\nSECONDS = 60.0\n", 16, ""),
        ("\nSECONDS = 300.0\n", 16, "may take 300 s for each answer"),
        ("\nNEEDS = ('cuda',)\n", 16, "needs cuda for each answer"),
        ("\nJUDGE = 'anthropic:m'\n", 16, "asks anthropic:m, which costs money for each answer"),
        (WHOLE, 16, "judges whole submissions"),
        ("", 0, "EVOLOG_START_ATTEMPTS is 0"),
    ],
)
def test_a_verifier_that_is_slow_or_dear_is_not_asked_so_often(text: str, most: int, words: str) -> None:
    reason = why_not_asked_again(with_verifier(text), min(most, 3), most)
    assert words in reason and bool(words) == bool(reason)


def referred(folder: Path, start: str, agents: Sequence[str], **settings: Any) -> str:
    """The reference scaffold that a run is compared with; of several agents, the first are its ancestors', from the
    last to the first.
    """
    *before, own = agents
    runs = {f"r{number}": msgspec.structs.replace(started(), agent=agent) for number, agent in enumerate(before)}

    async def past(run: str) -> list[Any]:
        return [SimpleNamespace(run=name) for name in runs]

    async def begun(run: str) -> Any:
        return runs[run]

    context: Any = SimpleNamespace(past=past, started=begun, blobs=Blobs(folder))
    loaded: Any = SimpleNamespace(
        task=load(str(TOY)), started=msgspec.structs.replace(started(), agent=own, **settings)
    )
    nothing: Any = None
    audit = RunAudit(AuditHost(context, nothing, nothing, in_process, []), event_of(example(RunFinished)), loaded, {})
    return asyncio.run(reference_of(audit, PairKey(start, "")))


def test_the_reference_scaffold_has_a_row_where_a_meta_agent_wrote_another(tmp_path: Path) -> None:
    reference = referred(tmp_path, "s0", ["anthropic:m"])
    assert Blobs(tmp_path).get_tree(reference).keys() == load(str(TOY)).scaffold().keys()
    assert referred(tmp_path, reference, ["anthropic:m"]) == "", "it wrote the reference again"
    assert referred(tmp_path, "s0", ["rules"]) == ""
    assert referred(tmp_path, "s0", ["anthropic:m"], start_scaffold="s0", owner="o") == "", "its owner wrote the start"
    assert referred(tmp_path, "s0", ["rules", "anthropic:m", "rules"]) == reference, "a fork of a fork"
    assert referred(tmp_path, "s0", ["rules", "anthropic:m"]) == ""


def test_the_reference_stands_beside_the_cells_and_its_pair_is_none_of_the_runs() -> None:
    finished = example(RunFinished, candidate="c", scaffold="s1", adapter="a1")
    cells = {cell.name: cell for cell in cells_of(START, finished, "ref")}
    assert list(cells) == ["start", "reference", "scaffold", "weights", "final", "uniform_policy"]
    assert cells["reference"].pair == PairKey("ref", "")
    assert [name for name, cell in cells.items() if not cell.is_measured] == ["reference", "uniform_policy"]
