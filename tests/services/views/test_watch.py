"""What `evolog watch` draws on a terminal."""

from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from events.change import ScaffoldRequested
from events.subjects import LOG
from replay.report import Generation, Report
from replay.run_state import ListedRun
from runtime.status import Activity, Status, Waiting
from services.host.watched import RATE_SECONDS, Rates, WatchedMoment
from services.views.watch import EVENTS, LINES, run_picture, runs_picture
from tests.harness.facts import trajectory
from tests.harness.made_up_runs import stored

NOW = 1_000.0


def drawn(picture: RenderableType, width: int) -> list[str]:
    text = StringIO()
    Console(file=text, width=width).print(picture)
    return text.getvalue().splitlines()


def watched(**changed: Any) -> WatchedMoment:
    first = stored("r", LOG, [ScaffoldRequested(generation=0, task="toy")])
    many = stored("r", LOG, [trajectory(attempt).data for attempt in range(130)])
    usual: dict[str, Any] = {"statuses": (), "recent": (*first, *many), "rates": (), "quiet": 0.0, "now": NOW}
    return WatchedMoment(**usual | changed)


def process(index: int, *waiting: Waiting) -> Status:
    doing = Activity(doing="runs 128 rollouts", run="r", since=NOW - 3)
    return Status(service="executor", index=index, host="h", pid=index, since=0.0, activities=(doing,), waiting=waiting)


def report(generations: int, **changed: Any) -> Report:
    rows = [
        Generation(generation=number, lever="scaffold", change="less of it " * number, rollouts=10, began=10**9)
        for number in range(generations)
    ]
    usual: dict[str, Any] = {"task": "/tasks/toy", "state": "running", "generations": rows, "rollouts": 1_200}
    return Report(**{"run": "r"} | usual | changed)


def test_a_run_is_drawn_with_its_work_rates_cost_services_and_last_events() -> None:
    statuses = [process(number) for number in range(LINES + 2)]
    lines = drawn(run_picture(report(2), 900, watched(statuses=statuses, rates=(12.25, 3.0)), 120, 40), 120)
    assert lines[0] == "r: task toy: running for 16 min 39 s"
    assert (
        "work: 900 of 1,200 rollouts that were asked for are done; 12.2 events a second, 3.0 rollouts a second" in lines
    )
    assert "cost: 1,200 rollouts, 0 tokens, $0.00" in lines
    assert lines.count("now: executor-0 runs 128 rollouts (for 3 s)") == 1 and "now: and 2 more" in lines
    first, last = lines[-2:]
    assert "scaffold_requested" in first and " x" not in first and "trajectory_recorded     x130" in last
    assert all(len(line) <= 120 for line in lines) and last.endswith("…")


def test_what_keeps_a_run_waiting_and_why_it_ended_is_said() -> None:
    waiting = Waiting(waiting_for="an answer of openai:m", run="r", since=NOW - 5, error="HTTP 503")
    lines = drawn(run_picture(report(1), 0, watched(statuses=[process(0, waiting)]), 120, 40), 120)
    assert "now: executor-0 waits for an answer of openai:m: HTTP 503 (for 5 s)" in lines
    lines = drawn(run_picture(report(1, state="paused"), 0, watched(quiet=9.0), 120, 40), 120)
    assert "nothing for 9 s, waiting for `evolog resume r`: the run is paused" in lines
    over = report(1, state="finished", audit="done", reason="all is done", score=0.75)
    lines = drawn(run_picture(over, 0, watched(quiet=9.0), 120, 40), 120)
    assert lines[0] == "r: task toy: finished, audited: all is done, best dev 0.7500"
    assert not any(line.startswith("nothing") for line in lines)


def test_a_picture_is_no_higher_than_the_window_and_says_what_it_leaves_out() -> None:
    for height in (24, 40):
        run = report(100, run="r" * 20)
        for row in run.generations:
            row.score, row.low, row.high, row.verdict = 0.5, 0.4, 0.6, "no better than its parent"
        run.generations[-1].change = "short"
        lines = drawn(run_picture(run, 0, watched(), 80, height), 80)
        assert len(lines) < height
        (cut,) = [line for line in lines if "earlier generations are not shown" in line]
        assert "left out for want of room" in cut
        assert "│  99 │" in "".join(lines) and "│   0 │" not in "".join(lines)


def test_of_all_runs_those_that_go_on_stand_last() -> None:
    def listed(run: str, state: Any, audit: Any) -> ListedRun:
        return ListedRun(
            run=run,
            task="toy",
            seed=0,
            levers=("scaffold",),
            started="",
            state=state,
            audit=audit,
            decisions=1,
            score=None,
            reason="",
            strategy="chain",
            width=1,
            owner="",
        )

    runs = [listed("one", "running", ""), *(listed(f"old{n}", "finished", "done") for n in range(40))]
    runs.append(listed("two", "finished", "under way"))
    lines = drawn(runs_picture(runs, watched(rates=(2.0,)), 120, 30), 120)
    assert lines[0] == "42 runs" and "work: 2 of 42 runs go on; 2.0 events a second" in lines
    names = [line.split()[1] for line in lines if line.startswith("│")]
    assert names[-2:] == ["one", "two"] and len(names) < 30
    assert len([line for line in lines if "not shown" in line]) == 1


def test_texts_of_a_model_move_no_cursor() -> None:
    hostile = report(1, state="finished", reason="\x1b[2Jgone\nand a line")
    (head, *_) = drawn(run_picture(hostile, 0, watched(), 120, 40), 120)
    assert "\x1b" not in head and "gone" in head and "and a line" in head


def test_rates_are_those_of_the_last_half_minute() -> None:
    rates = Rates()
    assert rates.per_second() == ()
    rates.note(0.0, 0, 0)
    assert rates.per_second() == ()
    rates.note(10.0, 100, 5)
    assert rates.per_second() == (10.0, 0.5)
    rates.note(10.0 + RATE_SECONDS, 160, 5)
    assert rates.per_second() == (2.0, 0.0)


def test_more_types_than_there_is_room_for_leave_the_last() -> None:
    kinds = [
        message
        for attempt in range(EVENTS)
        for fact in (ScaffoldRequested(generation=attempt, task="toy"), trajectory(attempt).data)
        for message in stored("r", LOG, [fact])
    ]
    lines = drawn(run_picture(report(1), 0, watched(recent=kinds), 120, 40), 120)
    shown = [line for line in lines if "scaffold_requested" in line or "trajectory_recorded" in line]
    assert len(shown) == EVENTS and f'"attempt":{EVENTS - 1}' in shown[-1]
