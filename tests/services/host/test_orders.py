"""What an order needs of this host and of the services that are up."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from events.codec import Event
from events.errors import Misconfigured, Unavailable, UsageError
from events.run import RunStarted
from replay.report import Reporter
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Stored
from runtime.run.order import RunOrder, Search
from runtime.status import Status
from services.host import orders, supervisor
from services.host.node import Node, Running
from services.host.orders import check, check_agent, check_levers, services_up
from services.host.statuses import StatusBoard
from services.host.supervisor import service_environment
from tasks.loading import load
from tests.harness.facts import started
from tests.harness.paths import TOY


def test_services_that_are_up_without_a_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anthropic")
    order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="", agent="anthropic:claude-opus-5")
    up = Running(pid=1, url="nats://127.0.0.1:4222", policy_url="", started="", version="", providers=("openai",))
    with pytest.raises(Misconfigured, match=r"services that are up have no key.*ANTHROPIC_API_KEY"):
        check_agent(order, up)
    check_agent(order, msgspec.structs.replace(up, providers=("anthropic",)))
    check_agent(order, msgspec.structs.replace(up, url="nats://broker.example:4222"))  # its agents may be elsewhere
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    check_agent(order, None)
    assert "ANTHROPIC_API_KEY" in service_environment(os.environ)


def test_ctrl_c_as_the_services_have_just_come_up_stops_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(supervisor, "start_detached", lambda directory: done.append("started"))
    monkeypatch.setattr(supervisor, "halt", lambda directory: done.append("halted"))

    @contextlib.contextmanager
    def starting(words: str) -> Iterator[None]:
        yield
        raise KeyboardInterrupt  # while the display of the start is taken away

    with pytest.raises(KeyboardInterrupt), services_up(Node(tmp_path), done.append, starting):
        done.append("used")
    assert done == ["started", "evolog: stopping the services; Ctrl-C again kills them.", "halted"]


@pytest.mark.parametrize(
    ("missing", "levers", "words"),
    [
        ("torch", "both", r"needs torch: pip install 'evolog\[policy,tasks\]', or ask for --levers scaffold"),
        ("safetensors", "weights", "needs safetensors"),
        ("numpy", "scaffold", r"needs numpy: pip install 'evolog\[policy,tasks\]'\.$"),
        ("torch", "scaffold", ""),
    ],
)
def test_an_order_says_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, levers: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    order = RunOrder(task=str(TOY), levers=levers, seed=0, generations=None, budget="")
    if not words:
        check(order, Node(tmp_path))
        return
    with pytest.raises(Misconfigured, match=words):
        check(order, Node(tmp_path))


def test_a_folder_that_has_the_name_of_a_known_task_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    order = RunOrder(task="denoise", levers="both", seed=0, generations=None, budget="")
    (tmp_path / "denoise").mkdir()
    check(order, Node(tmp_path), told.append)
    assert told == []
    (tmp_path / "denoise" / "task.py").touch()
    check(order, Node(tmp_path), told.append)
    assert told == [
        "denoise is the task that comes with evolog, and not the folder of that name here: for that write ./denoise."
    ]


class AwayLog(MemoryLog):
    """A log whose broker is away."""

    async def read(self, start: int, limit: int, subject: str = "") -> list[Stored]:
        raise Unavailable("No broker answers.")

    async def last(self, subjects: Sequence[str]) -> dict[str, Stored]:
        raise Unavailable("No broker answers.")


class Screen:
    """Keeps what it is told to show, and interrupts at its third look."""

    counts_rollouts = False

    def __init__(self) -> None:
        self.said: list[str] = []
        self.interrupted = asyncio.Event()
        self._looks = 0

    def begin(self, run: str, started: RunStarted) -> None:
        """Nothing to show."""

    def say(self, sentence: str) -> None:
        """Keep it."""
        self.said.append(sentence)

    def wait(self, seconds: float, statuses: Sequence[Status]) -> None:
        """Nothing to show."""

    def update(self, events: Sequence[Event], reporter: Reporter) -> None:
        """Count the looks."""
        self._looks += 1
        if self._looks == 3:
            self.interrupted.set()


def test_whoever_follows_a_run_is_told_once_what_keeps_it_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "SAID_AFTER", -1.0)
    node, screen = Node(tmp_path), Screen()
    up = Running(pid=os.getpid(), url="u", policy_url="p", started="s", version="v", troubles=("policy 0 ended.",))
    log, nobody = AwayLog(MemoryStream()), cast(StatusBoard, SimpleNamespace(statuses=list))
    with node.hold():
        node.write(up)
        following = orders._follow(node, log, log, "r", started(), 0, screen, screen.interrupted, nobody)
        assert asyncio.run(following) is None
    assert screen.said == [
        "policy 0 ended.",
        "The log cannot be read, which is tried again until it can: No broker answers.",
    ]


def test_a_lever_that_nobody_can_pull_is_said_before_a_run_starts() -> None:
    """The task `unlabelled` has no catalogue of edits, and the agent `rules` writes no scaffold."""
    task = load(str(TOY.parent / "unlabelled"))
    order = RunOrder(task=str(task.folder), levers="both", seed=0, generations=None, budget="")
    said = check_levers(order, task)
    assert said.startswith("Of the levers scaffold and weights, only weights can act: task unlabelled has no catalogue")
    assert "name a language model with --agent" in said
    with pytest.raises(UsageError, match="No lever of this run can act"):
        check_levers(order._replace(levers="scaffold"), task)
    for fine in (
        order._replace(agent="openai:m"),
        order._replace(levers="weights"),
        order._replace(levers="scaffold", generations=0),
        order._replace(levers="scaffold", search=Search(strategy="best_of_k")),
    ):
        assert check_levers(fine, task) == ""
    assert check_levers(order._replace(levers="scaffold"), load(str(TOY))) == ""
