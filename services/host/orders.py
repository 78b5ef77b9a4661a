"""What the operator does to runs: order one and follow it to the end of its audit, pause, resume or cancel it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from events import codec
from events.codec import Event
from events.errors import Misconfigured, TryAgain, Unavailable, UsageError, UserError
from events.fact import Fact
from events.gold import AuditFinished
from events.run import RunCancelled, RunFinished, RunPaused, RunResumed, RunStarted
from events.subjects import GOLD, LOG, run_of, subject
from replay.report import Report, Reporter, add_vote, follow_gold
from runtime.agents.providers import environment_variable, model_of, price_of_model, require_key
from runtime.broker.accounts import OPERATOR
from runtime.log.lineage import run_starts
from runtime.log.lookup import events_of_types
from runtime.log.port import Log, Refused, append_once, readable
from runtime.log.worker import now
from runtime.run import budget as budgets
from runtime.run.order import RunOrder, check_order, check_packages, with_ordered_verifier
from runtime.sandbox.choose import UNSANDBOXED
from services.host.capabilities import WORDS, missing_capabilities
from services.host.closings import read_closing
from services.host.context import operator
from services.host.node import Node, Running, owner_alone
from services.host.sources import find_run
from tasks.loading import Task

POLL_SECONDS = 0.2
"""Seconds between two reads of the log."""
SAID_AFTER = 3.0
"""Seconds for which the broker must be away before that is said: a new start takes less."""


class RunWatcher(Protocol):
    """The interface of an object that shows a run as it goes on."""

    counts_rollouts: bool
    """Whether it shows how many rollouts are done, which costs more reading of the log."""

    def begin(self, run: str, started: RunStarted) -> None:
        """The run has begun."""

    def update(self, events: Sequence[Event], reporter: Reporter) -> None:
        """These events were appended; called after each read of the log, also if there are none."""

    def say(self, sentence: str) -> None:
        """The run waits for something, as this sentence says."""


def check(order: RunOrder, node: Node) -> None:
    """Raise what is wrong with an order, before anything is started for it."""
    task = check_order(order)
    running = node.running()
    if order.sandbox == "none" and running is not None and not running.unsandboxed:
        raise Misconfigured(
            f"The services in {node.directory} do not run scaffolds without a sandbox, as they were started without "
            f"{UNSANDBOXED}=1: "
            f"stop them with `evolog down --dir {node.directory}`, and order the run again."
        )
    check_agent(order, running)
    check_judging(with_ordered_verifier(order, task), running, task)
    check_packages(order, task, trained_here=running is None or _on_this_host(running))


def check_agent(order: RunOrder, running: Running | None) -> None:
    """Raise what is missing for the agents' language model: its name, package or key, or a price where dollars are
    limited.
    """
    model = model_of(order.agent)
    if model is None:
        return
    if running is None:
        require_key(model, os.environ)
    elif model.provider not in running.providers and _on_this_host(running):
        raise Misconfigured(
            f"The services that are up have no key for {order.agent}: `evolog down`, "
            f"set {environment_variable(model.provider, 'API_KEY')}, and start again."
        )
    if price_of_model(model, os.environ) is None and budgets.parse(order.budget).micro_usd is not None:
        raise Misconfigured(
            f"No price is known for {order.agent}, so a budget in usd cannot be kept: name a price table with "
            "EVOLOG_PRICES, "
            "or leave usd out."
        )


def check_judging(task: Task, running: Running | None, own: Task) -> None:
    """Raise `Misconfigured` for what the verifier needs and this host lacks, unless the services are elsewhere; `own`
    is the task with its own verifier.
    """
    if running is not None and not _on_this_host(running):
        return
    if missing := missing_capabilities(task.needs):
        other = "name another verifier with --verifier"
        if not missing_capabilities(own.needs):
            other = f"leave --verifier out, as {own.verifier} needs none"
        raise Misconfigured(
            f"The verifier {task.verifier} needs {WORDS[missing[0]]}, and this host has none: run the services on a "
            f"host that has one, or {other}."
        )
    if task.judge_model and (model := model_of(task.judge_model)):
        require_key(model, os.environ)


def _on_this_host(running: Running) -> bool:
    # a broker elsewhere may have its trainer and its agents elsewhere
    return urlsplit(running.url).hostname == "127.0.0.1"


class StartedServices:
    """Whether this process started the services of a directory, and is to stop them again."""

    def __init__(self, is_owner: bool) -> None:
        self.is_owner = is_owner

    def keep(self) -> None:
        """Leave them running."""
        self.is_owner = False


@contextlib.contextmanager
def services_up(node: Node, announce: Callable[[str], None]) -> Iterator[StartedServices]:
    """Have the services of a directory up, started if they are not.

    Services that were started here are stopped at the end, unless an unfinished run needs them, which `announce` is
    told in a sentence.
    """
    from services.host.supervisor import start_detached, stop

    owner_alone()
    started = StartedServices(not node.alive())
    if started.is_owner:
        start_detached(node.directory)
    try:
        yield started
    finally:
        if started.is_owner and node.alive():
            if unfinished := asyncio.run(_unfinished(node)):
                announce(
                    f"evolog: the services go on for {', '.join(unfinished)}, not finished; "
                    f"`evolog down --dir {node.directory}` stops them."
                )
            else:
                stop(node.directory)


async def _unfinished(node: Node) -> list[str]:
    """The runs whose audit is not finished; none where the log cannot be read."""
    try:
        async with operator(node) as connection:
            ends = await connection.log(GOLD).last([subject(GOLD, "*", "*", AuditFinished.tag())])
            runs = await run_starts(connection.log(LOG))
    except UserError:
        return []
    audited = {run_of(end) for end in ends}
    return [run for run, began in runs.items() if run not in audited and any(readable([began]))]


async def begin(node: Node, name: str, started: RunStarted, watcher: RunWatcher | None) -> Report | None:
    """Append the event that begins a run, and follow the run to the end of its audit.

    None where the run goes on unwatched: without a watcher, or after Ctrl-C. Raises `Misconfigured` once a service that
    the run waits for cannot work on this host, `UsageError` if there is a run of
    that name, `TryAgain` if the event was refused, and `Unavailable` if the services have stopped meanwhile.
    """
    async with operator(node) as connection:
        log, gold = connection.log(LOG), connection.log(GOLD)
        event = codec.event(started, run=name, source=OPERATOR, cause="", time=now())
        gold_position = await gold.end()
        if await log.last([event.subject]):
            raise UsageError(
                f"There is a run {name!r} already; give this one another --name, or look at that one with `evolog "
                f"show {name}`."
            )
        with _interrupts() as interrupted:  # from here on Ctrl-C leaves a run behind, and must say so
            try:
                await append_once(log, [event], connection.scanner)
            except Refused as refused:
                raise TryAgain(f"Run {name} could not be started: {refused}.") from refused
            if watcher is None:
                return None
            watcher.begin(name, started)
            report = await _follow(node, log, gold, name, started, gold_position, watcher, interrupted)
            if report:
                report.closing = await read_closing(connection, name)
            return report


@contextlib.contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _follow(
    node: Node,
    log: Log,
    gold: Log,
    run: str,
    started: RunStarted,
    gold_position: int,
    watcher: RunWatcher,
    interrupted: asyncio.Event,
) -> Report | None:
    reporter = Reporter(run)
    said: list[str] = []
    troubles: set[str] = set()
    last_read = time.monotonic()
    while reporter.report.state != "audited":
        obstacles = list(running.troubles) if (running := node.running()) else []
        try:
            events = await reporter.follow(log)
            if watcher.counts_rollouts:
                await reporter.count(log)
            gold_position = await follow_gold(gold, reporter, gold_position)
            last_read = time.monotonic()
        except Unavailable as wrong:
            events = []
            if time.monotonic() - last_read > SAID_AFTER:
                obstacles.append(f"The log cannot be read, which is tried again until it can: {wrong}")
            if not node.alive():
                raise Unavailable(
                    f"evolog has stopped in {node.directory}; run {run} is safe in the log: `evolog up` goes on with "
                    "it, "
                    f"`evolog watch {run}` follows it."
                ) from None
        for sentence in obstacles:
            if sentence not in troubles:
                watcher.say(sentence)
        troubles.update(obstacles)
        watcher.update(events, reporter)
        waiting = node.waiting(run)
        for sentence in waiting:
            if sentence not in said:
                watcher.say(sentence)
        said = waiting
        if interrupted.is_set():
            return None
        node.require_fit(run, started)
        await asyncio.sleep(POLL_SECONDS)
    await add_vote(log, reporter.report)
    return reporter.report


async def pause(node: Node, name: str, reason: str) -> str:
    """Ask a run to make no further decision; its full name. What it has asked for is still done.

    Raises `UsageError` if it is paused or finished.
    """

    def paused(asked: Sequence[Event]) -> RunPaused:
        if _is_paused(asked):
            raise UsageError("is paused already; `evolog resume` lets it go on")
        return RunPaused(number=1 + sum(isinstance(event.data, RunPaused) for event in asked), reason=reason)

    return await _append_request(node, name, paused)


async def resume(node: Node, name: str) -> str:
    """Let a paused run go on; its full name. Raises `UsageError` if it is not paused, or is finished."""

    def resumed(asked: Sequence[Event]) -> RunResumed:
        if not _is_paused(asked):
            raise UsageError("is not paused")
        return RunResumed(number=1 + sum(isinstance(event.data, RunResumed) for event in asked))

    return await _append_request(node, name, resumed)


async def cancel(node: Node, name: str, reason: str) -> str:
    """Ask a run to end with what it has; its full name. A paused one goes on for that.

    Raises `UsageError` if it is finished, or to end already.
    """

    def cancelled(asked: Sequence[Event]) -> RunCancelled:
        if any(isinstance(event.data, RunCancelled) for event in asked):
            raise UsageError("is cancelled already")
        return RunCancelled(reason=reason)

    return await _append_request(node, name, cancelled)


def _is_paused(asked: Sequence[Event]) -> bool:
    pauses = sum(isinstance(event.data, RunPaused) for event in asked)
    return pauses > sum(isinstance(event.data, RunResumed) for event in asked)


async def _append_request(node: Node, name: str, request: Callable[[Sequence[Event]], Fact]) -> str:
    """Append what `request` makes of what was asked of a run before; where it raises, the sentence is about the run."""
    node.require_up()
    async with operator(node) as connection:
        log = connection.log(LOG)
        run = await find_run(log, name)
        asked = await events_of_types(log, run, [RunPaused, RunResumed, RunCancelled, RunFinished])
        if any(isinstance(event.data, RunFinished) for event in asked):
            raise UsageError(f"Run {run} is finished; there is nothing left to decide.")
        try:
            fact = request(asked)
        except UsageError as wrong:
            raise UsageError(f"Run {run} {wrong}.") from None
        event = codec.event(fact, run=run, source=OPERATOR, cause="", time=now())
        await append_once(log, [event], connection.scanner)
    return run
