"""A known secret in what a service is about to say is never appended, and stops no service."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from events import codec
from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested
from events.choice import FeedbackRequested
from events.errors import Misconfigured
from events.fact import Fact
from events.gold import GoldFailed
from events.judgement import ScoringFailed, TrajectoryScored
from events.run import Budget, EventSetAside
from events.secret import MARKER, Scanner, Secret, SecretFound
from events.weights import AdapterPublished, AdapterRejected, AdapterServed
from runtime.blobs.directory import Blobs
from runtime.broker.credentials import Credentials
from runtime.effects.scoring import in_process
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import Message, append_once
from runtime.log.worker import Wants
from runtime.run.controller import Controller
from runtime.run.loading import LoadedRun
from runtime.status import StatusReporter
from services import feedback_agent, meta_agent, policy, verifier
from services.auditor.measure import AuditHost
from services.host.context import Context
from tasks.contract import Item, Scored
from tests.harness.agents import TOY
from tests.harness.facts import event_of, example, started, trajectory
from tests.harness.few import few
from tests.harness.llm_server import LlmServer, Say
from tests.harness.polling import PATIENCE

KEY = "sk-planted-0123456789"
ESCAPED = "".join(f"\\u{ord(letter):04X}" for letter in KEY)
CODED = "".join(f"%{ord(letter):02x}" for letter in KEY)
SCANNER = Scanner([Secret(KEY)])


class Desk:
    """What a service is given, on a log in memory, and all that it appended."""

    def __init__(self, folder: Path, *asked: Fact, secret: str = KEY) -> None:
        self.log: Any = MemoryLog(MemoryStream(), [fact.tag() for fact in asked])
        self.asked = [event_of(fact) for fact in asked]
        self.scanner = Scanner([Secret(secret)])
        self.context: Any = SimpleNamespace(
            log=self.log,
            scanner=self.scanner,
            blobs=Blobs(folder / "blobs"),
            load=self.load,
            started=self.started,
            past=self.past,
            work=folder,
            status=StatusReporter("tested"),
            node=SimpleNamespace(directory=folder),
            connection=SimpleNamespace(credentials=Credentials("", "", "", ""), login=None),
            record=lambda events: Context.record(self.context, events),
            wants=Wants,
            wait_for=lambda work: asyncio.run_coroutine_threadsafe(work, self.loop).result(),
        )
        self.loaded: Any = None
        self.wrong: Exception | None = None

    async def load(self, run: str) -> Any:
        return self.loaded

    async def started(self, run: str) -> Any:
        return self.loaded.started

    async def past(self, run: str) -> Any:
        if self.loaded.started.agent.startswith(("anthropic", "openai")):
            return ()
        raise RuntimeError(f"401: the key {ESCAPED} is not ours")

    def answers(self, serve: Callable[[Any], Awaitable[None]], facts: int = 1) -> list[Fact]:
        """What a service answers, once it has given so many facts for each that it was asked; none holds the key."""
        return asyncio.run(self._answers(serve, facts))

    async def _answers(self, serve: Callable[[Any], Awaitable[None]], facts: int) -> list[Fact]:
        self.loop = asyncio.get_running_loop()
        await append_once(self.log, self.asked, Scanner([]))
        stored, count = self.log.memory.messages, len(self.asked)
        serving = asyncio.ensure_future(serve(self.context))
        try:
            async with asyncio.timeout(PATIENCE):
                while len(stored) < (1 + facts) * count and not serving.done():
                    await asyncio.sleep(0.01)
            assert not serving.done() or serving.result()
        finally:
            serving.cancel()
        self.scanner.check(b"\n".join(message.data for message in stored[count:]))
        return [codec.decode(message.data).data for message in stored[count:]]


def test_a_verifier_that_says_a_key_has_failed_at_that_attempt_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, *(trajectory(attempt).data for attempt in range(3)))
    turns = iter(range(3))

    def judge(item: Item, answer: str | None, label: str) -> Scored:
        if next(turns) == 1:
            raise Misconfigured(f"The verifier failed: no label {CODED}.")
        return Scored(1.0, "right")

    task = SimpleNamespace(
        labels=lambda seed: {"i": "x"}, score=judge, submissions=False, repeats=1, needs=(), judge_model=""
    )
    started = SimpleNamespace(seed=0, verifier="v")
    desk.loaded = SimpleNamespace(task=task, started=started, items=lambda ids: {id: Item(id, "") for id in ids})
    first, failed, third = desk.answers(lambda context: verifier.score_trajectories(context, in_process))
    assert isinstance(first, TrajectoryScored) and isinstance(third, TrajectoryScored)
    assert isinstance(failed, ScoringFailed) and failed.reason == f"The verifier failed: no label {MARKER}."


@pytest.mark.parametrize(
    ("serve", "asked"),
    [
        (meta_agent.serve, ScaffoldRequested(generation=0, task="toy")),
        (
            feedback_agent.serve,
            FeedbackRequested(
                generation=3,
                candidate="c",
                scaffold="s",
                adapter="",
                levers=("scaffold",),
                rollouts_left=None,
                generations_left=1,
                probe_requests=(),
                dev_requests=(),
            ),
        ),
    ],
)
def test_an_agents_failure_that_quotes_a_key_is_a_failed_proposal_without_it(
    tmp_path: Path, serve: Callable[[Any], Awaitable[None]], asked: ScaffoldRequested | FeedbackRequested
) -> None:
    desk = Desk(tmp_path, asked)
    desk.loaded = SimpleNamespace(started=SimpleNamespace(agent=f"nobody:{KEY}"))
    (failed,) = desk.answers(serve)
    assert failed == ProposalFailed(generation=asked.generation, reason="what the agent said held a known secret")


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("form", few(["\\u{0:04x}", "\\u{0:04X}", "%{0:02x}"], "\\u{0:04x}"))
def test_a_meta_agent_whose_model_echoes_its_key_in_escapes_proposes_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, form: str
) -> None:
    pytest.importorskip(provider)
    said = {"files": [], "summary": "As it is.", "report": f"My key is {LlmServer.KEY}."}
    escaped = "".join(form.format(ord(letter)) for letter in LlmServer.KEY)
    steps = [Say(calls=(("propose_scaffold", json.dumps(said).replace(LlmServer.KEY, escaped)),))]
    with LlmServer(steps) as server:
        for name, value in server.environment(provider).items():
            monkeypatch.setenv(name, value)
        desk = Desk(tmp_path, ScaffoldRequested(generation=0, task="toy"), secret=LlmServer.KEY)
        run_started = msgspec.structs.replace(started(), agent=f"{provider}:m", budget=Budget())
        desk.loaded = LoadedRun(run_started, TOY, TOY.public(0))
        *_, proposed = desk.answers(meta_agent.serve, 3)
    assert isinstance(proposed, ScaffoldProposed) and proposed.reason == f"My key is {MARKER}."


def test_a_key_in_the_reason_for_a_refused_adapter_is_struck_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = example(AdapterPublished)
    assert isinstance(published, AdapterPublished)

    def check(models: object, adapter: AdapterPublished) -> AdapterServed | AdapterRejected:
        return AdapterRejected(
            generation=adapter.generation, round=adapter.round, adapter="a", batch="b", reason=f"no {KEY} here"
        )

    monkeypatch.setattr(policy, "check_adapter", check)
    models: Any = None
    (rejected,) = Desk(tmp_path, published).answers(lambda context: policy.check_adapters(context, models))
    assert isinstance(rejected, AdapterRejected) and rejected.reason == f"no {MARKER} here"


def test_a_key_in_an_unreadable_message_stops_neither_worker_nor_controller(tmp_path: Path) -> None:
    async def check() -> None:
        log: Any = MemoryLog(MemoryStream(), ["trajectory_recorded"])
        await log.append([Message("evolog.r.e.trajectory_recorded", f"no event, but {KEY}".encode())])
        controller: Any = Controller(log, SimpleNamespace(version=1), SCANNER)  # type: ignore[arg-type]  # asked nothing
        await controller._decode(log.memory.messages[0])
        aside = codec.decode(log.memory.messages[1].data).data
        assert isinstance(aside, EventSetAside) and (aside.bytes, aside.size) == ("", 14 + len(KEY))
        assert not SCANNER.finds(log.memory.messages[1].data)

    asyncio.run(check())


def test_what_the_auditor_records_is_struck_out(tmp_path: Path) -> None:
    async def check() -> None:
        gold: Any = MemoryLog(MemoryStream("GOLD"))
        context: Any = SimpleNamespace(scanner=SCANNER)
        context.record = lambda events, log: Context.record(context, events, log)
        failed = GoldFailed(cell="final", split="test", reason=base64.b64encode(KEY.encode()).decode())
        await AuditHost(context, gold, Blobs(tmp_path), in_process, ()).record(trajectory(0), [failed])
        stored = codec.decode(gold.memory.messages[0].data).data
        assert isinstance(stored, GoldFailed) and MARKER in stored.reason
        assert not SCANNER.finds(gold.memory.messages[0].data)
        with pytest.raises(SecretFound):
            await append_once(gold, [event_of(failed)], SCANNER)

    asyncio.run(check())
