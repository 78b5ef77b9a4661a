"""What the operator does to runs: order one and follow it to the end of its audit, pause, resume or cancel it."""

import asyncio
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from events import codec
from events.codec import Event
from events.errors import Misconfigured, RunHalted, TryAgain, Unavailable, UsageError, UserError
from events.fact import Fact
from events.gold import AuditFinished
from events.run import RunCancelled, RunFinished, RunPaused, RunResumed, RunStarted
from events.subjects import GOLD, LOG, run_of, subject
from replay.report import Report, Reporter, add_vote, follow_gold
from runtime.agents.providers import environment_variable, model_of, price_of_model, require_key
from runtime.broker.accounts import OPERATOR
from runtime.log.lineage import run_start, run_starts
from runtime.log.lookup import events_of_types
from runtime.log.port import Log, Refused, append_once, readable
from runtime.log.worker import now
from runtime.run import budget as budgets
from runtime.run.order import LEVERS, RunOrder, check_order, check_packages, with_ordered_verifier
from runtime.sandbox.choose import UNSANDBOXED
from runtime.status import Status
from services.host.best_answers import add_best_answers
from services.host.capabilities import WORDS, missing_capabilities
from services.host.closings import kept_closing
from services.host.context import operator
from services.host.node import Node, Running, is_on_this_host, owner_alone
from services.host.signals import handled_by
from services.host.sources import fact_of, find_run, list_log
from services.host.statuses import StatusBoard
from tasks.loading import Task, hidden_folder

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
        """Something is wrong with the services, as this sentence says."""

    def wait(self, seconds: float, statuses: Sequence[Status]) -> None:
        """The last event came so many seconds ago, and this is what the services do; called after each read."""


def check(order: RunOrder, node: Node, announce: Callable[[str], None] = lambda sentence: None) -> Task:
    """Raise what is wrong with an order, before anything is started for it; its task, with the verifier that is
    ordered. `announce` is told what will not be as it was ordered.
    """
    task = check_order(order)
    if sentence := hidden_folder(order.task):
        announce(sentence)
    if sentence := check_levers(order, task):
        announce(sentence)
    running = node.running()
    if order.sandbox == "none" and running is not None and not running.unsandboxed:
        raise Misconfigured(
            f"The services in {node.directory} do not run scaffolds without a sandbox, as they were started without "
            f"{UNSANDBOXED}=1: "
            f"stop them with `evolog down --dir {node.directory}`, and order the run again."
        )
    check_agent(order, running)
    ordered = with_ordered_verifier(order, task)
    check_judging(ordered, running, task)
    check_packages(order, task, trained_here=running is None or is_on_this_host(running))
    return ordered


def check_levers(order: RunOrder, task: Task) -> str:
    """Which lever of an order nobody can pull, in a sentence; empty where each can be.

    Raises `UsageError` where no lever can act, so that the run would end as it begins.
    """
    changes_nothing = order.search.strategy == "best_of_k" or order.generations == 0
    if changes_nothing or model_of(order.agent) or "scaffold" not in LEVERS[order.levers] or task.edits():
        return ""
    why = (
        f"task {task.name} has no catalogue.py with edits, and the agent `rules` writes no scaffold of its own: name a "
        "language model with --agent, or write edits into a catalogue.py"
    )
    if LEVERS[order.levers] == ("scaffold",):
        raise UsageError(f"No lever of this run can act: {why}; or order --levers weights.")
    return f"Of the levers scaffold and weights, only weights can act: {why}."


def check_agent(order: RunOrder, running: Running | None) -> None:
    """Raise what is missing for the agents' language model: its name, package or key, or a price where dollars are
    limited.
    """
    model = model_of(order.agent)
    if model is None:
        return
    if running is None:
        require_key(model, os.environ)
    elif model.provider not in running.providers and is_on_this_host(running):
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
    if running is not None and not is_on_this_host(running):
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


class StartedServices:
    """Whether this process started the services of a directory, and is to stop them again."""

    def __init__(self, is_owner: bool) -> None:
        self.is_owner = is_owner
        self.interrupted = False
        """Whether they are to be stopped at the end though runs need them: whoever started them was told to stop."""

    def keep(self) -> None:
        """Leave them running."""
        self.is_owner = False


@contextlib.contextmanager
def services_up(
    node: Node,
    announce: Callable[[str], None],
    starting: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Iterator[StartedServices]:
    """Have the services of a directory up, started if they are not; `starting` hears that they are started or stopped,
    while that lasts.

    Services that were started here are stopped at the end, unless an unfinished run needs them, which `announce` is
    told in a sentence. After Ctrl-C, SIGTERM or SIGHUP, or once whoever read the output has gone, they are stopped
    whatever needs them, within seconds; another Ctrl-C kills them.
    """
    from services.host.supervisor import halt, start_detached, stop

    owner_alone()
    started = StartedServices(not node.alive())
    with handled_by(_end, signal.SIGTERM, signal.SIGHUP):
        try:
            if started.is_owner:
                with starting("starting the services"):
                    start_detached(node.directory)
            yield started
        except (KeyboardInterrupt, BrokenPipeError, SystemExit):
            started.interrupted = True
            raise
        except RunHalted:  # they know the key that was not accepted, and no other
            if started.is_owner and node.alive() and len(asyncio.run(_unfinished(node))) == 1:
                stop(node.directory)
            raise
        finally:
            if started.is_owner and started.interrupted:
                with contextlib.suppress(OSError, KeyboardInterrupt):  # nobody may be there to read it
                    announce("evolog: stopping the services; Ctrl-C again kills them.")
                halt(node.directory)
            elif started.is_owner and node.alive():
                if unfinished := asyncio.run(_unfinished(node)):
                    announce(
                        f"evolog: the services go on for {', '.join(unfinished)}, not finished; "
                        f"`evolog down --dir {node.directory}` stops them."
                    )
                else:
                    with starting("stopping the services"):
                        stop(node.directory)


def _end(number: int, frame: object) -> None:
    """End as `sys.exit` does, with the code that shells give to a signal's victims."""
    del frame
    sys.exit(128 + number)


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


async def ordered_alike(node: Node, started: RunStarted) -> str:
    """The oldest run of a directory that began with this very event and was not cancelled; empty where there is none.

    Raises `UsageError` where it is paused.
    """
    async with operator(node) as connection:
        log, gold = connection.log(LOG), connection.log(GOLD)
        alike = {run for run, stored in (await run_starts(log)).items() if fact_of(stored) == started}
        listed = await list_log(log, gold) if alike else []
    found = [one for one in listed if one.run in alike and one.state != "cancelled"]
    if found and found[0].state == "paused":
        raise UsageError(f"Run {found[0].run} is paused: `evolog resume {found[0].run}` first, or cancel it.")
    return found[0].run if found else ""


async def begin(
    node: Node, name: str, started: RunStarted, watcher: RunWatcher | None, *, begun: bool = False
) -> Report | None:
    """Append the event that begins a run, unless it has `begun`, and follow the run to the end of its audit.

    None where it is watched no more: without a watcher, or after Ctrl-C, SIGTERM or SIGHUP.

    Raises `BrokenPipeError` once whoever read the output has gone, `Misconfigured` once a service that the run waits
    for cannot work on this host, `UsageError` if there is a run of that name, `TryAgain` if the event was refused, and
    `Unavailable` if the services have stopped meanwhile.
    """
    async with operator(node) as connection:
        log, gold = connection.log(LOG), connection.log(GOLD)
        event = codec.event(started, run=name, source=OPERATOR, cause="", time=now())
        gold_position = 0 if begun else await gold.end()
        if not begun and await log.last([event.subject]):
            raise UsageError(
                f"There is a run {name!r} already; give this one another --name, or look at that one with `evolog "
                f"show {name}`."
            )
        with _interrupts() as interrupted:  # from here on Ctrl-C leaves a run behind, and must say so
            try:
                if not begun:
                    await append_once(log, [event], connection.scanner)
            except Refused as refused:
                raise TryAgain(f"Run {name} could not be started: {refused}.") from refused
            if watcher is None:
                return None
            watcher.begin(name, started)
            async with StatusBoard(connection) as board:
                report = await _follow(node, log, gold, name, started, gold_position, watcher, interrupted, board)
            if report:
                report.closing = await kept_closing(connection, node, name)
            return report


@contextlib.contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    numbers = [number for number, handler in before.items() if number == signal.SIGINT or handler != signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, interrupted.set)
    try:
        yield interrupted
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def output_is_gone() -> bool:
    """Whether nobody can read standard output any more, such as after `| head`."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # it is no file, as in tests, or there is none
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


async def _follow(
    node: Node,
    log: Log,
    gold: Log,
    run: str,
    started: RunStarted,
    gold_position: int,
    watcher: RunWatcher,
    interrupted: asyncio.Event,
    board: StatusBoard,
) -> Report | None:
    reporter = Reporter(run)
    troubles: set[str] = set()
    last_read = last_event = time.monotonic()
    while reporter.report.audit != "done":
        obstacles = list(running.troubles) if (running := node.running()) else []
        try:
            events = await reporter.follow(log)
            if watcher.counts_rollouts:
                await reporter.count(log)
            gold_position = await follow_gold(gold, reporter, gold_position)
            pauses = await events_of_types(log, run, [RunPaused, RunResumed])  # no decision comes after a pause
            last_read = time.monotonic()
        except Unavailable as wrong:
            events, pauses = [], []
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
        if events:
            last_event = time.monotonic()
        watcher.wait(time.monotonic() - last_event, board.statuses())
        if output_is_gone():
            raise BrokenPipeError
        if interrupted.is_set():
            return None
        for asked in pauses[-1:]:
            require_not_halted(run, asked.data)
        node.require_fit(run, started)
        await asyncio.sleep(POLL_SECONDS)
    await add_vote(log, reporter.report)
    await asyncio.to_thread(add_best_answers, node.directory, reporter)
    return reporter.report


def require_not_halted(run: str, fact: Fact) -> None:
    """Raise `RunHalted` where a service has paused the run, with what the operator has to do."""
    if isinstance(fact, RunPaused) and fact.by:
        raise RunHalted(f"Run {run} is paused: {fact.reason} Then `evolog resume {run}` goes on with it.")


async def pause(node: Node, name: str, reason: str) -> str:
    """Ask a run to make no further decision; its full name. What it has asked for is still done.

    Raises `UsageError` if it is paused or finished.
    """

    def paused(asked: Sequence[Event]) -> RunPaused:
        if _is_paused(asked):
            raise UsageError("is paused already; `evolog resume` lets it go on")
        return RunPaused(number=1 + sum(isinstance(event.data, RunPaused) for event in asked), reason=reason)

    return await _append_request(node, name, paused)


def resume_with_services(
    node: Node,
    name: str,
    announce: Callable[[str], None],
    starting: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> str:
    """Let a paused run go on, with the services up; its full name.

    Where a service has paused it, the services are started anew: what they lacked, such as a key, is in the environment
    of this process. Raises as `resume`, and `Misconfigured` where it is not.
    """
    from services.host.supervisor import start_detached, stop

    with services_up(node, announce, starting) as services:
        agent = asyncio.run(_halted_agent(node, name))
        running = node.running()
        if agent is not None and not services.is_owner and running is not None and is_on_this_host(running):
            if model := model_of(agent):
                require_key(model, os.environ)
            announce("The services are started anew, with the environment of this command.")
            with starting("starting the services anew"):
                stop(node.directory)
                start_detached(node.directory)
        return asyncio.run(resume(node, name))


async def _halted_agent(node: Node, name: str) -> str | None:
    """The agent of a run that a service has paused; None for any other run."""
    async with operator(node) as connection:
        log = connection.log(LOG)
        run = await find_run(log, name)
        asked = await events_of_types(log, run, [RunPaused, RunResumed])
        last = asked[-1].data if asked else None
        return (await run_start(log, run))[1].agent if isinstance(last, RunPaused) and last.by else None


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
    last = [event.data for event in asked if isinstance(event.data, RunPaused | RunResumed)][-1:]
    return any(isinstance(fact, RunPaused) for fact in last)


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
