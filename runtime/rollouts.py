"""Playing one shard: a scaffold's attempts at its items, with every model call recorded before its answer is released."""

import hashlib
import json
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
from runtime.scaffold_host import Ask, Limits, Outcome, ScaffoldProcess, ScaffoldStopped
from tasks.contract import Public, visible_train

PROCESSES = 6
"""Scaffold processes that an executor keeps: one for each train fold and one for all of train, so that each fits once."""

Recorded = Callable[[Sequence[str]], Mapping[str, ModelCalled]]
"""The calls of these ids that stand in the log already."""
Record = Callable[[Sequence[ModelCalled]], None]
"""Append calls, and return when they are stored."""


class Policy(Protocol):
    """Whatever gives completions by model name."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""


class Player:
    """Plays shards, and keeps the scaffold processes that it has started. For one thread."""

    def __init__(self, blobs: Blobs, work: Path, policy: Policy, scanner: Scanner, limits: Limits = Limits()) -> None:
        self.blobs, self.work, self.policy, self.scanner, self.limits = blobs, work, policy, scanner, limits
        self._processes: OrderedDict[tuple[str, str], ScaffoldProcess] = OrderedDict()

    def play(
        self, run: str, request_id: str, requested: RolloutsRequested, public: Public, model: str, recorded: Recorded, record: Record
    ) -> list[Fact]:
        """A `TrajectoryRecorded` or `RolloutFailed` for each attempt; never raises for what a scaffold does."""
        prompts = {item.id: item.prompt for items in (public.train, public.dev, public.test) for item in items}
        missing = [item for item in requested.items if item not in prompts]
        if missing:
            return failures(request_id, requested, "unloadable", f"item {missing[0]} is not in the task's data on this host")
        try:
            process = self._process(requested, public)
        except ScaffoldStopped as stopped:
            return failures(request_id, requested, stopped.kind, str(stopped))
        except UserError as wrong:
            return failures(request_id, requested, "unloadable", str(wrong))
        calls: dict[tuple[str, int], str] = {}

        def answer_calls(asks: list[Ask]) -> list[tuple[str, ...]]:
            return self._call(run, request_id, requested, model, asks, calls, recorded, record)

        try:
            outcomes = process.solve([(item, prompts[item]) for item in requested.items], requested.attempts, answer_calls)
        except (Unavailable, TryAgain):
            process.close()
            raise
        except (UserError, SecretFound) as wrong:
            process.close()
            return failures(request_id, requested, "refused", str(wrong))
        return [self._without_secrets(_fact(request_id, requested, outcome, calls)) for outcome in outcomes]

    def close(self) -> None:
        """Stop all scaffold processes."""
        while self._processes:
            self._processes.popitem()[1].close()

    def _without_secrets(self, fact: TrajectoryRecorded | RolloutFailed) -> TrajectoryRecorded | RolloutFailed:
        try:
            self.scanner.check(msgspec.json.encode(fact))
        except SecretFound:
            reason = "what the scaffold said held a known secret"
            return RolloutFailed(
                request=fact.request, item=fact.item, attempt=fact.attempt, purpose=fact.purpose, kind="refused", reason=reason
            )
        return fact

    def _process(self, requested: RolloutsRequested, public: Public) -> ScaffoldProcess:
        fold = requested.fold if requested.fold >= 0 else None
        data = self._data(public, fold)
        key = (requested.scaffold, data.name)
        process = self._processes.pop(key, None)
        if process is None or not process.alive:
            if process is not None:
                process.close()
            while len(self._processes) >= PROCESSES:
                self._processes.popitem(last=False)[1].close()
            folder = self.blobs.unpack(requested.scaffold, self.work / "scaffolds" / requested.scaffold)
            process = ScaffoldProcess(folder, data, self.work / "scratch" / f"{requested.scaffold[:16]}-{data.stem[:16]}", self.limits)
        self._processes[key] = process
        return process

    def _data(self, public: Public, fold: int | None) -> Path:
        """The file that a scaffold learns from: the labels' names, and train without the fold that its items are from."""
        digest = hashlib.sha256(f"{public.digests['train']} {fold}".encode()).hexdigest()
        path = self.work / "data" / f"{digest}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            train = [[example.prompt, example.label] for example in visible_train(public, fold)]
            temporary = path.with_suffix(".part")
            temporary.write_text(json.dumps({"labels": public.labels, "train": train}), encoding="utf-8")
            temporary.replace(path)
        return path

    def _call(
        self,
        run: str,
        request_id: str,
        requested: RolloutsRequested,
        model: str,
        asks: list[Ask],
        calls: dict[tuple[str, int], str],
        recorded: Recorded,
        record: Record,
    ) -> list[tuple[str, ...]]:
        ids = [codec.event_id(run, ModelCalled, request_id, ask.item, ask.ordinal) for ask in asks]
        calls.update({(ask.item, ask.ordinal): id for ask, id in zip(asks, ids, strict=True)})
        known = dict(recorded(ids))
        fresh = [(ask, id) for ask, id in zip(asks, ids, strict=True) if id not in known]
        if fresh:
            bodies = [
                SampleRequest(
                    prompt=ask.prompt,
                    choices=ask.choices,
                    bias=ask.bias,
                    n=requested.attempts,
                    temperature=requested.temperature,
                    seed=derive_seed(requested.seed, ask.item, ask.ordinal),
                )
                for ask, _ in fresh
            ]
            began = time.perf_counter()
            sampled = self.policy.sample(model, bodies)
            seconds = (time.perf_counter() - began) / len(fresh)
            encoded = msgspec.json.encode(bodies)
            self.scanner.check(encoded)
            body = self.blobs.put(encoded)
            facts = [
                ModelCalled(
                    request=request_id,
                    item=ask.item,
                    ordinal=ask.ordinal,
                    provider="embedded",
                    model=model,
                    adapter=requested.adapter,
                    body=body,
                    index=index,
                    sampling_seed=bodies[index].seed,
                    temperature=requested.temperature,
                    texts=one.texts,
                    tokens=one.tokens,
                    logprobs=one.logprobs,
                    prompt_tokens=len(ask.prompt),
                    completion_tokens=sum(map(len, one.tokens)),
                    micro_usd=0,
                    seconds=seconds,
                )
                for index, ((ask, _), one) in enumerate(zip(fresh, sampled, strict=True))
            ]
            record(facts)
            known |= {id: fact for (_, id), fact in zip(fresh, facts, strict=True)}
        return [known[id].texts for id in ids]


def _fact(
    request_id: str, requested: RolloutsRequested, outcome: Outcome, calls: Mapping[tuple[str, int], str]
) -> TrajectoryRecorded | RolloutFailed:
    if outcome.kind:
        return RolloutFailed(
            request=request_id,
            item=outcome.item,
            attempt=outcome.attempt,
            purpose=requested.purpose,
            kind=outcome.kind,
            reason=outcome.reason,
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
        calls=tuple(
            CallUse(calls[outcome.item, ordinal], completion) for ordinal, completion in outcome.uses if (outcome.item, ordinal) in calls
        ),
        seconds=outcome.seconds,
    )


def failures(request_id: str, requested: RolloutsRequested, kind: str, reason: str) -> list[Fact]:
    """The failure of every attempt of a shard, for one reason."""
    return [
        RolloutFailed(request=request_id, item=item, attempt=attempt, purpose=requested.purpose, kind=kind, reason=reason)
        for item in requested.items
        for attempt in range(requested.attempts)
    ]
