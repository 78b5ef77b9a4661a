"""What is said of a run is the same wherever it is said: its state, its score, and what it cost, on recorded runs."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from events.change import ProposalFailed
from events.choice import AgentCalled, TrialFinished
from events.fact import Fact
from events.judgement import CandidateEvaluated, TrajectoryScored
from events.rollouts import ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import Budget, RunCancelled, RunFinished, RunPaused, RunResumed
from replay.archive.projection import Archive
from replay.best_answer import BestAnswer, best_answers
from replay.exports import folder
from replay.history import History
from replay.replayer import decisions
from replay.report import Report, collect, follow_both
from replay.run_state import run_word, state_in_words
from runtime.log import lineage
from runtime.log.port import Stored, readable
from runtime.run.decide import DECIDER
from services.host.best_answers import find_best_answers
from tests.harness.decided_log import DecidedLog, as_history, missing_answers
from tests.harness.facts import agent_called, example, proposed, started
from tests.harness.few import few
from tests.harness.paths import HISTORIES

NAMES = sorted(path.name for path in HISTORIES.iterdir() if path.is_dir())


def report_of(run: History) -> Report:
    return asyncio.run(collect(run.log, run.gold_log, run.run))


def row_of(run: History, tmp_path: Path) -> dict[str, Any]:
    """The run's row of the archive's view `runs`."""
    path = tmp_path / f"{run.run}.duckdb"
    path.unlink(missing_ok=True)
    archive = Archive(path)
    there = {stored.sequence: stored for stored in run.everything}
    gaps = (Stored(sequence, 0, "evolog.other.x.nothing", b"") for sequence in range(1, max(there) + 1))
    archive.apply([there.get(gap.sequence, gap) for gap in gaps])  # an archive takes a log without gaps
    relation = archive.connection.sql(f"FROM runs WHERE run = '{run.run}'")
    (row,) = (dict(zip(relation.columns, values, strict=True)) for values in relation.fetchall())
    archive.close()
    return row


def require_agreement(run: History, tmp_path: Path) -> None:
    report, row = report_of(run), row_of(run, tmp_path)
    assert (report.state, report.score) == (row["state"], row["score"])
    assert (report.reason or None) == row["reason"] or report.state == "paused"


@pytest.mark.parametrize("name", few(NAMES, *NAMES[::4]))
def test_the_report_of_a_recorded_run_and_the_archive_say_the_same(name: str, tmp_path: Path) -> None:
    run = folder.read(HISTORIES / name)
    require_agreement(run, tmp_path)


def played(*facts: Fact, budget: Budget = Budget(), generations: int = 3, until: int = 1 << 30) -> DecidedLog:
    """A run that is answered until it is finished or that long, and to which these facts are said then."""
    told = DecidedLog()
    told.say(started(generations=generations, budget=budget))
    told.go_on(until)
    told.say(*facts)
    return told


PAUSED, RESUMED = RunPaused(number=1, reason="to look"), RunResumed(number=1)
STATES: dict[str, tuple[Sequence[Fact], int, str]] = {
    "begun": ((), 1, "running"),
    "half way": ((), 30, "running"),
    "paused": ((PAUSED,), 30, "paused"),
    "resumed": ((PAUSED, RESUMED), 30, "running"),
    "cancelled while paused": ((PAUSED, RunCancelled(reason="enough")), 30, "cancelled"),
    "cancelled without a candidate": ((RunCancelled(reason=""),), 2, "cancelled"),
    "without a first scaffold": ((ProposalFailed(generation=0, reason="no key"),), 2, "failed"),
    "to its end": ((), 1 << 30, "finished"),
}


@pytest.mark.parametrize("case", STATES)
def test_every_state_is_called_the_same_by_the_report_and_the_archive(case: str, tmp_path: Path) -> None:
    facts, until, word = STATES[case]
    run = as_history(played(*facts, until=until).messages)
    assert report_of(run).state == word
    require_agreement(run, tmp_path)


def test_a_run_that_spent_its_budget_says_so(tmp_path: Path) -> None:
    run = folder.read(HISTORIES / "out-of-rollouts")
    assert report_of(run).state == "budget exhausted" and report_of(run).audit == "done"
    finished = next(event.data for event in run.events if isinstance(event.data, RunFinished))
    assert run_word(msgspec.structs.replace(finished, candidate=""), paused=False) == "failed"
    assert run_word(msgspec.structs.replace(finished, reason="cancelled: by hand"), paused=True) == "cancelled"
    assert state_in_words("finished", "under way") == "finished, audit under way"
    assert state_in_words("running", "") == "running" and state_in_words("failed", "done") == "failed, audited"


def test_a_run_that_goes_on_stands_at_the_best_so_far(tmp_path: Path) -> None:
    """The best of each moment is that of the decider, after a rollback of the auditor's too."""
    run = folder.read(HISTORIES / "decider-version-3")
    scores = set()
    for end in whole(run.messages)[::5]:
        part = as_history(run.messages[:end], run=run.run)
        best = state_after(run.run, part.messages).best
        assert report_of(part).score == (best.score if best else None), end
        scores.add(best.score if best else None)
        if end % 25 == 0:
            require_agreement(part, tmp_path)
    assert len(scores) > 2


def whole(messages: Sequence[Stored]) -> list[int]:
    """How many messages may be read: no decision is cut in two."""
    cut = {
        sequence
        for one in decisions(messages).values()
        for sequence in range(one.sequence, one.sequence + one.made.outputs)
    }
    return [end for end, stored in enumerate(messages, 1) if stored.sequence not in cut]


def state_after(run: str, messages: Sequence[Stored]) -> Any:
    state = DECIDER.initial(run)
    for event in lineage.in_folding_order(messages):
        state = DECIDER.evolve(state, event)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_the_generations_of_a_recorded_run_add_up_to_what_it_cost(name: str) -> None:
    report = report_of(folder.read(HISTORIES / name))
    for what in ("rollouts", "tokens", "micro_usd"):
        assert sum(getattr(row, what) for row in report.generations) == getattr(report, what), what


class _CallingLog(DecidedLog):
    """A log on which each score follows a call of the policy, of 3 and 2 tokens and a microdollar."""

    def say(self, *facts: Fact) -> None:
        for fact in facts:
            if isinstance(fact, TrajectoryScored):
                call = example(ModelCalled, request=fact.request, item=fact.item, ordinal=fact.attempt)
                super().say(msgspec.structs.replace(call, prompt_tokens=3, completion_tokens=2, micro_usd=1))
            super().say(fact)


def test_a_generation_of_which_attempts_failed_says_what_they_failed_of() -> None:
    rows = report_of(folder.read(HISTORIES / "attempts-that-fail")).generations
    assert [row.failed for row in rows] == [0, 0, 2] and [row.failure for row in rows[:2]] == ["", ""]
    assert "score raised ValueError: an answer that this verifier does not survive" in rows[2].failure


@pytest.mark.parametrize("order", [None, 1, 2])
def test_a_generation_that_became_no_candidate_has_its_own_calls(order: int | None) -> None:
    """By the calls that stand on the log, also where four generations are under way and end in any order."""
    told = _CallingLog()
    if order is None:
        told.say(started(generations=5))
    else:
        ordered = msgspec.structs.replace(started(generations=9), strategy="dgm", width=4, first_items=2, refills=1)
        told.say(ordered)
    told.go_on(random=None if order is None else Random(order))
    events = readable(told.messages)
    requests = {event.id: event.data.generation for event in events if isinstance(event.data, RolloutsRequested)}
    evaluated = {event.data.generation for event in events if isinstance(event.data, CandidateEvaluated)}
    spent = Counter(requests[event.data.request] for event in events if isinstance(event.data, ModelCalled))
    report = report_of(as_history(told.messages))
    assert {row.generation: row.tokens for row in report.generations if row.tokens} == {
        number: 5 * calls for number, calls in spent.items()
    }
    assert sum(row.micro_usd for row in report.generations) == report.micro_usd == spent.total()
    assert spent.keys() - evaluated, "none was lost"


def test_a_lost_proposal_has_its_agents_calls_and_the_next_generation_has_not() -> None:
    """Generation 1 costs 100 + 20 tokens and 5 microdollars and gives nothing; 2 costs 7 and is evaluated."""
    told = played(until=0)
    answer_until(told, "feedback_requested")
    told.say(agent_called(1, prompt_tokens=100, completion_tokens=20, micro_usd=5))
    told.say(ProposalFailed(generation=1, reason="no idea"))
    told.say(agent_called(2, prompt_tokens=4, completion_tokens=3, micro_usd=1), proposed(2, "s2"))
    answer_until(told, "candidate_evaluated")
    report = report_of(as_history(told.messages))
    assert [(row.tokens, row.micro_usd) for row in report.generations[:3]] == [(0, 0), (120, 5), (7, 1)]
    assert (report.tokens, report.micro_usd) == (127, 6)


def answer_until(told: DecidedLog, tag: str) -> None:
    """Answer what is asked until there is one more event of this type."""

    def count() -> int:
        return sum(event.tag == tag for event in readable(told.messages))

    before = count()
    while count() == before:
        told.say(missing_answers(told.messages)[0])


@pytest.mark.skipif(
    AgentCalled.__annotations__["prompt_tokens"] is int, reason="each call has to say its tokens, in this version"
)
def test_calls_that_report_no_tokens_are_counted_and_are_not_0(tmp_path: Path) -> None:
    told = played(until=0)
    answer_until(told, "feedback_requested")
    told.say(agent_called(1, prompt_tokens=None, completion_tokens=None, micro_usd=None))
    told.say(ProposalFailed(generation=1, reason="no idea"))
    run = as_history(told.messages)
    report, row = report_of(run), row_of(run, tmp_path)
    assert (report.generations[1].unreported, report.generations[1].unpriced, report.unreported) == (1, 1, 1)
    assert (row["tokens"], row["unreported"], row["unpriced"]) == (0, 1, 1)  # the policy's calls did report


@pytest.mark.parametrize("given_up", [False, True], ids=["under way", "given up"])
def test_what_an_agent_tries_out_counts_at_once_and_in_a_generation_that_comes_to_nothing(given_up: bool) -> None:
    told = played(until=0)
    answer_until(told, "feedback_requested")
    before = report_of(as_history(told.messages))
    told.say(example(TrialFinished, generation=1, rollouts=5, prompt_tokens=90, completion_tokens=10, micro_usd=3))
    if given_up:
        told.say(ProposalFailed(generation=1, reason="no idea"))
    after = report_of(as_history(told.messages))
    assert (after.rollouts, after.tokens, after.micro_usd) == (
        before.rollouts + 5,
        before.tokens + 100,
        before.micro_usd + 3,
    )
    assert (after.generations[1].rollouts, after.generations[1].tokens) == (5, 100)


@pytest.mark.parametrize("name", ["decider-version-5", "everything-goes-wrong", "adapter-refused"])
def test_a_fork_says_what_is_its_own_and_what_it_inherited(name: str) -> None:
    """What it inherited is what its parent's decider had spent there; both are the decider's sum at the end."""
    parent = folder.read(HISTORIES / name)
    for end in whole(parent.messages)[20::60]:
        past = parent.messages[:end]
        fork = DecidedLog(run="child", past=past)
        fork.say(
            msgspec.structs.replace(
                parent.started,
                on_drift="",
                parent_run=parent.run,
                parent_sequence=past[-1].sequence,
                parent_digest=lineage.past_digest(past),
            )
        )
        fork.go_on()
        report = report_of(as_history(fork.messages, run="child", past=past))
        finished = next(event.data for event in readable(fork.messages) if isinstance(event.data, RunFinished))
        asked = [event.data for event in readable(fork.messages) if isinstance(event.data, RolloutsRequested)]
        assert report.inherited and report.own.rollouts == sum(len(one.items) * one.attempts for one in asked), end
        assert report.inherited.tokens == state_after(parent.run, past).spent[1], end
        assert report.inherited.tokens + report.own.tokens == finished.tokens, end
        assert report.state == "finished" and report.reason == finished.reason


def test_the_best_answers_of_a_run_are_the_same_by_its_events_and_in_the_archive(tmp_path: Path) -> None:
    """Of each purpose the highest reward, of equals the one that was scored first."""
    run = folder.read(HISTORIES / "decider-version-6")
    found = {one.purpose: one for one in best_answers(run.events)}
    scored = {
        event.data.trajectory: event.data.reward for event in run.events if isinstance(event.data, TrajectoryScored)
    }
    recorded = {event.id: event.data for event in run.events if isinstance(event.data, TrajectoryRecorded)}
    for purpose in ("dev", "probe", "train"):
        most = max(scored[id] for id, one in recorded.items() if one.purpose == purpose)
        first = next(id for id in scored if recorded[id].purpose == purpose and scored[id] == most)
        assert (found[purpose].reward, found[purpose].trajectory) == (most, first)
    (tmp_path / "a").mkdir()
    archive = Archive(tmp_path / "a" / "archive.duckdb")
    archive.apply(run.everything)
    archive.close()
    assert {one.purpose: one for one in find_best_answers(tmp_path / "a", run.run)} == found


def test_gold_of_a_best_answer_is_said_where_gold_scored_that_answer() -> None:
    run = folder.read(HISTORIES / "decider-version-6")
    reporter = asyncio.run(follow_both(run.log, run.gold_log, run.run))
    (of,) = [id for id, generation in reporter._generations.items() if generation == 1]
    reporter._dev_gold = {of: {"d1": (0.25,)}}
    one = BestAnswer(
        purpose="dev", split="dev", generation=1, item="d1", attempt=0, trajectory="t", answer="a", reward=9
    )
    others = [msgspec.structs.replace(one, **{name: value}) for name, value in (("item", "d2"), ("generation", 0))]
    for answer, gold in ((one, 0.25), *((other, None) for other in others)):
        reporter.put_best_answers([answer])
        assert [best.by_gold for best in reporter.report.best_answers] == [gold]
    reporter.put_best_answers([msgspec.structs.replace(one, purpose="train", reward=10.0), one])
    assert [(best.purpose, best.by_gold) for best in reporter.report.best_answers] == [("train", None), ("dev", 0.25)]


def test_a_run_is_graded_where_a_reward_is_neither_0_nor_1() -> None:
    assert report_of(folder.read(HISTORIES / "decider-version-6")).graded
    assert not report_of(folder.read(HISTORIES / "decider-version-5")).graded
