"""The archive: every type of event has its table, rows and cursor move together, and the views answer."""

import math
import random
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import codec
from events.catalogue import BY_TAG, ENTRIES, Entry
from events.change import (
    ChildRunFinished,
    ChildRunOrdered,
    ChildRunRequested,
    ScaffoldProposed,
    ScaffoldRequested,
    WeightUpdateRequested,
)
from events.choice import FeedbackRequested, LeverChosen, TrialFinished
from events.errors import CheckFailed, TryAgain
from events.fact import Fact
from events.judgement import (
    CandidateEvaluated,
    CandidateRechecked,
    LabelEstimated,
    StageEvaluated,
    TrajectoryScored,
)
from events.kinds import Purpose
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept, CandidateRejected
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished, RunStarted
from events.subjects import GOLD, LOG
from events.weights import AdapterPublished, AdapterServed, OptimizerStepApplied, TrainingBatchSealed
from replay.archive.projection import Archive
from replay.votes import vote
from runtime.log.port import Stored, readable
from tests.harness.archives import dump
from tests.harness.decided_log import lagging_run
from tests.harness.facts import example, publisher
from tests.harness.polling import PATIENCE

RUN = "demo"


def stored(facts: list[Fact], start: int = 1) -> list[Stored]:
    events = [
        codec.event(fact, run=RUN, source=publisher(fact), cause="because", time="2026-01-01T00:00:00Z")
        for fact in facts
    ]
    return [at(number, event.subject, codec.encode(event)) for number, event in enumerate(events, start)]


def example_of(entry: Entry) -> Fact:
    """An example of a type, whose key no type has that excludes it."""
    kind, number = entry.fact, ENTRIES.index(entry)
    hints = typing.get_type_hints(kind)
    made: Fact = example(kind, **{key: hints[key](number) for key in kind.KEY[:1] if hints[key] in (str, int)})
    return made


def at(sequence: int, subject: str, data: bytes) -> Stored:
    return Stored(sequence, 1_700_000_000_123_456_789 + sequence * 1_000_000_000, subject, data)


def ask(archive: Archive, sql: str) -> list[tuple[Any, ...]]:
    return archive.connection.execute(sql).fetchall()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(tmp_path / "archive.duckdb")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Archive]]:
    """For each stream an archive with one event of each of its types."""
    directory = tmp_path_factory.mktemp("full")
    archives = {stream: Archive(directory / stream, stream) for stream in (LOG, GOLD)}
    for stream, archive in archives.items():
        archive.apply(stored([example_of(entry) for entry in ENTRIES if entry.stream == stream]))
    yield archives
    for archive in archives.values():
        archive.close()


@pytest.mark.parametrize("tag", BY_TAG)
def test_every_type_of_event_is_found_in_its_table_as_it_was_said(tag: str, full: dict[str, Archive]) -> None:
    fact = example_of(BY_TAG[tag])
    (found,) = ask(full[BY_TAG[tag].stream], f'SELECT * REPLACE (epoch_us(time) AS time) FROM "{tag}"')
    expected = msgspec.json.decode(msgspec.json.encode(fact))
    for name, hint in typing.get_type_hints(type(fact)).items():
        if "CallUse" in str(hint):
            expected[name] = [{"call": call, "completion": completion} for call, completion in expected[name]]
    sequence = found[0]
    key = codec.event_id(RUN, type(fact), *fact.key())
    assert found[1:5] == (RUN, key, at(sequence, "", b"").time // 1000, "because")
    assert dict(zip(fact.__struct_fields__, found[5:], strict=True)) == expected


def test_the_header_table_says_where_every_event_stands(full: dict[str, Archive]) -> None:
    [row] = stored([example(ENTRIES[0].fact)])
    (found,) = ask(full[LOG], "SELECT * REPLACE (epoch_us(time) AS time) FROM events WHERE seq = 1")
    _, run, key, tag = row.subject.split(".")
    assert found == (1, row.time // 1000, row.subject, run, tag, key, "because", "operator", len(row.data))


def everything() -> list[Stored]:
    rows = stored([example_of(entry) for entry in ENTRIES if entry.stream == LOG])
    return [
        *rows,
        at(len(rows) + 1, "evolog.demo.x.unheard_of", b"{}"),
        *stored([made_score(n) for n in range(20)], len(rows) + 2),
    ]


def made_score(number: int) -> TrajectoryScored:
    return TrajectoryScored(
        trajectory=f"t{number}",
        request="r",
        item=f"i{number}",
        attempt=0,
        reward=math.sqrt(number),
        outcome="right",
        verifier="v",
    )


def test_an_archive_is_the_same_whatever_the_batches_it_was_filled_in(tmp_path: Path) -> None:
    rows = everything()
    dumps = []
    for size in (1, 7, len(rows)):
        archive = Archive(tmp_path / f"{size}.duckdb")
        for start in range(0, len(rows), size):
            archive.apply(rows[max(0, start - 2) : start + size])
        dumps.append(dump(archive))
        archive.close()
    assert dumps[0] == dumps[1] == dumps[2]
    assert dumps[0]["cursor"] == [(LOG, str(len(rows)), "")]
    assert len(dumps[0]["events"]) == len(rows) - 1


def test_rows_delivered_twice_are_counted_once(archive: Archive) -> None:
    rows = everything()
    assert archive.apply(rows) == len(rows)
    assert archive.apply(rows) == 0


def test_a_crash_within_a_batch_leaves_rows_and_cursor_as_they_were(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = everything()
    archive.apply(rows[:10])
    before = dump(archive)
    run = archive._run

    def crash(sql: str) -> list[tuple[Any, ...]]:
        if sql.startswith("UPDATE cursor"):
            raise RuntimeError("the power failed")
        return run(sql)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(archive, "_run", crash)
        archive.apply(rows[10:])
    assert dump(archive) == before
    archive.apply(rows)
    assert archive.cursor == len(rows)


def test_an_archive_opened_again_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = everything()
    first = Archive(tmp_path / "a.duckdb")
    first.apply(rows[:10])
    first.close()
    second = Archive(tmp_path / "a.duckdb")
    assert second.cursor == 10
    assert second.apply(rows) == len(rows) - 10


@pytest.mark.parametrize(
    ("subject", "payload", "reason"),
    [
        ("evolog.demo.x.run_paused", b"\xff\x00", "not a CloudEvent"),
        (
            "gold.demo.x.gold_scored",
            codec.encode(codec.event(example(BY_TAG["gold_scored"].fact), run=RUN, source="", cause="", time="")),
            "gold",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_kept_with_the_reason(
    archive: Archive, subject: str, payload: bytes, reason: str
) -> None:
    archive.apply([at(1, subject, payload)])
    ((seq, found_subject, found_reason, found),) = ask(archive, "SELECT seq, subject, reason, payload FROM unreadable")
    assert (seq, found_subject, found) == (1, subject, payload)
    assert reason in found_reason
    assert archive.cursor == 1


def test_a_fact_nested_too_deep_to_read_is_kept_too(archive: Archive) -> None:
    [row] = stored([made_score(1)])
    deep = row.data.replace(b'"data":{', b'"data":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b",")
    archive.apply([at(1, row.subject, deep)])
    assert ask(archive, "SELECT count(*) FROM unreadable") == [(1,)]


def test_a_gap_in_the_sequences_is_refused(archive: Archive) -> None:
    rows = everything()
    archive.apply(rows[:3])
    with pytest.raises(CheckFailed, match=r"sequence 6 .* 4 was expected"):
        archive.apply(rows[5:])
    assert archive.cursor == 3


def test_tables_of_another_shape_are_filled_again_from_the_beginning(archive: Archive, tmp_path: Path) -> None:
    archive.apply(everything())
    archive._run("UPDATE made SET tables = 'as it was once'")
    archive.close()
    again = Archive(tmp_path / "archive.duckdb")
    assert again.cursor == 0
    assert ask(again, "SELECT count(*) FROM events") == [(0,)]


def test_views_are_made_again_when_their_text_changes(archive: Archive, tmp_path: Path) -> None:
    archive.apply(everything())
    archive._run("DROP VIEW runs")
    archive._run("CREATE VIEW long_gone AS SELECT 1")
    archive._run("UPDATE made SET views = 'as they were once'")
    archive.close()
    again = Archive(tmp_path / "archive.duckdb")
    views = ask(again, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert ("runs",) in views and ("long_gone",) not in views
    assert again.cursor == len(everything())


def test_gold_has_an_archive_of_its_own(full: dict[str, Archive]) -> None:
    sql = "SELECT count(*) FROM duckdb_tables() WHERE table_name IN ('gold_scored', 'run_started')"
    assert ask(full[GOLD], sql) == ask(full[LOG], sql) == [(1,)]


def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(CheckFailed, match="delete it to have it made anew"):
        Archive(path)


def test_a_file_held_elsewhere_asks_to_try_again(archive: Archive, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom events.errors import TryAgain\nfrom replay.archive.projection import Archive\n"
        f"try:\n    Archive(Path({str(tmp_path / 'archive.duckdb')!r}))\nexcept TryAgain as held:\n    "
        "print(held.code, held)"
    )
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert found.stdout.startswith(f"{TryAgain.code} ")
    assert "held by another process" in found.stdout


def request(generation: int, purpose: Purpose) -> RolloutsRequested:
    of: RolloutsRequested = example(RolloutsRequested, generation=generation, purpose=purpose, round=1, shard=0)
    return of


def played(generation: int, purpose: Purpose, rewards: list[float | None]) -> list[Fact]:
    """A request, one model call, and an attempt for each reward; None is an attempt that crashed."""
    asked = request(generation, purpose)
    key = codec.event_id(RUN, RolloutsRequested, *asked.key())
    call = example(
        ModelCalled,
        request=key,
        item="i0",
        ordinal=0,
        prompt_tokens=100,
        completion_tokens=20,
        micro_usd=7,
        seconds=0.5,
        index=0,
        cut=(True, False, False, False) if purpose == "train" else (),
        repeated=3 if purpose == "train" else 0,
    )
    facts: list[Fact] = [asked, call]
    for number, reward in enumerate(rewards):
        place: dict[str, Any] = {"request": key, "item": f"i{number}", "attempt": 0, "purpose": purpose}
        if reward is None:
            facts.append(RolloutFailed(**place, kind="crashed", reason="ZeroDivisionError"))
            continue
        attempt = example(TrajectoryRecorded, **place, generation=generation)
        name = codec.event_id(RUN, TrajectoryRecorded, *attempt.key())
        facts.append(attempt)
        facts.append(
            example(
                TrajectoryScored,
                trajectory=name,
                request=key,
                item=place["item"],
                attempt=0,
                reward=reward,
                outcome="right",
                micro_usd=0,
            )
        )
    return facts


def evaluated(generation: int, lever: str, score: float) -> list[Fact]:
    """A candidate's score, and its acceptance if it is above one half."""
    candidate = f"c{generation}"
    told = example(CandidateEvaluated, generation=generation, candidate=candidate, lever=lever, score=score, parents=())
    if score > 0.5:
        return [told, CandidateAccepted(generation=generation, candidate=candidate, score=score, reason="better")]
    return [told, CandidateRejected(generation=generation, candidate=candidate, reason="worse")]


def asked_for(generation: int, parent: str, lever: str, action: str) -> list[Fact]:
    chosen = example(
        LeverChosen,
        generation=generation,
        lever=lever,
        action=action,
        reason="it misreads dates",
        propensities={lever: 0.75},
    )
    return [example(FeedbackRequested, generation=generation, candidate=parent), chosen]


def small_run() -> list[Fact]:
    return [
        example(RunStarted, task="sums", seed=7),
        ScaffoldRequested(generation=0, task="sums"),
        example(ScaffoldProposed, generation=0),
        *played(0, "dev", [1.0, 0.0, None]),
        *evaluated(0, "start", 0.6),
        *asked_for(1, "c0", "scaffold", "add_checker"),
        example(ScaffoldProposed, generation=1, summary="a checker"),
        *played(1, "dev", [0.0, 0.0]),
        *evaluated(1, "scaffold", 0.4),
        *asked_for(2, "c0", "weights", "grpo"),
        example(WeightUpdateRequested, generation=2),
        *played(2, "train", [1.0, 1.0]),
        example(TrainingBatchSealed, generation=2, round=1, requests=("r1", "r2"), trajectories=2),
        *(
            example(
                OptimizerStepApplied,
                generation=2,
                round=1,
                parent_adapter="",
                batch="b",
                step=step,
                loss=1.0 / (1 + step),
                seconds=2.0,
            )
            for step in (0, 1)
        ),
        example(AdapterPublished, generation=2, round=1, adapter="a1", parent_adapter="", batch="b", algorithm="grpo"),
        AdapterServed(generation=2, round=1, adapter="a1", batch="b", error=1e-6),
        *played(2, "dev", [1.0, 1.0]),
        *evaluated(2, "weights", 0.9),
        example(RunFinished, reason="all 2 generations are done", candidate="c2", score=0.9),
    ]


@pytest.fixture
def small(archive: Archive) -> Archive:
    archive.apply(stored(small_run()))
    assert ask(archive, "SELECT * FROM unreadable") == []
    return archive


def test_runs_say_how_each_run_stands(small: Archive) -> None:
    found = ask(
        small,
        "SELECT run, task, state, generations, first_score, score, candidate, rollouts, tokens, micro_usd, seconds "
        "FROM runs",
    )
    assert found == [(RUN, "sums", "finished", 3, 0.6, 0.9, "c2", 9, 480, 28, len(small_run()) - 1)]


def test_generations_say_what_was_tried_and_what_came_of_it(small: Archive) -> None:
    found = ask(
        small,
        "SELECT generation, lever, action, score, accepted, rollouts, seconds FROM generations ORDER BY generation",
    )
    assert [row[:6] for row in found] == [
        (0, "start", None, 0.6, True, 3),
        (1, "scaffold", "add_checker", 0.4, False, 2),
        (2, "weights", "grpo", 0.9, True, 4),
    ]
    assert found[0][6] == 10.0


def test_candidates_know_their_parents(small: Archive) -> None:
    found = ask(small, "SELECT candidate, parent, accepted FROM candidates ORDER BY generation")
    assert found == [("c0", None, True), ("c1", "c0", False), ("c2", "c0", True)]


def test_a_rollout_that_failed_has_no_reward(small: Archive) -> None:
    found = ask(small, "SELECT item, reward, outcome, failure FROM trajectories WHERE generation = 0 ORDER BY item")
    assert found == [
        ("i0", 1.0, "right", None),
        ("i1", 0.0, "right", None),
        ("i2", None, "crashed", "ZeroDivisionError"),
    ]


def test_rewards_are_means_over_the_attempts_that_were_scored(small: Archive) -> None:
    found = ask(small, "SELECT item, attempts, failed, mean, best FROM rewards WHERE generation = 0 ORDER BY item")
    assert found == [("i0", 1, 0, 1.0, 1.0), ("i1", 1, 0, 0.0, 0.0), ("i2", 1, 1, None, None)]


def test_levers_are_judged_against_the_parent(small: Archive) -> None:
    found = ask(
        small,
        "SELECT lever, action, propensity, parent_score, round(gain, 9), accepted FROM levers ORDER BY generation",
    )
    assert found == [("scaffold", "add_checker", 0.75, 0.6, -0.2, False), ("weights", "grpo", 0.75, 0.6, 0.3, True)]


def test_adapters_name_the_requests_that_trained_them(small: Archive) -> None:
    found = ask(
        small, "SELECT adapter, requests, trajectories, steps, first_loss, last_loss, seconds, served FROM adapters"
    )
    assert found == [("a1", ["r1", "r2"], 2, 2, 1.0, 0.5, 4.0, True)]


def test_adapters_say_how_far_behind_their_oldest_rollouts_were(archive: Archive) -> None:
    messages = lagging_run()
    archive.apply(messages)
    facts = [event.data for event in readable(messages)]
    asked = {event.id: event.data.adapter for event in readable(messages) if isinstance(event.data, RolloutsRequested)}
    version = {("", 0): 0} | {
        (fact.adapter, fact.generation): fact.round for fact in facts if isinstance(fact, AdapterPublished)
    }
    lags = {
        (fact.generation, fact.round): max(
            abs(version.get((fact.parent_adapter, fact.generation), 0) - version.get((asked[id], fact.generation), 0))
            for id in fact.requests
        )
        for fact in facts
        if isinstance(fact, TrainingBatchSealed)
    }
    found = ask(archive, "SELECT generation, round, lag FROM adapters ORDER BY ALL")
    assert [(generation, number, lags[generation, number]) for generation, number, _ in found] == found
    assert {lag for _, _, lag in found} == {0, 1}


def test_cost_is_split_by_generation_and_purpose(small: Archive) -> None:
    found = ask(
        small,
        "SELECT generation, purpose, rollouts, failed, model_calls, tokens, model_seconds, micro_usd FROM cost ORDER "
        "BY ALL",
    )
    assert found == [
        (0, "dev", 3, 1, 1, 120, 0.5, 7),
        (1, "dev", 2, 0, 1, 120, 0.5, 7),
        (2, "dev", 2, 0, 1, 120, 0.5, 7),
        (2, "train", 2, 0, 1, 120, 0.5, 7),
    ]


def test_what_an_agent_tried_out_is_in_the_cost_and_in_the_totals_of_the_run(small: Archive) -> None:
    trials = [
        example(
            TrialFinished, generation=1, trial=name, rollouts=5, prompt_tokens=90, completion_tokens=10, micro_usd=3
        )
        for name in ("first", "second")
    ]
    small.apply(stored(trials, start=len(small_run()) + 1))
    found = ask(small, "SELECT * EXCLUDE (run, failed, repeated, cut) FROM cost WHERE purpose = 'trial'")
    assert found == [(1, "trial", 10, None, 180, 20, 200, None, 6, 0, 0)]
    assert ask(small, "SELECT rollouts, tokens, micro_usd FROM runs") == [(9 + 10, 480 + 200, 28 + 6)]


def test_cost_says_which_share_of_completions_was_cut_where_the_log_says(small: Archive) -> None:
    found = ask(small, "SELECT generation, purpose, cut, repeated FROM cost ORDER BY ALL")
    assert found == [(0, "dev", None, 0), (1, "dev", None, 0), (2, "dev", None, 0), (2, "train", 0.25, 3)]


@pytest.mark.parametrize("unit", [1.0, 0.01])
def test_elections_say_how_often_the_majority_was_right(archive: Archive, unit: float) -> None:
    facts: list[Fact] = [example(RunStarted, solved=unit)]
    for item, answers, truth in (("a", "xxy", "x"), ("b", "yyx", "x")):
        label = LabelEstimated(
            generation=1, round=1, batch="b", request="q", item=item, answer=answers[0], votes=2, answers=3
        )
        facts.append(label)
        for attempt, answer in enumerate(answers):
            recorded = example(TrajectoryRecorded, request="q", item=item, attempt=attempt, answer=answer)
            id = codec.event_id(RUN, TrajectoryRecorded, *recorded.key())
            reward = unit * (answer == truth)
            scored = example(TrajectoryScored, trajectory=id, request="q", item=item, attempt=attempt, reward=reward)
            facts += [recorded, scored]
    archive.apply(stored(facts))
    found = ask(archive, "SELECT labels, round(agreement, 3), label_accuracy, reward_accuracy FROM elections")
    assert found == [(2, 0.667, 0.5, 0.5)]


def member(generation: int, verdict: type[Fact], parents: tuple[str, ...], score: float, lever: str) -> list[Fact]:
    candidate = f"c{generation}"
    told = example(
        CandidateEvaluated, generation=generation, candidate=candidate, lever=lever, score=score, parents=parents
    )
    return [told, example(verdict, generation=generation, candidate=candidate)]


def population() -> list[Fact]:
    """A start; two that were made from it, of which one was kept; one of both; one of that by a child run; a reject."""
    return [
        example(RunStarted, width=4, strategy="dgm", schedule="alternate", owner="", owner_generation=0),
        *member(0, CandidateAccepted, (), 0.3, "start"),
        *asked_for(2, "c0", "scaffold", "edit"),
        *asked_for(3, "c1", "weights", "grpo"),
        *member(1, CandidateAccepted, ("c0",), 0.5, "scaffold"),
        StageEvaluated(generation=2, candidate="c2", score=0.25, items=8, failed=0, passed=True, reason="close"),
        CandidateRechecked(
            generation=2, candidate="c2", against="c1", difference=-0.1, low=-0.3, high=0.1, items=9, attempts=2
        ),
        *member(2, CandidateKept, ("c0",), 0.4, "scaffold"),
        *member(3, CandidateAccepted, ("c1", "c2"), 0.75, "weights"),
        example(ChildRunRequested, generation=4, reason="it plateaus"),
        example(ChildRunOrdered, generation=4, child="demo-child-4"),
        example(ChildRunFinished, generation=4, child="demo-child-4", rollouts=50),
        ArtefactPublished(generation=4, name="notes", blob="b1", media_type="text/plain", size=12, summary="plans"),
        *member(4, CandidateRejected, ("c3",), 0.6, "child"),
    ]


def test_a_population_has_parents_verdicts_and_looks(archive: Archive) -> None:
    archive.apply(stored(population()))
    assert ask(
        archive,
        "SELECT generation, parents, second_parent, verdict, accepted, first_items, first_passed, recheck_difference, "
        "recheck_against, child FROM candidates ORDER BY generation",
    ) == [
        (0, [], None, "accepted", True, None, None, None, None, None),
        (1, ["c0"], None, "accepted", True, None, None, None, None, None),
        (2, ["c0"], None, "kept", False, 8, True, -0.1, "c1", None),
        (3, ["c1", "c2"], "c2", "accepted", True, None, None, None, None, None),
        (4, ["c3"], None, "rejected", False, None, None, None, None, "demo-child-4"),
    ]
    assert ask(archive, "SELECT generation, standing, accepted FROM generations WHERE generation = 2") == [
        (2, "kept", False)
    ]
    assert ask(archive, "SELECT width, strategy, schedule, score, candidate FROM runs") == [
        (4, "dgm", "alternate", 0.75, "c3")
    ]


def test_the_lineage_goes_over_both_parents_by_the_shortest_way(archive: Archive) -> None:
    archive.apply(stored(population()))
    found = ask(archive, "SELECT ancestor_generation, depth FROM lineage WHERE candidate = 'c4' ORDER BY depth, 1")
    assert found == [(4, 0), (3, 1), (1, 2), (2, 2), (0, 3)]
    assert ask(archive, "SELECT ancestor, depth FROM lineage WHERE generation = 2 ORDER BY depth") == [
        ("c2", 0),
        ("c0", 1),
    ]


def test_a_levers_gain_is_over_the_parent_wherever_it_stands_in_the_tree(archive: Archive) -> None:
    archive.apply(stored(population()))
    found = ask(
        archive,
        "SELECT generation, schedule, propensity, parent, parent_score, round(gain, 9), verdict FROM levers ORDER BY 1",
    )
    assert found == [
        (2, "alternate", 0.75, "c0", 0.3, 0.1, "kept"),
        (3, "alternate", 0.75, "c1", 0.5, 0.25, "accepted"),
    ]


def test_child_runs_and_artefacts_stand_beside_their_candidates(archive: Archive) -> None:
    archive.apply(stored(population()))
    assert ask(archive, "SELECT generation, child, wanted, rollouts FROM children") == [
        (4, "demo-child-4", "it plateaus", 50)
    ]
    assert ask(archive, "SELECT name, blob, size, candidate, score, verdict FROM artefacts") == [
        ("notes", "b1", 12, "c4", 0.6, "rejected")
    ]


def attempts_of(
    generation: int, lever: str, answers: dict[str, tuple[str | None, float | None]], attempt: int = 0
) -> list[Fact]:
    """A candidate's attempts at dev by item, each an answer and its reward; None: it was not scored."""
    asked = request(generation, "dev")
    key = codec.event_id(RUN, RolloutsRequested, *asked.key())
    facts: list[Fact] = [asked]
    for item, (answer, reward) in answers.items():
        place: dict[str, Any] = {"request": key, "item": item, "attempt": attempt}
        tried = example(TrajectoryRecorded, **place, purpose="dev", generation=generation, answer=answer)
        facts.append(tried)
        id = codec.event_id(RUN, TrajectoryRecorded, *tried.key())
        if reward is not None:
            facts.append(example(TrajectoryScored, **place, trajectory=id, reward=reward, outcome="right"))
    verdict = CandidateAccepted if lever == "start" else CandidateRejected
    return [*facts, *member(generation, verdict, (), 0.5, lever)]


def test_a_vote_elects_the_most_frequent_answer_of_the_start_and_its_repeats(archive: Archive) -> None:
    """Ties go to the first attempt by generation and number; no answer, and what was not scored, elect nothing."""
    wrong, right = ("x", 0.0), ("y", 1.0)
    facts = [
        *attempts_of(0, "start", {"a": wrong, "b": right, "c": (None, 0.0), "d": (None, 0.0), "e": ("z", None)}),
        *attempts_of(1, "repeat", {"a": right, "b": wrong, "c": (None, 0.0), "d": (None, 0.0), "e": ("z", None)}),
        *attempts_of(2, "repeat", {"a": right, "c": right}),
        *attempts_of(3, "scaffold", {"b": wrong, "d": right}),
    ]
    found = same_vote(archive, facts)
    assert found == [
        ("a", "y", 2, 3, 1.0, 0.75),
        ("b", "y", 1, 2, 1.0, 0.75),
        ("c", "y", 1, 3, 1.0, 0.75),
        ("d", "", 2, 2, 0.0, 0.75),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_vote_is_the_same_whoever_was_recorded_first(seed: int, archive: Archive) -> None:
    """Of equals the first by generation and attempt is elected, with the reward that it had."""
    facts = [
        *attempts_of(0, "start", {"a": ("y", 1.0)}),
        *attempts_of(0, "start", {"a": ("x", 0.0)}, attempt=1),
        *attempts_of(1, "repeat", {"a": ("x", 0.0), "b": ("z", 0.5), "c": ("v", 1.0)}),
        *attempts_of(2, "repeat", {"a": ("y", 0.0), "b": ("z", 0.0), "c": ("w", 0.0)}),
    ]
    facts = list(dict.fromkeys(facts))
    random.Random(seed).shuffle(facts)
    found = same_vote(archive, facts)
    assert [row[:5] for row in found] == [("a", "y", 2, 4, 1.0), ("b", "z", 2, 2, 0.5), ("c", "v", 1, 2, 1.0)]


def same_vote(archive: Archive, facts: list[Fact]) -> list[tuple[Any, ...]]:
    """The rows of the view; what is counted without it comes to the same."""
    archive.apply(stored(facts))
    found = ask(archive, "SELECT item, answer, votes, attempts, reward, round(score, 9) FROM votes ORDER BY item")
    counted = vote(readable(stored(facts)))
    assert counted and (counted.items, counted.attempts) == (len(found), sum(row[3] for row in found))
    assert {row[5] for row in found} == {round(counted.score, 9)}
    return found
