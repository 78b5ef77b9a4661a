"""Playing one shard: a scaffold's attempts at its items, with every model call recorded before its answer is released."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from events import codec
from events.errors import TryAgain, Unavailable, UserError
from events.fact import Fact, derive_seed
from events.play import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.secret import Scanner, SecretFound
from runtime.blobs import Blobs
from runtime.policies.interface import Sampled, SampleRequest
from runtime.sandbox.choose import provide
from runtime.sandbox.launch import Kind
from runtime.scaffold_host import Ask, Data, Limits, Outcome, Refused, ScaffoldProcess, ScaffoldStopped
from tasks.contract import Public, visible_train

PROCESSES = 6
"""Scaffold processes that an executor keeps: one for each train fold and one for all of train, so that each fits once."""

ELSE = "the scaffold asked something else than is recorded; it is not deterministic"
REASON_LIMIT = 500
"""Characters of what a policy says about a call that it refuses; it may quote the call."""

Recorded = Callable[[Sequence[str]], Mapping[str, ModelCalled]]
"""The calls of these ids that stand in the log already."""
Record = Callable[[Sequence[ModelCalled]], None]
"""Append calls, and return when they are stored."""
Calls = dict[tuple[str, int], str | Refused]
"""What became of the calls of a shard, by item and ordinal: the id of the recorded call, or why there is none."""


class Policy(Protocol):
    """Whatever gives completions by model name."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""


class Player:
    """Plays shards, and keeps the scaffold processes that it has started. For one thread."""

    def __init__(self, blobs: Blobs, work: Path, policy: Policy, scanner: Scanner, limits: Limits = Limits()) -> None:
        self.blobs, self.work, self.policy, self.scanner, self.limits = blobs, work, policy, scanner, limits
        self._processes: OrderedDict[tuple[str, str, Kind], ScaffoldProcess] = OrderedDict()

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
    ) -> list[Fact]:
        """A `TrajectoryRecorded` or `RolloutFailed` for each attempt; never raises for what a scaffold does. `hints` are by item.

        `sandbox` is the profile as the run recorded it; raises Misconfigured if this host cannot give it.
        """
        kind = provide(sandbox).kind
        prompts = {item.id: item.prompt for items in (public.train, public.dev, public.test) for item in items}
        missing = [item for item in requested.items if item not in prompts]
        if missing:
            return failures(request_id, requested, "unloadable", f"item {missing[0]} is not in the task's data on this host")
        try:
            process = self._process(requested, public, kind)
        except ScaffoldStopped as stopped:
            return failures(request_id, requested, stopped.kind, str(stopped))
        except UserError as wrong:
            return failures(request_id, requested, "unloadable", str(wrong))
        calls: Calls = {}

        def answer_calls(asks: list[Ask]) -> list[tuple[str, ...] | Refused]:
            return self._call(run, request_id, requested, model, asks, hints or {}, calls, recorded, record)

        try:
            outcomes = process.solve([(item, prompts[item]) for item in requested.items], requested.attempts, answer_calls)
        except (Unavailable, TryAgain):
            process.close()
            raise
        except (UserError, SecretFound) as wrong:
            process.close()
            return failures(request_id, requested, "refused", str(wrong))
        return self._without_secrets([_fact(request_id, requested, outcome, calls) for outcome in outcomes])

    def close(self) -> None:
        """Stop all scaffold processes."""
        while self._processes:
            self._processes.popitem()[1].close()

    def _without_secrets(self, facts: Sequence[TrajectoryRecorded | RolloutFailed]) -> list[Fact]:
        payloads = [msgspec.json.encode(fact) for fact in facts]
        if self._clean(b"\n".join(payloads)):  # all at once, which is quicker
            return list(facts)
        return [
            fact
            if self._clean(payload)
            else RolloutFailed(
                request=fact.request,
                item=fact.item,
                attempt=fact.attempt,
                purpose=fact.purpose,
                kind="refused",
                reason="what the scaffold said held a known secret",
            )
            for fact, payload in zip(facts, payloads, strict=True)
        ]

    def _clean(self, payload: bytes) -> bool:
        try:
            self.scanner.check(payload)
        except SecretFound:
            return False
        return True

    def _process(self, requested: RolloutsRequested, public: Public, kind: Kind) -> ScaffoldProcess:
        fold = requested.fold if requested.fold >= 0 else None
        digest = hashlib.sha256(f"{public.digests['train']} {fold}".encode()).hexdigest()
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
            process = ScaffoldProcess(folder, data, scratch, self.limits, kind)
        self._processes[key] = process
        return process

    def _call(
        self,
        run: str,
        request_id: str,
        requested: RolloutsRequested,
        model: str,
        asks: list[Ask],
        hints: Mapping[str, str],
        calls: Calls,
        recorded: Recorded,
        record: Record,
    ) -> list[tuple[str, ...] | Refused]:
        ids = [codec.event_id(run, ModelCalled, request_id, ask.item, ask.ordinal) for ask in asks]
        by_id = dict(zip(ids, asks, strict=True))
        asked = {
            id: SampleRequest(
                prompt=ask.prompt,
                hint=hints.get(ask.item, ""),
                choices=ask.choices,
                bias=ask.bias,
                n=requested.attempts,
                temperature=requested.temperature,
                seed=derive_seed(requested.seed, ask.item, ask.ordinal),
            )
            for id, ask in by_id.items()
        }
        known = dict(recorded(ids))
        refused = {id: Refused("nonsense", ELSE) for id, request in self._requests(known).items() if request != asked[id]}
        fresh = [id for id in asked if id not in known]
        if fresh:
            began = time.perf_counter()
            sampled = dict(zip(fresh, self._sample(model, [asked[id] for id in fresh]), strict=True))
            seconds = (time.perf_counter() - began) / len(fresh)
            refused |= {id: one for id, one in sampled.items() if isinstance(one, Refused)}
            answered = {id: one for id, one in sampled.items() if isinstance(one, Sampled)}
            if answered:
                encoded = msgspec.json.encode([asked[id] for id in answered])
                self.scanner.check(encoded)
                body = self.blobs.put(encoded)
                facts = {
                    id: ModelCalled(
                        request=request_id,
                        item=by_id[id].item,
                        ordinal=by_id[id].ordinal,
                        provider="embedded",
                        model=model,
                        adapter=requested.adapter,
                        body=body,
                        index=index,
                        sampling_seed=asked[id].seed,
                        temperature=requested.temperature,
                        texts=one.texts,
                        tokens=one.tokens,
                        logprobs=one.logprobs,
                        prompt_tokens=one.prompt_tokens,
                        completion_tokens=sum(map(len, one.tokens)),
                        micro_usd=0,
                        seconds=seconds,
                    )
                    for index, (id, one) in enumerate(answered.items())
                }
                record(list(facts.values()))
                known |= facts
        calls.update({(ask.item, ask.ordinal): refused.get(id, id) for id, ask in by_id.items()})
        return [refused.get(id) or known[id].texts for id in ids]

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


def _fact(request_id: str, requested: RolloutsRequested, outcome: Outcome, calls: Calls) -> TrajectoryRecorded | RolloutFailed:
    used = [(calls.get((outcome.item, ordinal)), completion) for ordinal, completion in outcome.uses]
    refused = next((call for call, _ in used if isinstance(call, Refused)), None)
    if outcome.kind or refused:
        return RolloutFailed(
            request=request_id,
            item=outcome.item,
            attempt=outcome.attempt,
            purpose=requested.purpose,
            kind=refused.kind if refused else outcome.kind,
            reason=refused.reason if refused else outcome.reason,
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


def failures(request_id: str, requested: RolloutsRequested, kind: str, reason: str) -> list[Fact]:
    """The failure of every attempt of a shard, for one reason."""
    return [
        RolloutFailed(request=request_id, item=item, attempt=attempt, purpose=requested.purpose, kind=kind, reason=reason)
        for item in requested.items
        for attempt in range(requested.attempts)
    ]
