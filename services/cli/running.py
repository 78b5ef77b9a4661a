"""`evolog run` and `evolog ablate`: order a run, follow it live, and show what came of it."""

import asyncio
import contextlib
import importlib.util
import os
import random
import re
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from events import codec
from events.codec import Event
from events.errors import Misconfigured, TryAgain, Unavailable, UsageError, UserError
from events.fact import derive_seed
from events.gold import AuditFinished
from events.population import CandidateAccepted, CandidateRejected
from events.run import Items, RunStarted
from events.subjects import GOLD, LOG, check_run_name, run_of, subject
from events.weights import AdapterPublished, WeightUpdateFailed
from replay.report import Report, Reporter, follow_gold
from runtime.agents.providers import RULES, model_of, price, require, variable
from runtime.blobs.directory import Blobs
from runtime.broker.accounts import OPERATOR
from runtime.log.port import BATCH_LIMIT, Log, Refused, append_once, readable
from runtime.log.worker import now
from runtime.run import budget as budgets
from runtime.run.decide import evaluation_cost
from runtime.sandbox.choose import UNSANDBOXED, provide
from services.host.context import operator
from services.host.node import Node, Running
from services.host.sources import runs_of
from services.views.progress import stdout, working
from services.views.run import ablation_table, final_table, generation_lines, head_line
from tasks.contract import FOLDS, Public
from tasks.loading import Task, known, load

POLL_SECONDS = 0.2
"""Seconds between two looks at the log."""
PRETRAINING_SEED = 0
"""Base models are made once for a task, whatever a run's seed."""
PROBE_ITEMS = 100
"""Train items, of one fold, on which each candidate shows the agent how it fails."""


ON_DRIFT = ("freeze", "rollback", "stop")


class Order(NamedTuple):
    """What the command line asks for."""

    task: str
    levers: str
    seed: int
    generations: int | None
    budget: str
    name: str = ""
    policy: str = ""
    """In the place of the task's own."""
    sandbox: str = ""
    """`none`, or this host's own profile."""
    max_tokens: int = 0
    """In place of the task's own."""
    agent: str = RULES
    verifier: str = ""
    """In place of the task's own: the name of another of the task's, or a path."""
    on_drift: str = ""
    """What the auditor may do: nothing, or one of `ON_DRIFT`."""


def policy_of(order: Order, task: Task) -> str:
    """The policy that is ordered, or else the task's own."""
    return order.policy or task.policy


def run_task(directory: Path, order: Order, *, detach: bool, as_json: bool) -> int:
    """Order a run, follow it to its end, print its table; the exit code."""
    node = Node(directory)
    check(order, node)
    return carry_out(node, lambda out: _run(node, order, detach=detach, out=out), detach=detach, as_json=as_json)


def carry_out(node: Node, work: Callable[[Console], Coroutine[None, None, Report]], *, detach: bool, as_json: bool) -> int:
    """With the services up, do what begins a run and follows it; print its table; the exit code."""
    with brought_up(node) as started_here:
        try:
            report = asyncio.run(work(Console(stderr=as_json, markup=False)))
        except _Detached as detached:
            started_here.keep()
            if not detach:
                return _goes_on(detached.run)
            click.echo(detached.run)
            return 0
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        final_table(stdout(), report)
    if report.score is None:
        click.echo(f"evolog: run {report.run} came to nothing: {why_nothing(report)}", err=True)
        return 1
    return 5 if report.reason == "budget exhausted" else 0


def why_nothing(report: Report) -> str:
    """Why a run has no candidate, and where to look, in a sentence."""
    why = f" ({report.generations[0].verdict})" if report.generations and report.generations[0].verdict else ""
    ask = f"select outcome, failure, count(*) from trajectories where run = '{report.run}' and failure is not null group by all"
    return f'{report.reason}{why}; `evolog sql "{ask}"` shows what failed.'


def ablate_task(directory: Path, task: str, seeds: Sequence[int], generations: int | None, budget: str, *, as_json: bool) -> int:
    """Run each choice of levers with each seed, one after the other, and print the comparison."""
    node = Node(directory)
    reports: list[Report] = []
    check(Order(task=task, levers="both", seed=0, generations=generations, budget=budget), node)
    with brought_up(node) as started_here:
        for seed in seeds:
            for levers in ("scaffold", "weights", "both"):
                order = Order(task=task, levers=levers, seed=seed, generations=generations, budget=budget)
                try:
                    reports.append(asyncio.run(_run(node, order, detach=False, out=Console(stderr=True, markup=False))))
                except _Detached as detached:
                    started_here.keep()
                    return _goes_on(detached.run)
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    else:
        ablation_table(stdout(), reports)
    nothing = [report for report in reports if report.score is None]
    for report in nothing:
        click.echo(f"evolog: run {report.run} came to nothing: {why_nothing(report)}", err=True)
    return 1 if nothing else 0


def check(order: Order, node: Node) -> None:
    """Raise what is wrong with an order before anything is started for it."""
    task = load(order.task)
    budgets.parse(order.budget)
    if order.name:
        check_run_name(order.name)
    provide(order.sandbox)
    needed = ["numpy", "safetensors"]  # for the base model
    running = node.running()
    if order.sandbox == "none" and running is not None and not running.unsandboxed:
        raise Misconfigured(
            f"The services in {node.directory} do not run scaffolds without a sandbox, as they were started without {UNSANDBOXED}=1: "
            f"stop them with `evolog down --dir {node.directory}`, and order the run again."
        )
    check_agent(order, running)
    if order.verifier:
        task.with_verifier(task.verifier_text(order.verifier), order.verifier)
    if policy_of(order, task) == "tiny-lm" or policy_of(order, task).startswith("hf:"):
        needed += ["torch", "transformers", "peft"]
    elif order.levers != "scaffold" and (running is None or urlsplit(running.url).hostname == "127.0.0.1"):
        needed += ["torch", "peft"]  # a broker elsewhere may have its trainer elsewhere
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        less = "" if {"numpy", "safetensors", "transformers"} & set(missing) else ", or ask for --levers scaffold"
        raise Misconfigured(f"A run with --levers {order.levers} needs {' and '.join(missing)}: pip install 'evolog[policy,tasks]'{less}.")


def check_agent(order: Order, running: Running | None) -> None:
    """Raise what is missing for the agents' language model: its name, package, key, or a price where dollars are limited."""
    model = model_of(order.agent)
    if model is None:
        return
    if running is None:
        require(model, os.environ)
    elif (
        model.provider not in running.providers and urlsplit(running.url).hostname == "127.0.0.1"
    ):  # a broker elsewhere may have its agents elsewhere
        raise Misconfigured(
            f"The services that are up have no key for {order.agent}: `evolog down`, set {variable(model.provider, 'API_KEY')}, "
            "and start again."
        )
    if price(model, os.environ) is None and budgets.parse(order.budget).micro_usd is not None:
        raise Misconfigured(
            f"No price is known for {order.agent}, so a budget in usd cannot be kept: name a price table with EVOLOG_PRICES, "
            "or leave usd out."
        )


class _Detached(Exception):
    """The run goes on without being watched."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run


def _goes_on(run: str) -> int:
    click.echo(f"\nRun {run} goes on in the services: `evolog watch {run}`.", err=True)
    return 130


class _Started:
    """Whether this command started the services, and should stop them."""

    def __init__(self, here: bool) -> None:
        self.here = here

    def keep(self) -> None:
        """Leave them running."""
        self.here = False


@contextlib.contextmanager
def brought_up(node: Node) -> Iterator[_Started]:
    """The services of the directory, started if they are not up, and stopped again if they were started here and no run needs them."""
    from services.host.supervisor import start_detached, stop

    started = _Started(not node.alive())
    if started.here:
        start_detached(node.directory)
    try:
        yield started
    finally:
        if started.here and node.alive():
            if others := asyncio.run(_unfinished(node)):
                click.echo(
                    f"evolog: the services go on for {', '.join(others)}, not finished; `evolog down --dir {node.directory}` stops them.",
                    err=True,
                )
            else:
                stop(node.directory)


async def _unfinished(node: Node) -> list[str]:
    """The runs whose audit is not finished; none where the log cannot be asked."""
    try:
        async with operator(node) as connection:
            ends = await connection.log(GOLD).last([subject(GOLD, "*", "*", AuditFinished.tag())])
            runs = await runs_of(connection.log(LOG))
    except UserError:
        return []
    audited = {run_of(where) for where in ends}
    return [run for run, began in runs.items() if run not in audited and any(readable([began]))]


def plan(task: Task, public: Public, order: Order, base_model: str) -> RunStarted:
    """The event that begins the run; all that its decisions depend on from outside is in it."""
    folds = tuple(tuple(example.id for example in public.train if example.fold == fold) for fold in range(FOLDS))
    probed = next(fold for fold in range(FOLDS) if folds[fold])
    drawn = random.Random(derive_seed(order.seed, "probe")).sample(sorted(folds[probed]), min(PROBE_ITEMS, len(folds[probed])))
    started = RunStarted(
        task=order.task if order.task in known() else str(task.folder),  # the services may have been started in another folder
        seed=order.seed,
        levers=("scaffold", "weights") if order.levers == "both" else (order.levers,),
        generations=task.generations if order.generations is None else order.generations,
        budget=budgets.parse(order.budget),
        items=Items(
            dev=tuple(item.id for item in public.dev),
            folds=folds,
            probe=tuple(tuple(sorted(drawn)) if fold == probed else () for fold in range(FOLDS)),
        ),
        splits=dict(public.digests),
        verifier=task.verifier,
        policy=policy_of(order, task),
        agent=order.agent,
        base_model=base_model,
        sandbox=provide(order.sandbox).text,
        max_tokens=order.max_tokens or task.max_tokens,
        on_drift=order.on_drift,
    )
    shards = sum(-(-len(items) // max(1, started.shard_size // started.group_size)) for items in started.items.folds)
    if shards >= BATCH_LIMIT:
        raise Misconfigured(
            f"Task {order.task!r} has {len(public.train)} train items, {shards} shards a round; at most {BATCH_LIMIT - 1} fit one decision."
        )
    limit = started.budget.rollouts
    if limit is not None and limit < evaluation_cost(started):
        raise UsageError(
            f"A budget of {limit} rollouts does not cover the first evaluation, which plays {evaluation_cost(started)}; "
            f"give --budget rollouts={evaluation_cost(started)} or more."
        )
    return started


def default_name(order: Order) -> str:
    """A name from the task, the seed and chance."""
    task = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(order.task).resolve().name).strip("-_")[:40]
    return f"{task or 'run'}-s{order.seed}-{secrets.token_hex(2)}"


async def _run(node: Node, order: Order, *, detach: bool, out: Console) -> Report:
    task = load(order.task)
    public = task.public(order.seed)
    blobs = Blobs(node.blobs)
    started = plan(task, public, order, base_of(policy_of(order, task), task, public, blobs))
    if order.verifier:
        verifier, code = other_verifier(order.verifier, task, blobs)
        started = msgspec.structs.replace(started, verifier=verifier, verifier_code=code)
    return await begin(node, check_run_name(order.name or default_name(order)), started, detach=detach, out=out)


def base_of(policy: str, task: Task, public: Public, blobs: Blobs) -> str:
    """The blob of a policy's base model, which is made if it is not in the cache."""
    from runtime.policies.bases import prepare_base  # with numpy, which `check` has looked for

    with working("preparing the base model") as say:

        def progress(done: int, total: int, loss: float) -> None:
            say(f"pre-training the base model: step {done} of {total}, loss {loss:.3f}")

        return blobs.put_folder(prepare_base(policy, public, lambda: task.traces(PRETRAINING_SEED), progress))


def other_verifier(named: str, task: Task, blobs: Blobs) -> tuple[str, str]:
    """The name with version, and the blob of the text, of a verifier in the place of the task's own; raises as `Task` does."""
    text = task.verifier_text(named)
    return task.with_verifier(text, named).verifier, blobs.put(text.encode())


async def begin(node: Node, name: str, started: RunStarted, *, detach: bool, out: Console) -> Report:
    """Append what begins a run, and follow the run to the end of its audit."""
    async with operator(node) as connection:
        log, gold = connection.log(LOG), connection.log(GOLD)
        event = codec.event(started, run=name, source=OPERATOR, cause="", time=now())
        gold_position = await gold.end()
        if await log.last([event.subject]):
            raise UsageError(
                f"There is a run {name!r} already; give this one another --name, or look at that one with `evolog show {name}`."
            )
        with _interrupts() as interrupted:  # from here on Ctrl-C leaves a run behind, and must say so
            try:
                await append_once(log, [event], connection.scanner)
            except Refused as refused:
                raise TryAgain(f"Run {name} could not be started: {refused}.") from refused
            if detach:
                raise _Detached(name)
            out.print(head_line(name, started), soft_wrap=True, highlight=False)
            if (model := model_of(started.agent)) and price(model, os.environ) is None:
                out.print(
                    f"no price is known for {started.agent}: what it costs is not counted; EVOLOG_PRICES names a table", soft_wrap=True
                )
            return await _follow(node, log, gold, name, gold_position, out, interrupted)


@contextlib.contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _follow(node: Node, log: Log, gold: Log, run: str, gold_position: int, out: Console, interrupted: asyncio.Event) -> Report:
    reporter = Reporter(run)
    with _progress() as (progress, bar):
        while reporter.report.state != "audited":
            try:
                told = await reporter.follow(log)
                if progress:
                    await reporter.count(log)
                gold_position = await follow_gold(gold, reporter, gold_position)
            except Unavailable:
                told = []
                if not node.alive():
                    raise Unavailable(
                        f"evolog has stopped in {node.directory}; run {run} is safe in the log: `evolog up` goes on with it, "
                        f"`evolog watch {run}` follows it."
                    ) from None
            for event in told:
                for line in _told(event, reporter):
                    (progress.console if progress and out.stderr else out).print(line, soft_wrap=True, highlight=False)
            if progress and bar is not None:
                state = reporter.report
                row = state.generations[-1] if state.generations else None
                words = (
                    "the auditor scores test" if state.state == "finished" else f"generation {row.generation}: {row.lever}" if row else ""
                )
                progress.update(bar, completed=reporter.done, total=max(1, state.rollouts), description=words)
            if interrupted.is_set():
                raise _Detached(run)
            await asyncio.sleep(POLL_SECONDS)
    return reporter.report


def _told(event: Event, reporter: Reporter) -> list[str]:
    """What is said of an event as it comes."""
    match event.data:
        case CandidateAccepted(generation=generation) | CandidateRejected(generation=generation):
            return generation_lines(reporter.row(generation))
        case WeightUpdateFailed(round=number, reason=reason):
            return [f"      round {number} changed nothing: {reason}"]
        case AdapterPublished(round=number, trained_on=trained_on):
            return [f"      round {number}: adapter {event.data.adapter[:12]} trained on {trained_on:,} trajectories"]
    return []


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Progress | None, TaskID | None]]:
    if not sys.stderr.isatty():
        yield None, None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rollouts"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as progress:
        yield progress, progress.add_task("", total=None)
