"""What a service does and waits for, as it is told, as it is logged, and as it is put into words."""

import logging
from collections.abc import Callable

import pytest

from runtime.status import FIELDS, UNHEARD, Status, StatusReporter, Waiting, waiting
from services.views.waiting import FIRST_REPEAT, QuietLines, present, present_lines, quiet_line, waiting_sentence

NOW = 1_000_000.0


def reporter(
    redact: Callable[[str], str] = lambda text: text, on_change: Callable[[], None] = lambda: None
) -> StatusReporter:
    return StatusReporter("meta_agent", 0, redact=redact, on_change=on_change)


def overloaded(attempt: int = 3, run: str = "r") -> Status:
    told = Waiting(
        waiting_for="an answer of openai:m",
        run=run,
        since=NOW - 12,
        error="HTTP 503: busy",
        attempt=attempt,
        attempts=10,
        retry_at=NOW + 4,
    )
    return Status(service="meta_agent", index=0, host="h", pid=1, since=NOW, waiting=(told,))


def busy(seconds: float, run: str = "r") -> Status:
    told = reporter()
    with told.doing("runs 32 rollouts of generation 2 (dev)", run):
        (activity,) = told.status().activities
    activity = type(activity)(doing=activity.doing, run=run, since=NOW - seconds)
    return Status(service="executor", index=1, host="h", pid=1, since=NOW, activities=(activity,))


def test_what_is_told_stands_in_the_status_until_it_is_over() -> None:
    changes: list[int] = []
    told = reporter(on_change=lambda: changes.append(1))
    with told.doing("writes the first scaffold", "r"):
        waits = told.waits("r")
        waits.report("an answer of openai:m", "HTTP 503", 1, 10, NOW)
        waits.report("an answer of openai:m", "HTTP 503", 2, 10, NOW + 1)
        other = told.waits("s")
        other.report("what its host lacks", "no torch")
        status = told.status()
        assert [(one.run, one.attempt) for one in status.waiting] == [("r", 2), ("s", None)]
        assert [one.doing for one in status.activities] == ["writes the first scaffold"]
        waits.clear()
        assert [one.run for one in told.status().waiting] == ["s"]
        other.clear()
    ended = told.status()
    assert (ended.activities, ended.waiting, ended.last_error) == ((), (), "no torch")
    assert len(changes) == 7 and ended.process == "meta_agent-0"


def test_what_is_waited_for_since_when_is_kept_over_the_tries() -> None:
    told = reporter()
    told.report("the model", "refused", 1)
    (first,) = told.status().waiting
    told.report("the model", "refused", 2)
    (second,) = told.status().waiting
    told.report("a verifier")
    (third,) = told.status().waiting
    assert second.since == first.since <= third.since and third.error == ""


def test_secrets_are_struck_out_of_what_is_told() -> None:
    told = reporter(redact=lambda text: text.replace("sk-secret", "[...]"))
    with told.doing("asks with sk-secret"):
        told.report("the server of sk-secret", "no key sk-secret")
        status = told.status()
    assert "sk-secret" not in repr(status) and repr(status).count("[...]") == 4


def test_a_try_is_one_line_of_the_log_and_no_line_is_there_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evolog")
    waits = reporter().waits("r")
    for attempt in (1, 1, 2):
        waits.report("the model", "HTTP 503", attempt, 10)
    waits.clear()
    waits.clear()
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("WARNING", "waits for the model"),
        ("WARNING", "waits for the model"),
        ("INFO", "waits no longer for the model"),
    ]
    assert getattr(caplog.records[1], FIELDS) == {"run": "r", "error": "HTTP 503", "attempt": "2/10"}


def test_whoever_does_not_listen_is_told_all_the_same() -> None:
    with waiting(UNHEARD, "something"):
        UNHEARD.report("nothing", "no error", 1, 2, 3.0)


def test_a_wait_in_words() -> None:
    status = overloaded()
    (told,) = status.waiting
    assert waiting_sentence(status, told, NOW) == (
        "meta_agent-0 waits for an answer of openai:m: HTTP 503: busy (try 3 of 10 failed, next in 4 s, for 12 s)"
    )
    lacking = Waiting(waiting_for="what its host lacks", run="r", since=NOW - 9, error="No data.", put_off=1)
    assert present("r", [Status(service="verifier", index=0, host="h", pid=1, since=NOW, waiting=(lacking,))], NOW) == [
        "verifier-0 waits for what its host lacks: No data (1 event put off, for 9 s)"
    ]
    assert "(try 3 of 10 failed, the next is under way, for 16 s)" in waiting_sentence(status, told, NOW + 4)


def test_what_goes_wrong_is_said_before_what_takes_its_time_and_other_runs_are_left_out() -> None:
    statuses = [busy(200.0), busy(1.0, "other"), overloaded(), overloaded(run="other")]
    said = present("r", statuses, NOW)
    assert len(said) == 2 and said[0].startswith("meta_agent-0 waits")
    assert said[1] == "executor-1 runs 32 rollouts of generation 2 (dev) (for 3 min 20 s)"
    assert len(present("", statuses, NOW)) == 4
    assert quiet_line("r", 14.2, [busy(1.0)], NOW).startswith("nothing for 14 s, waiting for: executor-1 runs 32")
    assert "none has it in hand" in quiet_line("r", 3.0, [overloaded(run="other")], NOW)
    assert "`evolog logs`" in quiet_line("r", 3.0, [], NOW)
    assert quiet_line("r", 3.0, [busy(1.0)], NOW, paused=True).startswith("nothing for 3 s, waiting for `evolog resume")


def test_show_says_what_an_unfinished_run_waits_for() -> None:
    assert present_lines("r", [busy(5.0)], NOW - 7, NOW) == [
        "last decision 7 s ago, waiting for:",
        "  executor-1 runs 32 rollouts of generation 2 (dev) (for 5 s)",
    ]
    assert present_lines("r", [], None, NOW) == ["no service is up: `evolog up` goes on with it"]


def test_lines_that_stay_are_few() -> None:
    quiet = QuietLines("r")
    assert quiet.lines(1.0, [overloaded(1)], NOW) != []
    assert quiet.lines(1.2, [overloaded(1)], NOW) == []
    assert quiet.lines(1.4, [overloaded(2)], NOW) != []
    printed = [second for second in range(2, 200) if quiet.lines(float(second), [busy(second)], NOW)]
    assert printed == [10, 20, 40, 80, 160]
    assert not quiet.lines(0.1, [busy(0)], NOW)
    assert quiet.lines(FIRST_REPEAT, [busy(10)], NOW)


def test_where_a_line_is_replaced_only_what_is_newly_wrong_stays() -> None:
    quiet = QuietLines("r", replaced=True)
    assert [bool(quiet.lines(50.0, [overloaded(attempt)], NOW)) for attempt in (1, 2, 3)] == [True, False, False]
    assert not quiet.lines(500.0, [busy(500)], NOW)
