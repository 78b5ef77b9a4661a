"""The processes of all services as a table: who does what, what waits, and what is left out where there is no room."""

from io import StringIO

import msgspec
from rich.console import Console

from runtime.status import Activity, Status, Waiting
from services.host.overview import Overview, ServiceLoad
from services.views.services import _row, does_now, print_services

NOW = 1_000_000.0
BUSY = Status(
    service="executor",
    index=0,
    host="gpu-1",
    pid=4711,
    since=NOW - 7300,
    version="1.2.3",
    activities=(Activity(doing="runs 40 rollouts", run="r", since=NOW - 5),),
    waiting=(
        Waiting(waiting_for="an answer", run="s", since=NOW - 3),
        Waiting(waiting_for="what it lacks", run="t", since=NOW - 9, error="No data.", put_off=2),
    ),
    last_error="No room.",
    last_error_at=NOW - 61,
)
STUCK = msgspec.structs.replace(BUSY, last_error="No data.")
IDLE = Status(service="executor", index=1, host="gpu-1", pid=4712, since=NOW)


def printed(width: int) -> list[str]:
    found = Overview(
        services={
            "executor": ServiceLoad(processes=2, pending=1234, unacknowledged=5),
            "verifier": ServiceLoad(processes=0, pending=7, unacknowledged=0),
            "archivist": ServiceLoad(processes=0, pending=None, unacknowledged=0),
        },
        processes=(BUSY, IDLE),
        silent=("executor-2",),
        troubles=("policy 0 ended.",),
    )
    text = StringIO()
    print_services(Console(file=text, width=width), found, NOW)
    return text.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def test_what_goes_wrong_is_said_first_and_each_with_its_run() -> None:
    assert does_now(BUSY, NOW) == (
        "waits for what it lacks: No data (run t, 2 events put off, for 9 s); waits for an answer (run s, for 3 s); "
        "runs 40 rollouts (run r, for 5 s)"
    )
    assert does_now(IDLE, NOW) == "idle"


def test_a_row_is_a_process_and_a_service_without_any_has_one_too() -> None:
    lines = printed(400)
    head = ["process", "does now", "pending", "in hand", "last error", "host", "version", "up for", "pid"]
    assert cells(lines[1]) == head
    rows = [cells(line) for line in lines[3:-2]]
    assert rows[0] == [
        "executor-0",
        does_now(BUSY, NOW),
        "1,234",
        "5",
        "1 min ago: No room.",
        "gpu-1",
        "1.2.3",
        "2 h",
        "4711",
    ]
    assert rows[1] == ["executor-1", "idle", "", "", "", "gpu-1", "", "0 s", "4712"]
    assert rows[2] == ["executor-2", "does not answer", *[""] * 7]
    assert rows[3] == ["verifier", "no process answers", "7", "0", *[""] * 5]
    assert rows[4] == ["archivist", "no process answers", "", "0", *[""] * 5]
    assert lines[-1] == "policy 0 ended."


def test_work_for_a_device_has_a_row_where_there_is_some_or_somebody_for_it() -> None:
    def row(processes: int, pending: int, *statuses: Status) -> list[list[str]]:
        load = ServiceLoad(processes=processes, pending=pending, unacknowledged=0)
        found = Overview(services={"verifier_cuda": load}, processes=statuses, silent=(), troubles=())
        text = StringIO()
        print_services(Console(file=text, width=400), found, NOW)
        return [cells(line)[:3] for line in text.getvalue().splitlines() if "verifier_cuda" in line][:1] or [[]]

    able = msgspec.structs.replace(IDLE, service="verifier", capabilities=("cuda",))
    assert row(0, 0) == [[]]
    assert row(0, 4) == [["verifier_cuda", "no process answers", "4"]]
    assert row(1, 0, able) == [["verifier_cuda", "taken by verifier-1", "0"]]


def test_an_error_that_is_waited_for_is_not_said_twice() -> None:
    assert "No data" in does_now(STUCK, NOW) and _row(STUCK, NOW)[2] == ""


def test_a_narrow_terminal_leaves_out_what_matters_least() -> None:
    def head(width: int) -> list[str]:
        return cells(printed(width)[1])

    always = ["process", "does now", "pending", "in hand"]
    assert head(120)[: len(always) + 1] == [*always, "last error"]
    assert head(100) == [*always, "last error", "host", "version"]
    assert head(85) == [*always, "last error"]
    assert head(70) == always
