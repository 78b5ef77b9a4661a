"""Runs shards of rollouts: starts the scaffold in its sandbox, hands it the items, and gives back what came of each
attempt.

A scaffold is one of three kinds. Most are an `agent.py` with `solve`, which has the model at hand. One that names
openai reaches it over HTTP too. The third is a program in SIA's style, which answers all items in one run.
"""

import functools
import secrets
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from events.errors import CheckFailed, NotHere, UserError, raise_if_hosts
from events.kinds import RolloutFailure
from events.secret import Scanner
from runtime.blobs.directory import Blobs
from runtime.log.port import EVENT_LIMIT
from runtime.rollouts import program
from runtime.rollouts.calls import CallLog, CallRecorder, CompletionSource, ShardCalls
from runtime.rollouts.host import (
    AttemptOutcome,
    RefusedCall,
    ScaffoldCall,
    ScaffoldData,
    ScaffoldLimits,
    ScaffoldProcess,
    ScaffoldStopped,
    Shown,
)
from runtime.rollouts.names import item_names
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall
from runtime.rollouts.openai.server import Bridge
from runtime.rollouts.openai.session import MODELS, AnswerBridgeCall, BridgedScaffold, attempt_budget, speaks_http
from runtime.rollouts.shard import AttemptResult, RolloutShard, failed_attempts
from runtime.sandbox.choose import provide
from runtime.sandbox.launch import Kind
from tasks.contract import FOLDS, Example, Item, Public, visible_train

CALL_USE_SIZE = 48
"""Bytes that a used completion takes in an event, and more."""
MAX_PROCESSES = FOLDS
"""Scaffold processes that a runner keeps: one for each train fold, so that each fits its data once.

One that sees all of train plays a single shard: what it had played before would tell dev from an audit.
"""


class StartedScaffold(NamedTuple):
    """A scaffold's process, and the folder that it was started from, which is its own."""

    process: ScaffoldProcess | BridgedScaffold
    folder: Path

    def close(self) -> None:
        """Stop the process, and remove the folder."""
        self.process.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ProcessKey(NamedTuple):
    """What a scaffold process that is kept was started with, by which it is found again."""

    scaffold: str
    train: str
    """The digest of train."""
    fold: int
    """The fold that the scaffold's data lacks."""
    kind: Kind
    shared_state: bool


class RolloutRunner:
    """Runs shards, and keeps the scaffold processes that it has started.

    For one thread; bridges call it from threads of their own.
    """

    def __init__(
        self,
        blobs: Blobs,
        work: Path,
        policy: CompletionSource,
        scanner: Scanner,
        limits: ScaffoldLimits = ScaffoldLimits(),
    ) -> None:
        self.blobs, self.work, self.scanner, self.limits = blobs, work, scanner, limits
        self._recorder = CallRecorder(policy, blobs, scanner)
        self._processes: OrderedDict[ProcessKey, StartedScaffold] = OrderedDict()

    def run(self, shard: RolloutShard, public: Public, log: CallLog) -> list[AttemptResult]:
        """A result for each attempt, by item in the shard's order; a scaffold that fails is a result and never an
        exception.

        Raises `HostUnfit` if this host cannot give the shard's sandbox, `NotHere` where it lacks the scaffold or an
        item, and what else is the host's own (`raise_if_hosts`), as where the policy or log is away.
        """
        kind = provide(shard.sandbox).kind
        known = {item.id: item for items in (public.train, public.dev, public.test) for item in items}
        fail = functools.partial(failed_attempts, shard.items, shard.attempts)
        if missing := [item for item in shard.items if item not in known]:
            raise NotHere(f"Item {missing[0]} is not in the task's data on this host.")
        shown = {name: known[item] for item, name in item_names(public.digests, shard.draw, shard.items).items()}
        questions = [_question(name, item) for name, item in shown.items()]

        def answer(asked: list[ScaffoldCall]) -> list[tuple[str, ...] | RefusedCall]:
            return calls.answer([replace(call, item=shown[call.item].id) for call in asked])

        def answer_bridge(name: str, attempt: int, call: BridgeCall) -> BridgeAnswer:
            return calls.answer_bridge(shown[name].id if name else "", attempt, call)

        calls = ShardCalls(shard, log, self._recorder, self.limits.tokens)
        try:
            files = self.blobs.get_tree(shard.scaffold)
            entry = program.entry_of(files, with_layout=public.layout is not None)
            scaffold = None if entry else self._scaffold(shard, public, files, kind)
        except ScaffoldStopped as stopped:
            return fail(stopped.kind, str(stopped))
        except CheckFailed as wrong:  # a blob is damaged, and may be put back
            raise NotHere(str(wrong), code=wrong.code) from wrong
        except UserError as wrong:
            raise_if_hosts(wrong)
            return fail("unloadable", str(wrong))
        try:
            if scaffold is None:
                items = [Item(name, item.prompt, files=item.files, name=item.name) for name, item in shown.items()]
                outcomes = self._run_program(calls, answer_bridge, public, files, entry or "", items, kind)
            elif isinstance(scaffold.process, BridgedScaffold):
                outcomes = scaffold.process.solve(questions, shard.attempts, answer, answer_bridge)
            else:
                outcomes = scaffold.process.solve(questions, shard.attempts, answer)
        except BaseException as wrong:
            if scaffold is not None:
                scaffold.close()
            raise_if_hosts(wrong)
            if not isinstance(wrong, UserError):
                raise
            return fail("refused", str(wrong))
        if scaffold is not None and (shard.fold is None or shard.hints):
            scaffold.close()  # hints are true answers, which it may have kept
        order = {item: index for index, item in enumerate(shard.items)}
        outcomes = [replace(outcome, item=shown[outcome.item].id) for outcome in outcomes]
        outcomes.sort(key=lambda outcome: (order[outcome.item], outcome.attempt))
        return self._without_secrets([_fit_event(calls.result(outcome)) for outcome in outcomes])

    def close(self) -> None:
        """Stop all scaffold processes."""
        while self._processes:
            self._processes.popitem()[1].close()

    def _without_secrets(self, results: list[AttemptResult]) -> list[AttemptResult]:
        """The results, with a failure in the place of each that holds a known secret."""
        payloads = [msgspec.json.encode(result) for result in results]
        if not self.scanner.finds(b"\n".join(payloads)):  # all at once, which is quicker
            return results
        return [
            _failed(result, "refused", "what the scaffold said held a known secret")
            if self.scanner.finds(payload)
            else result
            for result, payload in zip(results, payloads, strict=True)
        ]

    def _run_program(
        self,
        calls: ShardCalls,
        answer_bridge: AnswerBridgeCall,
        public: Public,
        files: Mapping[str, bytes],
        entry: str,
        items: Sequence[Item],
        kind: Kind,
    ) -> list[AttemptOutcome]:
        """Every attempt is a run of the program over all items; a call counts for the item whose prompt it holds."""
        outcomes: list[AttemptOutcome] = []
        for attempt in range(calls.shard.attempts):
            token = secrets.token_urlsafe(24)
            with tempfile.TemporaryDirectory(prefix="evolog-") as name:
                folder = Path(name)
                (folder / "scratch").mkdir()
                source = program.write_code(folder / "code", files)
                if public.layout is None:
                    program.write_dataset(folder / "data", _scaffold_data(public, calls.shard.fold), items, public.name)
                else:
                    train = visible_train(public, calls.shard.fold)
                    program.write_layout(folder / "data", public.layout, train, items, public.labels)

                def answer(call: BridgeCall, attempt: int = attempt) -> BridgeAnswer:
                    return answer_bridge(program.item_of_call(call.prompts[0], items), attempt, call)

                began = time.monotonic()
                budget = attempt_budget(self.limits, self.limits.cpu_seconds, time.monotonic)
                with Bridge(folder / "bridge.sock", answer, token=token, models=MODELS, budget=budget) as bridge:
                    launch = program.launcher(
                        kind, folder / "scratch", bridge.path, self.limits.cpu_seconds, self.limits
                    )
                    env = program.environment(source, token, MODELS[0])
                    ended = program.run(launch, folder / "code", entry, folder / "data", env)
                if bridge.failure is not None:
                    raise bridge.failure
                outcomes += program.outcomes(items, ended, attempt, time.monotonic() - began)
        return outcomes

    def _scaffold(self, shard: RolloutShard, public: Public, files: Mapping[str, bytes], kind: Kind) -> StartedScaffold:
        """A scaffold process over the shard's data: one that is kept and lives, or a new one."""
        if shard.fold is None:
            return self._started(shard, public, files, kind)
        key = ProcessKey(shard.scaffold, public.digests["train"], shard.fold, kind, shard.shared_state)
        scaffold = self._processes.pop(key, None)
        if scaffold is None or not scaffold.process.alive:
            if scaffold is not None:
                scaffold.close()
            while len(self._processes) >= MAX_PROCESSES:
                self._processes.popitem(last=False)[1].close()
            scaffold = self._started(shard, public, files, kind)
        self._processes[key] = scaffold
        return scaffold

    def _started(self, shard: RolloutShard, public: Public, files: Mapping[str, bytes], kind: Kind) -> StartedScaffold:
        """A new process, from a folder as new as it is: an older one would tell what was played from it before."""
        self.work.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.work))
        folder.chmod(0o755)
        source = folder / shard.scaffold
        try:
            for path, content in files.items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_bytes(content)
            start = BridgedScaffold if speaks_http(files) else ScaffoldProcess
            data = _scaffold_data(public, shard.fold)
            process = start(source, data, folder / "work", self.limits, kind, shard.shared_state)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return StartedScaffold(process, folder)


def _scaffold_data(public: Public, fold: int | None) -> ScaffoldData:
    train = [
        (example.prompt, example.label, example.files) if example.files else (example.prompt, example.label)
        for example in visible_train(public, fold)
    ]
    return ScaffoldData(public.labels, train)


def _question(name: str, item: Item | Example) -> Shown:
    return (name, item.prompt, item.files) if item.files else (name, item.prompt)


def _fit_event(result: AttemptResult) -> AttemptResult:
    """The result; of one that used more completions than an event can hold, the failure that this is."""
    if len(result.uses) * CALL_USE_SIZE < EVENT_LIMIT:
        return result
    return _failed(
        result, "flooded", f"an attempt that used {len(result.uses):,} completions, more than an event can hold"
    )


def _failed(result: AttemptResult, kind: RolloutFailure, reason: str) -> AttemptResult:
    return AttemptResult(result.item, result.attempt, kind=kind, reason=reason)
