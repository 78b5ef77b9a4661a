"""Playing one shard: a scaffold's attempts at its items, with every model call recorded before its answer is released.

A scaffold is an `agent.py` with `solve`, which has the model at hand and, if it names openai, over HTTP too; or a program in SIA's style.
"""

import functools
import hashlib
import secrets
import tempfile
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from events import codec
from events.errors import TryAgain, Unavailable, UsageError, UserError
from events.fact import Fact, derive, derive_seed
from events.kinds import RolloutFailure
from events.rollouts import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.secret import Scanner, SecretFound
from runtime.blobs.directory import Blobs
from runtime.log.port import EVENT_LIMIT
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts import program
from runtime.rollouts.host import Ask, Data, Limits, Outcome, Refused, ScaffoldProcess, ScaffoldStopped
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, hashed_ngrams
from runtime.rollouts.openai.server import Bridge
from runtime.rollouts.openai.session import MODELS, BridgedScaffold, attempt_budget, speaks_http
from runtime.sandbox.choose import provide
from runtime.sandbox.launch import Kind
from tasks.contract import Item, Public, visible_train

CALL_USE = 48
"""Bytes that a used completion takes in an event, and more."""
PROCESSES = 6
"""Scaffold processes that a player keeps: one for each train fold and one for all of train, so that each fits once."""

ELSE = "the scaffold asked something else than is recorded; it is not deterministic"
REASON_LIMIT = 500
"""Characters of what a policy says about a call that it refuses; it may quote the call."""

Recorded = Callable[[Sequence[str]], Mapping[str, ModelCalled]]
"""The calls of these ids that stand in the log already."""
Record = Callable[[Sequence[ModelCalled]], bool | None]
"""Append calls, and return when they are stored; whether some of them stood there already, which then count in place of these."""
Calls = dict[tuple[str, int], str | Refused]
"""What became of the calls of a shard, by item and ordinal: the id of the recorded call, or why there is none."""
Uses = dict[tuple[str, int], list[tuple[int, int]]]
"""The calls over a bridge that an attempt made, by item and attempt: ordinal and completion."""


Asked = Mapping[tuple[str, int], SampleRequest]
"""Requests by the item and the ordinal of their calls."""
Sample = Callable[[str, list[SampleRequest]], Sequence[Sampled | Refused]]
EMBEDDINGS = "hashed-character-ngrams"


class Policy(Protocol):
    """Whatever gives completions by model name."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""


class Shard(NamedTuple):
    """What is played, and how its calls are known and recorded. `hints` are by item."""

    run: str
    id: str
    requested: RolloutsRequested
    model: str
    recorded: Recorded
    record: Record
    hints: Mapping[str, str]
    max_tokens: int


class RolloutRunner:
    """Plays shards, and keeps the scaffold processes that it has started. For one thread; bridges ask from threads of their own."""

    def __init__(self, blobs: Blobs, work: Path, policy: Policy, scanner: Scanner, limits: Limits = Limits()) -> None:
        self.blobs, self.work, self.policy, self.scanner, self.limits = blobs, work, policy, scanner, limits
        self._processes: OrderedDict[tuple[str, str, Kind], ScaffoldProcess | BridgedScaffold] = OrderedDict()
        self._calling = threading.Lock()

    def play(
        self,
        run: str,
        request_id: str,
        requested: RolloutsRequested,
        public: Public,
        model: str,
        recorded: Recorded,
        record: Record,
        hints: Mapping[str, str] | None = None,
        sandbox: str = "",
        max_tokens: int = 64,
    ) -> list[Fact]:
        """A `TrajectoryRecorded` or `RolloutFailed` for each attempt; never raises for what a scaffold does. `hints` are by item.

        `max_tokens` is the longest completion that `model.complete` gives. `sandbox` is the profile as the run recorded it; raises
        Misconfigured if this host cannot give it.
        """
        kind = provide(sandbox).kind
        prompts = {item.id: item.prompt for items in (public.train, public.dev, public.test) for item in items}
        missing = [item for item in requested.items if item not in prompts]
        if missing:
            return failures(request_id, requested, "unloadable", f"item {missing[0]} is not in the task's data on this host")
        shard = Shard(run, request_id, requested, model, recorded, record, hints or {}, max_tokens)
        items = [Item(item, prompts[item]) for item in requested.items]
        calls: Calls = {}
        uses: Uses = defaultdict(list)
        try:
            files = self.blobs.get_tree(requested.scaffold)
            entry = program.entry_of(files)
            process = None if entry else self._process(requested, public, speaks_http(files), kind)
        except ScaffoldStopped as stopped:
            return failures(request_id, requested, stopped.kind, str(stopped))
        except UserError as wrong:
            return failures(request_id, requested, "unloadable", str(wrong))

        def answer_calls(asks: list[Ask]) -> list[tuple[str, ...] | Refused]:
            return self._call(shard, asks, calls)

        over_bridge = functools.partial(self._over_bridge, shard, calls, uses)
        try:
            if process is None:
                outcomes = self._run_program(shard, public, files, entry or "", items, over_bridge, kind)
            elif isinstance(process, BridgedScaffold):
                outcomes = process.solve([(item.id, item.prompt) for item in items], requested.attempts, answer_calls, over_bridge)
            else:
                outcomes = process.solve([(item.id, item.prompt) for item in items], requested.attempts, answer_calls)
        except BaseException as wrong:
            if process is not None:
                process.close()
            if isinstance(wrong, (Unavailable, TryAgain)) or not isinstance(wrong, (UserError, SecretFound)):
                raise
            return failures(request_id, requested, "refused", str(wrong))
        return self._without_secrets([_fact(request_id, requested, outcome, calls, uses) for outcome in outcomes])

    def close(self) -> None:
        """Stop all scaffold processes."""
        while self._processes:
            self._processes.popitem()[1].close()

    def _without_secrets(self, facts: Sequence[TrajectoryRecorded | RolloutFailed]) -> list[Fact]:
        facts = [_within(fact) for fact in facts]
        payloads = [msgspec.json.encode(fact) for fact in facts]
        if self._clean(b"\n".join(payloads)):  # all at once, which is quicker
            return list(facts)
        return [
            fact if self._clean(payload) else _instead(fact, "refused", "what the scaffold said held a known secret")
            for fact, payload in zip(facts, payloads, strict=True)
        ]

    def _clean(self, payload: bytes) -> bool:
        try:
            self.scanner.check(payload)
        except SecretFound:
            return False
        return True

    def _run_program(
        self,
        shard: Shard,
        public: Public,
        files: Mapping[str, bytes],
        entry: str,
        items: Sequence[Item],
        over_bridge: Callable[[str, int, BridgeCall], BridgeAnswer],
        kind: Kind,
    ) -> list[Outcome]:
        """Every attempt is a run of the program over all items; a call counts for the item whose prompt it holds."""
        requested = shard.requested
        fold = requested.fold if requested.fold >= 0 else None
        data = Data(public.labels, [(example.prompt, example.label) for example in visible_train(public, fold)])
        found: list[Outcome] = []
        for attempt in range(requested.attempts):
            token = secrets.token_urlsafe(24)
            with tempfile.TemporaryDirectory(prefix="evolog-") as named:
                folder = Path(named)
                (folder / "scratch").mkdir()
                source = program.write_code(folder / "code", files)
                program.lay_out(folder / "data", data, items, public.name)

                def answer(call: BridgeCall, attempt: int = attempt) -> BridgeAnswer:
                    return over_bridge(program.owner(call.prompts[0], items), attempt, call)

                began = time.monotonic()
                budget = attempt_budget(self.limits, self.limits.cpu_seconds)
                with Bridge(folder / "bridge.sock", answer, token=token, models=MODELS, budget=budget) as bridge:
                    launch = program.launcher(kind, folder / "scratch", bridge.path, self.limits.cpu_seconds, self.limits)
                    env = program.environment(source, token, MODELS[0])
                    ended = program.run(launch, folder / "code", entry, folder / "data", env)
                if bridge.trouble is not None:
                    raise bridge.trouble
                found += program.outcomes(items, ended, attempt, time.monotonic() - began)
        order = {item.id: place for place, item in enumerate(items)}
        return sorted(found, key=lambda outcome: (order[outcome.item], outcome.attempt))

    def _process(self, requested: RolloutsRequested, public: Public, http: bool, kind: Kind) -> ScaffoldProcess | BridgedScaffold:
        fold = requested.fold if requested.fold >= 0 else None
        seen = [public.digests["train"], str(fold), *public.labels]  # an audit offers the labels in another order
        digest = hashlib.sha256("\0".join(seen).encode()).hexdigest()
        key = (requested.scaffold, digest, kind)
        process = self._processes.pop(key, None)
        if process is None or not process.alive:
            if process is not None:
                process.close()
            while len(self._processes) >= PROCESSES:
                self._processes.popitem(last=False)[1].close()
            folder = self.blobs.unpack(requested.scaffold, self.work / "scaffolds" / requested.scaffold)
            data = Data(public.labels, [(example.prompt, example.label) for example in visible_train(public, fold)])
            scratch = self.work / "scratch" / f"{requested.scaffold[:16]}-{digest[:16]}"
            started = BridgedScaffold if http else ScaffoldProcess
            process = started(folder, data, scratch, self.limits, kind)
        self._processes[key] = process
        return process

    def _call(self, shard: Shard, asks: list[Ask], calls: Calls) -> list[tuple[str, ...] | Refused]:
        requested = shard.requested
        asked = {
            (ask.item, ask.ordinal): SampleRequest(
                prompt=ask.prompt,
                hint=shard.hints.get(ask.item, ""),
                choices=ask.choices,
                bias=ask.bias,
                n=requested.attempts,
                temperature=requested.temperature,
                seed=derive_seed(requested.seed, ask.item, ask.ordinal),
                max_tokens=shard.max_tokens,
            )
            for ask in asks
        }
        with self._calling:
            found = self._answers(shard, asked, calls, self._sample)
        return [of if isinstance(of := found[ask.item, ask.ordinal], Refused) else of.texts for ask in asks]

    def _over_bridge(self, shard: Shard, calls: Calls, uses: Uses, item: str, attempt: int, call: BridgeCall) -> BridgeAnswer:
        """The completions or vectors of a call over a bridge. Its ordinal follows from what is asked and how often, not from when."""
        requested = shard.requested
        places = [(item, bridge_ordinal(attempt, call, place)) for place, _ in enumerate(call.prompts)]
        if call.kind == "embedding":
            read = sum(len(text.encode()) for text in call.prompts)
            asked = {places[0]: SampleRequest(prompt=call.body.decode(), n=0, temperature=0.0)}
            shard = shard._replace(model=EMBEDDINGS)
            with self._calling:
                self._recorded_or_refused(shard, asked, calls, lambda model, requests: [Sampled((), (), (), read)])
            vectors = tuple(hashed_ngrams(text, call.dimensions) for text in call.prompts)
            return BridgeAnswer(vectors=vectors, prompt_tokens=read)
        asked = {
            place: SampleRequest(
                prompt=prompt,
                hint=shard.hints.get(item, ""),
                choices=call.choices,
                bias=call.bias,
                n=call.n,
                temperature=requested.temperature,
                seed=derive_seed(requested.seed, *place),
                max_tokens=call.max_tokens,
            )
            for place, prompt in zip(places, call.prompts, strict=True)
        }
        with self._calling:
            uses[item, attempt] += [(ordinal, completion) for _, ordinal in places for completion in range(call.n)]
            found = self._recorded_or_refused(shard, asked, calls, self._sample)
        return BridgeAnswer(samples=tuple(Sampled(of.texts, of.tokens, of.logprobs, of.prompt_tokens) for of in found))

    def _recorded_or_refused(self, shard: Shard, asked: Asked, calls: Calls, sample: Sample) -> list[ModelCalled]:
        """The recorded calls; raises UsageError where one is refused, after which the attempt has failed, whatever its answer."""
        try:
            found = self._answers(shard, asked, calls, sample)
        except SecretFound as secret:
            calls.update(dict.fromkeys(asked, Refused("refused", str(secret))))
            raise UsageError("What was asked holds a known secret.") from secret
        for of in found.values():
            if isinstance(of, Refused):
                raise UsageError(of.reason)
        return [of for of in found.values() if isinstance(of, ModelCalled)]

    def _answers(self, shard: Shard, asked: Asked, calls: Calls, sample: Sample) -> dict[tuple[str, int], ModelCalled | Refused]:
        """Each call as it is recorded: found on the log, or sampled now and appended before this returns."""
        ids = {place: codec.event_id(shard.run, ModelCalled, shard.id, *place) for place in asked}
        known = dict(shard.recorded(list(ids.values())))
        requests = self._requests(known)
        refused = {place: Refused("nonsense", ELSE) for place, id in ids.items() if id in known and requests[id] != asked[place]}
        fresh = [place for place, id in ids.items() if id not in known]
        if fresh:
            began = time.perf_counter()
            sampled = dict(zip(fresh, sample(shard.model, [asked[place] for place in fresh]), strict=True))
            seconds = (time.perf_counter() - began) / len(fresh)
            refused |= {place: one for place, one in sampled.items() if isinstance(one, Refused)}
            answered = {place: one for place, one in sampled.items() if isinstance(one, Sampled)}
            if answered:
                encoded = msgspec.json.encode([asked[place] for place in answered])
                self.scanner.check(encoded)
                body = self.blobs.put(encoded)
                facts = {
                    ids[place]: ModelCalled(
                        request=shard.id,
                        item=place[0],
                        ordinal=place[1],
                        provider="embedded",
                        model=shard.model,
                        adapter=shard.requested.adapter,
                        body=body,
                        index=index,
                        sampling_seed=asked[place].seed,
                        temperature=asked[place].temperature,
                        texts=one.texts,
                        tokens=one.tokens,
                        logprobs=one.logprobs,
                        prompt_tokens=one.prompt_tokens,
                        completion_tokens=sum(map(len, one.tokens)),
                        micro_usd=0,
                        seconds=seconds,
                    )
                    for index, (place, one) in enumerate(answered.items())
                }
                for place in answered:
                    if (size := len(msgspec.json.encode(facts[ids[place]]))) > EVENT_LIMIT:
                        del facts[ids[place]]
                        refused[place] = Refused(
                            "flooded", f"a call's completions are {size:,} bytes, at most {EVENT_LIMIT:,}: ask for less"
                        )
                if facts and shard.record(list(facts.values())):
                    return self._answers(shard, asked, calls, sample)  # another executor was first, and may have been told otherwise
                known |= facts
        calls.update({place: refused.get(place, id) for place, id in ids.items()})
        return {place: refused.get(place) or known[id] for place, id in ids.items()}

    def _requests(self, calls: Mapping[str, ModelCalled]) -> dict[str, SampleRequest]:
        """What was asked for in recorded calls."""
        bodies = {body: msgspec.json.decode(self.blobs.get(body), type=list[SampleRequest]) for body in {of.body for of in calls.values()}}
        return {id: bodies[call.body][call.index] for id, call in calls.items()}

    def _sample(self, model: str, requests: list[SampleRequest]) -> list[Sampled | Refused]:
        """The completions of each request. A policy refuses all that it is asked at once, so then each is asked for by itself."""
        try:
            return list(self.policy.sample(model, requests))
        except (TryAgain, Unavailable):
            raise
        except UserError as wrong:
            if len(requests) == 1:
                return [Refused("refused", str(wrong)[:REASON_LIMIT])]
        return [one for request in requests for one in self._sample(model, [request])]


def bridge_ordinal(attempt: int, call: BridgeCall, place: int) -> int:
    """The ordinal of a call over a bridge, for the prompt at a place in it: 48 bits, beyond those that count the other calls."""
    return (1 << 48) + int(derive(attempt, call.key, call.occurrence, place)[:12], 16)


def _fact(request_id: str, requested: RolloutsRequested, outcome: Outcome, calls: Calls, uses: Uses) -> TrajectoryRecorded | RolloutFailed:
    pairs = [*outcome.uses, *uses.get((outcome.item, outcome.attempt), ())]
    used = [(calls.get((outcome.item, ordinal)), completion) for ordinal, completion in pairs]
    refused = next((call for call, _ in used if isinstance(call, Refused)), None)
    kind, reason = (refused.kind, refused.reason) if refused else (outcome.kind, outcome.reason)
    if kind:
        return RolloutFailed(
            request=request_id,
            item=outcome.item,
            attempt=outcome.attempt,
            purpose=requested.purpose,
            kind=kind,
            reason=reason,
        )
    return TrajectoryRecorded(
        request=request_id,
        item=outcome.item,
        attempt=outcome.attempt,
        purpose=requested.purpose,
        split=requested.split,
        generation=requested.generation,
        scaffold=requested.scaffold,
        adapter=requested.adapter,
        answer=outcome.answer,
        calls=tuple(CallUse(call, completion) for call, completion in used if isinstance(call, str)),
        seconds=outcome.seconds,
    )


def _within(fact: TrajectoryRecorded | RolloutFailed) -> TrajectoryRecorded | RolloutFailed:
    """The fact, or where an event cannot hold it, the failure that it is."""
    if isinstance(fact, RolloutFailed) or len(fact.calls) * CALL_USE < EVENT_LIMIT:
        return fact
    return _instead(fact, "flooded", f"an attempt that used {len(fact.calls):,} completions, more than an event can hold")


def _instead(fact: TrajectoryRecorded | RolloutFailed, kind: RolloutFailure, reason: str) -> RolloutFailed:
    """The failure of the attempt that a fact is about."""
    return RolloutFailed(request=fact.request, item=fact.item, attempt=fact.attempt, purpose=fact.purpose, kind=kind, reason=reason)


def failures(request_id: str, requested: RolloutsRequested, kind: RolloutFailure, reason: str) -> list[Fact]:
    """The failure of every attempt of a shard, for one reason."""
    return [
        RolloutFailed(request=request_id, item=item, attempt=attempt, purpose=requested.purpose, kind=kind, reason=reason)
        for item in requested.items
        for attempt in range(requested.attempts)
    ]
