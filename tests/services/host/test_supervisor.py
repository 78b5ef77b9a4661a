"""`evolog up` with stand-ins for the services: who is started, started again, given up, and that nothing outlives its
supervisor.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.errors import Misconfigured, NotFound, TryAgain, Unavailable, UserError
from runtime.broker.children import end
from runtime.broker.server import USUAL_PORT
from services.host.node import Node
from services.host.supervisor import service_environment, start_detached, stop
from tests.harness.facts import started
from tests.harness.polling import PATIENCE, wait_until

SERVICE = """
import os, signal, sys, time
from pathlib import Path
from typing import Any
from services.host.main import notify_ready
name, directory, index = sys.argv[1], Path(sys.argv[3]), sys.argv[5]
if name == os.environ.get("EVOLOG_TEST_MISCONFIGURED") and not (directory / "mended").exists():
    print("2026-11-28 12:00:00,000 ERROR the adapter folder has no base model")
    sys.exit(78)
if name == os.environ.get("EVOLOG_TEST_FAILING"):
    print("its port is taken")
    sys.exit(75)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if name == os.environ.get("EVOLOG_TEST_LATE"):
    while not (directory / "late").exists():
        time.sleep(0.02)
if name != os.environ.get("EVOLOG_TEST_SILENT"):
    notify_ready()
if name == os.environ.get("EVOLOG_TEST_STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(directory / "pids").mkdir(exist_ok=True)
(directory / "pids" / f"{name}-{index}-{os.getpid()}").write_text(os.environ.get("EVOLOG_POLICY_URL", ""))
while True:
    signal.pause()
"""
COMMAND = """
import asyncio, os, sys
from pathlib import Path
from typing import Any
from events.errors import UserError
from services.host import supervisor
supervisor.GRACE = 0.3
supervisor.UNFIT_PAUSE = 0.1
os.sched_getaffinity = lambda pid: {0}
supervisor.READY_LIMIT = float(os.environ.get("EVOLOG_TEST_READY_LIMIT", 3600))
supervisor.store.free_bytes = lambda directory: 30 * 10**6 if (directory / "full").exists() else 10**12
try:
    asyncio.run(supervisor.supervise(Path(sys.argv[3]), module="stand_in_service"))
except UserError as wrong:
    print("evolog:", wrong, file=sys.stderr)
    sys.exit(wrong.code)
"""
EXPECTED = [
    "archivist-0",
    "auditor-0",
    "controller-0",
    "executor-0",
    "executor-1",
    "feedback_agent-0",
    "meta_agent-0",
    "policy-0",
    "trainer-0",
]


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stand_ins"
    folder.mkdir()
    (folder / "stand_in_service.py").write_text(SERVICE)
    (folder / "stand_in_command.py").write_text(COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path / "node")
    yield found
    if (pid := found.holder()) is not None:
        os.kill(pid, signal.SIGKILL)


def up(node: Node) -> None:
    start_detached(node.directory, module="stand_in_command")
    wait_until(lambda: len(processes(node)) == 10, "ten services live")


def processes(node: Node) -> dict[str, int]:
    """The services that live, by name and index."""
    found = {}
    for file in (node.directory / "pids").glob("*"):
        name, index, pid = file.name.split("-")
        if lives(int(pid)):
            found[f"{name}-{index}"] = int(pid)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def server_pid(node: Node) -> int:
    return int((node.nats_dir / "server.pid").read_text() or 0)  # empty for the instant in which it is written


def said(node: Node) -> str:
    return (node.log_folder / "up.log").read_text()


def test_everything_is_started_said_and_stopped(node: Node) -> None:
    up(node)
    running = node.require_up()
    assert sorted(processes(node)) == [*EXPECTED, "verifier-0"]
    assert lives(running.pid)
    assert {file.read_text() for file in (node.directory / "pids").glob("*")} == {running.policy_url}
    everything = [*processes(node).values(), server_pid(node), running.pid]
    stop(node.directory)
    wait_until(lambda: not any(map(lives, everything)), "nothing lives")
    assert not node.node_json.exists()
    with pytest.raises(Unavailable, match=r"No evolog is running in .*: start it with `evolog up --dir"):
        node.require_up()
    with pytest.raises(NotFound, match="nothing to stop"):
        stop(node.directory)


def executor_is_killed_and_comes_back(node: Node, times: int) -> None:
    before = processes(node)["executor-1"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: processes(node).get("executor-1", before) != before, "it is started again")
    wait_until(lambda: said(node).count("executor 1 ended with exit code -9") == times, "its end is logged")


def test_a_service_that_is_killed_is_started_again(node: Node) -> None:
    up(node)
    for times in (1, 2):
        executor_is_killed_and_comes_back(node, times)
    assert "started again in 0.2 s" in said(node)
    assert "started again in 0.4 s" in said(node)
    assert node.alive()


def test_the_server_is_started_again_on_its_port_when_it_is_killed(node: Node) -> None:
    up(node)
    url, before, trainer = node.require_up().url, server_pid(node), node.credentials("trainer").read_text()
    os.kill(before, signal.SIGKILL)
    port = int(url.rsplit(":", 1)[1])

    def answers() -> bool:
        with socket.socket() as probe:
            return server_pid(node) != before and probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, "the server answers")
    assert node.credentials("trainer").read_text() == trainer
    assert node.require_up().url == url


def binds(thief: socket.socket, port: int) -> bool:
    """Bind to a port of this host, unless it is taken; whether it was done."""
    try:
        thief.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_the_server_moves_where_its_port_is_taken_while_it_is_away(node: Node) -> None:
    up(node)
    running, services = node.require_up(), processes(node)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(running.pid, signal.SIGSTOP)
        os.kill(before := server_pid(node), signal.SIGKILL)
        port = int(running.url.rsplit(":", 1)[1])
        # a zombie's last threads may hold the port for a moment
        wait_until(lambda: not lives(before) and binds(thief, port), "the server is gone, and its port is free")
        thief.listen()
        os.kill(running.pid, signal.SIGCONT)
        wait_until(lambda: node.require_up().url != running.url, "the new address is told")
    assert json.loads(node.credentials("trainer").read_text())["url"] == node.require_up().url
    wait_until(lambda: f"the log is at {node.require_up().url} now" in said(node), "that is said")
    assert processes(node) == services


def test_what_keeps_ending_is_told_to_those_who_follow_runs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_TEST_FAILING", "policy")
    start_detached(node.directory, module="stand_in_command")
    wait_until(lambda: node.require_up().troubles != (), "it is told")
    assert node.require_up().troubles == (
        "policy 0 ended with exit code 75 (its log: its port is taken); it is started again until it lives.",
    )


def test_a_second_supervisor_of_a_directory_is_refused_with_the_pid_of_the_first(node: Node) -> None:
    up(node)
    again = subprocess.run(
        [sys.executable, "-P", "-m", "stand_in_command", "up", "--dir", str(node.directory)],
        env=os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{Path(__file__).parents[3]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == TryAgain.code
    assert f"already running in {node.directory} (process {node.require_up().pid})" in again.stderr


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_one_works(node: Node) -> None:
    up(node)
    first = node.require_up()
    everything = [*processes(node).values(), server_pid(node)]
    assert len(everything) == 11
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, everything)), "nothing lives")
    wait_until(lambda: not node.alive(), "the lock is free")  # the kernel lets go of it with the last of its threads
    assert node.node_json.exists()
    up(node)
    assert node.require_up().pid != first.pid


def test_a_service_that_cannot_work_here_is_named_and_tried_again_until_it_can(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_TEST_MISCONFIGURED", "trainer")
    start_detached(node.directory, module="stand_in_command")
    wait_until(lambda: node.require_up().unfit == {"trainer 0": "the adapter folder has no base model."}, "it is named")
    wait_until(lambda: len(processes(node)) == 9, "nine services live")
    node.require_fit("r", msgspec.structs.replace(started(), levers=("scaffold",)))  # a run that asks nothing of it

    def told() -> bool:
        try:
            node.require_fit("r", started())
        except Misconfigured as wrong:
            return str(wrong).startswith(
                "Run r waits, since trainer 0 cannot work here: the adapter folder has no base"
            )
        return False  # it is tried again at this moment

    wait_until(told, "a run that needs it is told")
    assert said(node).count("trainer 0 cannot work here: the adapter folder has no base model.") == 1
    (node.directory / "mended").touch()
    wait_until(lambda: len(processes(node)) == 10 and not node.require_up().unfit, "it works")
    assert "trainer 0 ended" not in said(node)


def test_on_one_processor_the_next_service_starts_when_the_last_is_ready(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_TEST_SILENT", "meta_agent")
    start_detached(node.directory, module="stand_in_command")
    wait_until(lambda: "meta_agent-0" in processes(node), "the one that is never ready lives")
    assert processes(node).keys() == {"controller-0", "meta_agent-0"}
    stop(node.directory)


def test_a_service_that_is_never_ready_holds_the_others_up_for_a_while_alone(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_TEST_SILENT", "meta_agent")
    monkeypatch.setenv("EVOLOG_TEST_READY_LIMIT", "0.5")
    up(node)


def test_a_service_that_is_ready_late_lives_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_TEST_LATE", "meta_agent")
    monkeypatch.setenv("EVOLOG_TEST_READY_LIMIT", "0.1")
    start_detached(node.directory, module="stand_in_command")
    wait_until(lambda: len(processes(node)) == 9, "the others live")  # so the supervisor waits for it no more
    (node.directory / "late").touch()
    wait_until(lambda: "meta_agent-0" in processes(node), "the late one lives")
    assert "meta_agent" not in said(node)


def test_all_is_stopped_in_good_order_before_the_disk_is_full(node: Node) -> None:
    up(node)
    everything = [*processes(node).values(), server_pid(node), node.require_up().pid]
    (node.directory / "full").touch()
    wait_until(lambda: not any(map(lives, everything)), "nothing lives")
    assert "because the disk is nearly full" in said(node)
    assert "Only 30 MB are free" in said(node)
    (node.directory / "full").unlink()
    up(node)


def test_a_service_that_does_not_heed_sigterm_is_killed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_TEST_STUBBORN", "policy")
    up(node)
    policy = processes(node)["policy-0"]
    stop(node.directory)
    wait_until(lambda: not lives(policy), "the policy is gone")


def test_a_stop_is_heeded_also_as_a_process_ends_by_itself() -> None:
    async def check() -> None:
        process = await asyncio.create_subprocess_exec("true", process_group=0)
        await process.wait()

        async def keep() -> None:
            await end(process)
            await asyncio.sleep(10)

        keeper = asyncio.create_task(keep())
        await asyncio.sleep(0)
        keeper.cancel()
        await asyncio.wait([keeper], timeout=PATIENCE)
        assert keeper.cancelled()

    asyncio.run(check())


def test_a_free_port_is_taken_where_the_usual_one_is_not(node: Node) -> None:
    with socket.socket() as other:
        try:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", USUAL_PORT))
            other.listen()
        except OSError:
            pass  # something else has it, which will do as well
        up(node)
        assert not node.require_up().url.endswith(f":{USUAL_PORT}")


def test_two_that_are_started_at_once_end_up_as_one(node: Node) -> None:
    code = (
        "from pathlib import Path; from services.host.supervisor import start_detached; "
        f"start_detached(Path({str(node.directory)!r}), module='stand_in_command')"
    )
    environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{Path(__file__).parents[3]}"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [starter.wait(PATIENCE) for starter in both] == [0, 0]
    assert node.alive()
    time.sleep(0.6)  # longer than one that waits for the lock would
    assert said(node).count("evolog is up") == 1


def test_ctrl_c_at_the_moment_of_the_start_leaves_nothing_behind(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, children = os.posix_spawn, list[int]()

    def interrupted(*command: Any, **how: Any) -> int:
        children.append(spawn(*command, **how))
        os.kill(os.getpid(), signal.SIGINT)
        return children[0]

    monkeypatch.setattr(os, "posix_spawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_detached(node.directory, module="stand_in_command")
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
    assert node.holder() is None


def test_the_last_words_of_one_that_does_not_start_are_the_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_NATS_SERVER", "/nowhere/nats-server")
    with pytest.raises(UserError, match=r"^EVOLOG_NATS_SERVER names /nowhere/nats-server") as raised:
        start_detached(node.directory, module="stand_in_command")
    assert raised.value.code == Unavailable.code
    assert not node.alive()


def test_a_node_json_that_nobody_stands_behind_is_not_believed(node: Node) -> None:
    node.directory.mkdir()
    words = {"pid": os.getpid(), "url": "u", "policy_url": "p", "started": "s", "version": "v"}
    node.node_json.write_text(json.dumps(words))
    assert node.running() is None
    with node.hold():
        assert node.running() is not None
        assert node.holder() == os.getpid()
    assert node.holder() is None


def test_services_get_only_the_environment_that_they_need() -> None:
    got = service_environment(
        {
            "PATH": "/bin",
            "AWS_SECRET": "x",
            "EVOLOG_A": "1",
            "XDG_CACHE_HOME": "/c",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "8",
        }
    )
    root = str(Path(__file__).resolve().parents[3])
    assert got == {
        "PATH": "/bin",
        "EVOLOG_A": "1",
        "XDG_CACHE_HOME": "/c",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
