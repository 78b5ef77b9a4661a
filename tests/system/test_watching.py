"""Whoever watches a run is told what it waits for, and takes down with Ctrl-C what `evolog run` brought up."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.harness.cli import CliHarness, one_sentence, processes
from tests.harness.llm_server import Fail, LlmServer
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE, wait_until

pytest.importorskip("openai")
pytest.importorskip("peft")

pytestmark = pytest.mark.slow

BUSY = "waits for an answer of openai:m: HTTP 503"


class Screen:
    """What a command has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out, self.err = list[str](), list[str]()
        self._threads = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in ((process.stdout, self.out), (process.stderr, self.err))
            if pipe
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                lines.append(line)  # noqa: PERF402  # each as it comes

    def wait_for(self, words: str) -> None:
        """Wait until this stands on stderr."""
        wait_until(lambda: words in "".join(self.err) or self.process.poll() is not None, f"{words!r} is printed")
        assert words in "".join(self.err), (self.process.returncode, self.out, self.err)

    def end(self) -> int:
        """The exit code, once all that was printed is here."""
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        assert "Traceback" not in "".join(self.err), self.err
        return code


@pytest.fixture
def place(tmp_path: Path) -> Iterator[CliHarness]:
    harness = CliHarness(tmp_path / "place")
    try:
        yield harness
    finally:
        for pid in processes(harness.node.directory):
            os.kill(pid, signal.SIGKILL)


def run(place: CliHarness, *flags: str) -> Screen:
    """`evolog run` in a directory in which nothing is up, once its run has begun."""
    screen = Screen(place.start("run", str(TOY), "--name", "x", *flags))
    wait_until(lambda: screen.out or screen.process.poll() is not None, "the run has begun")
    assert screen.out, screen.err
    return screen


def wait_until_nothing_runs(place: CliHarness) -> None:
    """The kernel ends the children of a supervisor that was killed, soon after it."""
    wait_until(lambda: not processes(place.node.directory), "all processes are gone")


def test_a_model_that_is_overloaded_is_seen_in_run_show_watch_and_logs_and_ctrl_c_ends_it_all(
    place: CliHarness,
) -> None:
    with LlmServer([Fail(503, "busy")] * 100) as server:
        place.environment |= server.environment("openai")
        screen = run(place, "--agent", "openai:m", "--generations", "1")
        screen.wait_for(f"meta_agent-0 {BUSY}")
        shown = place.here("show", "x").out
        assert BUSY in shown and "of 10 failed" in shown and "last decision" in shown
        logged = place.here("logs", "meta_agent", "--level", "warning", "--run", "x").out
        assert 'run=x error="HTTP 503' in logged and "attempt=1/10" in logged
        watching = Screen(place.start("watch", "x"))
        watching.wait_for(BUSY)
        watching.process.send_signal(signal.SIGINT)
        assert watching.end() == 130 and "scaffold_requested" in "".join(watching.out)
        screen.process.send_signal(signal.SIGINT)
        assert screen.end() == 130
    said = "".join(screen.err)
    assert "Run x stops here with the services that this command started" in said
    assert "`evolog up --dir" in said and "`evolog watch x --dir" in said and "`evolog cancel x --dir" in said
    assert place.node.holder() is None
    wait_until_nothing_runs(place)
    assert "no service is up: `evolog up` goes on with it" in place.here("show", "x").out


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_other_signals_take_down_what_was_brought_up_too(place: CliHarness, number: signal.Signals) -> None:
    screen = run(place)
    screen.process.send_signal(number)
    assert screen.end() == 130
    wait_until_nothing_runs(place)


@pytest.mark.parametrize("again", [True, pytest.param(False, marks=pytest.mark.long)])
def test_services_that_do_not_stop_are_killed_by_a_second_ctrl_c_or_after_seconds(
    place: CliHarness, again: bool
) -> None:
    screen = run(place)
    supervisor = place.node.holder()
    assert supervisor
    os.kill(supervisor, signal.SIGSTOP)  # it cannot stop in good order
    screen.process.send_signal(signal.SIGINT)
    screen.wait_for("stopping the services; Ctrl-C again kills them")
    if again:
        screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    wait_until_nothing_runs(place)
    assert "x" in place.here("ls").out


def test_ctrl_c_while_the_services_are_starting_leaves_none_behind(place: CliHarness) -> None:
    screen = Screen(place.start("run", str(TOY), "--name", "x"))
    wait_until(lambda: processes(place.node.directory), "something is started")
    screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    wait_until_nothing_runs(place)


def test_a_closed_pipe_takes_everything_down(place: CliHarness) -> None:
    process = place.start("run", str(TOY), "--name", "x")
    assert process.stdout and process.stderr
    assert process.stdout.readline().startswith("run x")
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()
    assert process.wait(PATIENCE) == 141 and "Traceback" not in said
    wait_until_nothing_runs(place)


def test_detached_services_stay_and_a_run_beside_them_is_left_alone_by_ctrl_c(place: CliHarness) -> None:
    place.evolog("run", str(TOY), "--name", "first", "--detach", "--generations", "0")
    assert place.node.alive()
    screen = run(place)
    screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    assert "Run x goes on in the services, which were up before" in "".join(screen.err)
    assert place.node.alive()
    place.evolog("down")
    wait_until_nothing_runs(place)


def test_a_model_that_cannot_be_asked_is_said_before_anything_is_started(place: CliHarness) -> None:
    order = ("run", str(TOY), "--agent", "openai:m")
    with LlmServer([], preflight=Fail(401, "no such key")) as server:
        place.environment |= server.environment("openai")
        one_sentence(place.evolog(*order, code=78), f"{server.url}/v1 refuses the key (HTTP 401", "set OPENAI_API_KEY")
    one_sentence(place.evolog(*order, code=69), f"{server.url}/v1 cannot be reached", "start it", "--no-preflight")
    assert not place.node.directory.exists()
