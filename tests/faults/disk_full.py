"""A whole run whose disk is full twice: once the supervisor sees it coming, once the nats-server meets it.

python -m tests.faults.disk_full DISK    # an empty folder with a file system of its own of about 900 MB
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from events import codec
from events.errors import UserError
from events.run import RunResumed
from events.subjects import LOG
from runtime.broker.store import FREE_TO_GO_ON
from runtime.log.port import Message
from tests.harness.cli import FREE_PORT, RUN, CliHarness
from tests.harness.invariants import check_all
from tests.harness.polling import PATIENCE, wait_until

MB = 10**6
ENVIRONMENT = {"EVOLOG_ALLOW_UNSANDBOXED": "1", "EVOLOG_EXECUTOR_JITTER": "0.05"}


def fill(ballast: Path, left: int) -> None:
    """Leave so many bytes free."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while (free := shutil.disk_usage(ballast.parent).free) > left:
                file.write(bytes(min(free - left, 8 * MB)))
        except OSError:
            pass  # full


def stopped(system: CliHarness) -> str:
    """What `evolog up` said when it ended because the disk was full; the seconds are printed."""
    assert system.supervisor
    began = time.monotonic()
    _, said = system.supervisor.communicate(timeout=PATIENCE)
    words = said.splitlines()[-1]
    print(
        f"  evolog up ended with exit code {system.supervisor.returncode} after {time.monotonic() - began:.1f} s: "
        f"{words}"
    )
    assert (
        system.supervisor.returncode == 75
        and "what is in the log is safe" in words
        and "free some space and start again" in words
    )
    return words


def refused(system: CliHarness) -> str:
    """Append until that is refused, and why it is."""
    socket = system.connect("operator", LOG)
    for number in range(1, 100_000):
        event = codec.event(
            RunResumed(number=number), run=RUN, source="operator", cause="", time="2026-01-01T00:00:00Z"
        )
        try:
            socket.append([Message(event.subject, codec.encode(event))])
        except UserError as wrong:
            return str(wrong)
    raise AssertionError("The disk has room.")


def after(system: CliHarness, events: int) -> Callable[[], bool]:
    """Whether there are so many events."""
    return lambda: len(system.log.read()) >= events


def main(disk: Path) -> None:
    """An undisturbed run, and one with two full disks."""
    print(f"\na disk of {shutil.disk_usage(disk).total / MB:.0f} MB")
    calm = CliHarness(disk / "calm", ("-P", "-c", FREE_PORT), **ENVIRONMENT)
    calm.up()
    calm.order("--sandbox", "none")
    undisturbed = calm.finished_events()
    calm.down()
    shutil.rmtree(disk / "calm")
    ballast = disk / "ballast"
    system = CliHarness(disk / "node", ("-P", "-c", FREE_PORT), **ENVIRONMENT)
    system.up()
    system.order("--sandbox", "none")
    wait_until(after(system, 600), "the run is under way")
    fill(ballast, FREE_TO_GO_ON // 2)
    print(f"{shutil.disk_usage(disk).free / MB:.0f} MB left:")
    stopped(system)
    ballast.unlink()

    system.up()
    known = len(system.log.read())
    wait_until(after(system, known + 200), "the run goes on")
    assert system.supervisor
    os.kill(system.supervisor.pid, signal.SIGSTOP)  # it does not look
    fill(ballast, 0)
    print(f"{shutil.disk_usage(disk).free / MB:.1f} MB left, and the server meets the end of it: {refused(system)}")
    time.sleep(3)
    os.kill(system.supervisor.pid, signal.SIGCONT)
    stopped(system)
    ballast.unlink()

    system.up()
    began = time.monotonic()
    system.finished_events()
    check_all(system.log.read(), system.gold.read(), undisturbed)
    print(f"  the run ended as the undisturbed one, {time.monotonic() - began:.0f} s after there was room again")
    system.down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
