"""`import evolog`: what is recorded, read in Python, from a project directory and from an export; and a run started."""

import asyncio
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import evolog
from events import codec
from events.catalogue import BY_TAG
from events.errors import NotFound, UsageError
from events.judgement import TrajectoryScored
from events.rollouts import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.run import RunStarted
from events.subjects import GOLD
from evolog.tables import relation
from replay.archive.query import QueryResult
from replay.exports import folder
from runtime.blobs.directory import Blobs
from runtime.log.port import readable
from tests.harness.decided_log import DecidedLog, as_history
from tests.harness.facts import RUN, proposed, started
from tests.harness.paths import ROOT, TOY

PROMPT = "Which of four enzymes cleaves the bond?"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of a run without a change, one of whose attempts called the policy, and one of which failed."""
    blobs = Blobs(tmp_path / "blobs")
    body = blobs.put(msgspec.json.encode([{"prompt": PROMPT, "hint": " Think.", "choices": ["A", "B"]}]))
    log = DecidedLog()
    log.say(started(generations=0), proposed())
    asked = next(event for event in readable(log.messages) if isinstance(event.data, RolloutsRequested))
    assert isinstance(asked.data, RolloutsRequested)
    first, second = asked.data.items[:2]
    called = ModelCalled(
        request=asked.id,
        item=first,
        ordinal=0,
        provider="embedded",
        model="m",
        adapter="",
        body=body,
        index=0,
        sampling_seed=1,
        temperature=0.5,
        texts=("A", "B"),
        tokens=((1,), (2, 3)),
        logprobs=((-0.1,), (-0.2, -0.3)),
        prompt_tokens=9,
        completion_tokens=3,
        micro_usd=0,
        seconds=0.0,
        cut=(False, True),
    )
    place: dict[str, Any] = {"request": asked.id, "item": first, "attempt": 0}
    use = CallUse(codec.event_id(RUN, ModelCalled, *called.key()), 1)
    recorded = TrajectoryRecorded(
        **place,
        purpose="dev",
        split="dev",
        generation=0,
        scaffold="s0",
        adapter="",
        answer="B",
        calls=(use,),
        seconds=1.5,
    )
    scored = TrajectoryScored(
        **place,
        trajectory=codec.event_id(RUN, TrajectoryRecorded, *recorded.key()),
        reward=1.0,
        outcome="right",
        verifier="v1",
    )
    failed = RolloutFailed(
        request=asked.id, item=second, attempt=0, purpose="dev", kind="crashed", reason="its process was killed"
    )
    log.say(called, recorded, scored, failed)
    folder.write(as_history(log.go_on().messages, blobs.root), tmp_path / "out", "1")
    return tmp_path / "out"


def test_an_export_is_opened_with_its_run(export: Path) -> None:
    project = evolog.open(export)
    (only,) = project.runs()
    assert project.is_export and only.name == RUN == project.run("r").name
    assert (only.report.run, only.started.seed, only.finished is not None) == (RUN, 7, True)
    with pytest.raises(NotFound, match="an export of r"):
        project.run("other")


def test_events_come_in_the_order_of_the_log_by_type(export: Path) -> None:
    run = evolog.open(export).runs()[0]
    rows = list(run.events())
    assert [row.sequence for row in rows] == sorted(row.sequence for row in rows)
    assert isinstance(rows[0].event.data, RunStarted)
    (recorded,) = run.events(TrajectoryRecorded)
    assert isinstance(recorded.event.data, TrajectoryRecorded) and recorded.event.data.answer == "B"


def test_a_trajectory_has_what_was_asked_and_said_with_its_tokens(export: Path) -> None:
    run = evolog.open(export).runs()[0]
    answered, failed = run.trajectories("dev", generation=0)
    assert [(turn.role, turn.content) for turn in answered.messages] == [
        ("user", f"{PROMPT} Think."),
        ("assistant", "B"),
    ]
    (call,) = answered.calls
    assert (answered.tokens, call.logprobs, call.choices, call.cut) == ((2, 3), (-0.2, -0.3), ("A", "B"), True)
    assert (answered.answer, answered.reward, answered.outcome, answered.seconds) == ("B", 1.0, "right", 1.5)
    assert (failed.answer, failed.reward, failed.outcome, failed.failure, failed.calls) == (
        None,
        None,
        "crashed",
        "its process was killed",
        (),
    )
    assert list(run.trajectories("train")) == [] == list(run.trajectories(generation=1))


def test_prompts_that_were_left_out_are_no_turns(export: Path) -> None:
    shutil.rmtree(export / "blobs")
    (answered, _) = evolog.open(export).runs()[0].trajectories()
    assert [turn.role for turn in answered.messages] == ["assistant"] and answered.tokens == (2, 3)


def test_views_of_an_export_are_made_of_its_events(export: Path) -> None:
    project = evolog.open(export)
    assert (
        project.view("trajectories").select("item, reward").fetchall()
        == project.runs()[0].view("trajectories").select("item, reward").fetchall()
    )
    assert project.sql("SELECT count(*) FROM rollout_failed").fetchall() == [(1,)]
    for query in ("DELETE FROM events", "FROM gold_scored", "COPY events TO 'x.csv'"):
        with pytest.raises(UsageError):
            project.sql(query)


def test_no_word_of_gold_is_among_events_and_tables(export: Path) -> None:
    run = evolog.open(export).runs()[0]
    tables = {name for (name,) in run.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
    gold = {tag for tag, entry in BY_TAG.items() if entry.stream == GOLD}
    assert gold and not gold & tables and not gold & {row.event.tag for row in run.events()}


def test_all_of_it_works_where_an_event_loop_runs(export: Path) -> None:
    async def cell() -> tuple[str, int]:
        run = evolog.open(export).runs()[0]
        return run.report.run, len(list(run.trajectories()))

    assert asyncio.run(cell()) == (RUN, 2)


def test_where_nothing_is_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no project directory and no export at"):
        evolog.open(tmp_path)


def test_a_relation_has_the_types_of_the_answer() -> None:
    kinds = {
        "n": ("BIGINT", 2**62, 2**62),
        "x": ("DOUBLE", 0.1, 0.1),
        "nothing": ("DOUBLE", None, None),
        "yes": ("BOOLEAN", True, True),
        "text": ("VARCHAR", "it's\n\u202e", "it's\n\u202e"),
        "when": (
            "TIMESTAMP WITH TIME ZONE",
            "2026-01-01T00:00:00.000001Z",
            datetime.datetime(2026, 1, 1, 0, 0, 0, 1, datetime.UTC),
        ),
        "bytes": ("BLOB", "AAH/", b"\x00\x01\xff"),
        "list": ("VARCHAR[]", ["a", "b"], ["a", "b"]),
        "by name": ("MAP(VARCHAR, DOUBLE)", {"a": 1.5}, {"a": 1.5}),
        "parts": ('STRUCT("call" VARCHAR, completion BIGINT)[]', [{"call": "c", "completion": 1}], None),
        "span": ("INTERVAL", "1 day", "1 day"),
    }
    rows = [tuple(value for _, value, _ in kinds.values()), tuple(None for _ in kinds)]
    found = relation(QueryResult(tuple(kinds), tuple(kind for kind, _, _ in kinds.values()), rows), "a name")
    expected = {name: kind if kind != "INTERVAL" else "VARCHAR" for name, (kind, _, _) in kinds.items()}
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == expected
    first, second = found.fetchall()
    for name, value in zip(kinds, first, strict=True):
        assert value == (kinds[name][2] if kinds[name][2] is not None or name == "nothing" else kinds[name][1]), name
    assert set(second) == {None}


def test_a_relation_without_rows_has_its_columns() -> None:
    found = relation(QueryResult(("run", "score"), ("VARCHAR", "DOUBLE"), []), "runs")
    assert (found.columns, found.fetchall()) == (["run", "score"], [])
    counted = found.query("runs", "SELECT count(*) FROM runs")
    assert counted and counted.fetchall() == [(0,)]


def test_a_relation_is_arrow_and_pandas_too() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    found = relation(QueryResult(("run", "score"), ("VARCHAR", "DOUBLE"), [("a", 0.5)]), "runs")
    assert found.df().to_dict("records") == found.to_arrow_table().to_pylist() == [{"run": "a", "score": 0.5}]


def test_an_order_that_is_refused_is_the_commands_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="There is no task 'nowhere'") as refused:
        evolog.run("nowhere")
    assert refused.value.code == 4
    with pytest.raises(UsageError, match="not in the range"):
        evolog.run(TOY, width=99)


@pytest.mark.slow
def test_a_run_is_started_and_looked_at_as_the_example_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVOLOG_START_ATTEMPTS", "0")
    run = evolog.run(TOY, name="first", levers="scaffold", generations=1)
    assert run.report.ended and run.report.cells and run.project.view("runs").select("run").fetchall() == [("first",)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "services/notebook")])}
    example = [sys.executable, str(ROOT / "services/notebook/example.py")]
    said = subprocess.run(example, env=environment, capture_output=True, text=True, check=True).stdout
    assert "evolog.open('.evolog').run('first')" in said and "assistant: " in said and run.audit().state in said
    assert "<img" in run.audit()._repr_html_()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / ".evolog").rglob("*") if path.is_file()}
    assert len(list(run.project.run("fir").trajectories())) == run.report.rollouts
    run.audit(fresh=True)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert not changed & {"archive.duckdb", "gold.duckdb"} and not any(name.endswith(".blk") for name in changed)
