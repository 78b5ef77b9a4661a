"""How much work waits for each service, who answers, and who does not, as `evolog services` has it."""

import json

import msgspec

from events.catalogue import SERVICES
from runtime.log.jetstream import Backlog
from runtime.status import Status
from services.host.node import Running
from services.host.overview import Overview, overview, overview_json

HERE = "here"


def status(service: str, index: int = 0, host: str = HERE, position: int | None = None) -> Status:
    return Status(service=service, index=index, host=host, pid=1, since=0.0, position=position)


def seen(*statuses: Status, end: int = 100, backlogs: dict[str, Backlog] | None = None) -> Overview:
    running = Running(
        pid=1,
        url="",
        policy_url="",
        started="",
        version="1",
        processes=("executor-0", "executor-1"),
        unfit={"trainer 0": "No torch."},
        troubles=("policy 0 ended.",),
    )
    return overview(running, statuses, backlogs or {}, end, HERE)


def test_each_service_has_its_work_whether_somebody_answers_or_not() -> None:
    found = seen(status("executor"), backlogs={"executor": Backlog(3, 1), "verifier": Backlog(7, 2)})
    assert [*found.services] == [*SERVICES, "verifier_cuda"]
    executor, verifier = found.services["executor"], found.services["verifier"]
    assert (executor.processes, executor.pending, executor.unacknowledged) == (1, 3, 1)
    assert (verifier.processes, verifier.pending, verifier.unacknowledged) == (0, 7, 2)


def test_work_for_a_device_counts_the_processes_that_have_one() -> None:
    with_device = msgspec.structs.replace(status("verifier"), capabilities=("cuda",))
    backlogs = {"verifier": Backlog(3, 1), "verifier_cuda": Backlog(5, 0)}
    services = seen(with_device, status("verifier", 1), backlogs=backlogs).services
    assert (services["verifier"].processes, services["verifier"].pending) == (2, 3)
    assert (services["verifier_cuda"].processes, services["verifier_cuda"].pending) == (1, 5)
    assert seen(status("verifier"), backlogs=backlogs).services["verifier_cuda"].processes == 0


def test_who_reads_the_whole_log_is_behind_by_what_its_foremost_process_has_not_read() -> None:
    found = seen(status("controller", position=90), status("controller", 1, position=95), status("archivist"))
    assert found.services["controller"].pending == 5
    assert found.services["archivist"].pending is None
    assert seen(status("controller", position=101)).services["controller"].pending == 0


def test_a_process_of_this_directory_is_silent_until_it_answers_from_this_host() -> None:
    assert seen(status("executor"), status("executor", 1, host="elsewhere")).silent == ("executor-1",)
    assert seen(status("executor"), status("executor", 1)).silent == ()


def test_what_cannot_work_here_is_named() -> None:
    assert seen().troubles == ("trainer 0 cannot work here: No torch.", "policy 0 ended.")


def test_a_scaler_reads_three_numbers_of_a_service() -> None:
    found = json.loads(overview_json(seen(status("executor", 1), backlogs={"executor": Backlog(3, 1)})))
    assert found["version"] == 1
    assert found["services"]["executor"] == {"processes": 1, "pending": 3, "unacknowledged": 1}
    assert found["processes"][0]["process"] == "executor-1" and "silent" not in found["processes"][0]
    assert found["silent"] == ["executor-0"]
