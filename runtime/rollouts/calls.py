"""A scaffold's calls of the model: each is found in the log or sampled from the policy, and recorded before its answer
is released.

An executor that died in mid-call is followed by one that finds what was recorded, and so does a fork that asks again
for what its past had begun. Nothing recorded is sampled again, whatever the policy would say now. A call that is
refused is not recorded: its attempts fail, and the next try of the shard makes it again.
"""

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from events import codec
from events.errors import UsageError, UserError, raise_if_hosts
from events.fact import derive, derive_seed
from events.rollouts import CallUse, ModelCalled
from events.secret import Scanner
from runtime.blobs.directory import Blobs
from runtime.log.port import EVENT_LIMIT
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.attempt import request_reader
from runtime.rollouts.host import AttemptOutcome, RefusedCall, ScaffoldCall
from runtime.rollouts.openai.dialect import BridgeAnswer, BridgeCall, hashed_ngrams
from runtime.rollouts.shard import AttemptResult, RolloutKey, RolloutShard

logger = logging.getLogger("evolog")

NOT_DETERMINISTIC = "the scaffold asked something else than is recorded; it is not deterministic"
REASON_LIMIT = 500
"""Characters of what a policy says about a call that it refuses; it may quote the call."""
EMBEDDINGS = "hashed-character-ngrams"
"""The model of a recorded call for embeddings."""
CHANCE = 1e-9
"""The probability below which equal completions are not put down to chance."""
LARGEST_VOCABULARY = 1 << 18
"""More tokens than any model's vocabulary holds."""


class CompletionSource(Protocol):
    """Whatever gives completions by model name, such as the client of a policy server."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request; raises `UserError` for what is refused, `TryAgain` or `Unavailable` where
        nobody answers, `NotHere` where the model is not to be had.
        """


class CallLog(NamedTuple):
    """How the recorded calls of a shard are found by their event ids, and how new ones are appended.

    `record` returns when the calls are stored. It says whether some of them stood there already, which then count in
    place of these.
    """

    find: Callable[[Sequence[str]], Mapping[str, ModelCalled]]
    record: Callable[[Sequence[ModelCalled]], bool | None]


class CallKey(NamedTuple):
    """One call for an item. `ordinal` is its place among the different calls for that item, or a `bridge_ordinal`."""

    item: str
    ordinal: int


SampleCalls = Callable[[str, Mapping[CallKey, SampleRequest]], Sequence[Sampled | RefusedCall]]
"""The completions of each request by the named model, or why there are none."""


class CallRecorder:
    """Answers calls from the log, or samples and records them.

    Its `lock` is held meanwhile: a policy's client is for one thread.
    """

    def __init__(self, policy: CompletionSource, blobs: Blobs, scanner: Scanner) -> None:
        self.policy, self.blobs, self.scanner = policy, blobs, scanner
        self.lock = threading.Lock()
        self._shard, self._completions = "", defaultdict[bytes, dict[int, tuple[tuple[int, ...], ...]]](dict)
        """The completions so far of the shard that is under way, by what they are completions of and by seed."""
        self._said = False
        """Whether that shard's repeated completions were logged."""

    def record(
        self,
        shard: RolloutShard,
        model: str,
        log: CallLog,
        requests: Mapping[CallKey, SampleRequest],
        sample: SampleCalls,
    ) -> dict[CallKey, ModelCalled | RefusedCall]:
        """Each call as it is recorded: found on the log, or sampled now and appended before this returns. For a fork, a
        call of its past counts if it asked the same model the same.

        One whose request or completions hold a known secret is refused.
        """
        ids = {key: codec.event_id(shard.run, ModelCalled, shard.id, *key) for key in requests}
        recorded = dict(log.find(list(ids.values())))
        read_request = request_reader(self.blobs)
        refused = {
            key: RefusedCall("nonsense", NOT_DETERMINISTIC)
            for key, id in ids.items()
            if id in recorded and read_request(recorded[id]) != requests[key]
        }
        unrecorded = {key: requests[key] for key, id in ids.items() if id not in recorded}
        recorded |= {ids[key]: call for key, call in self._past_calls(shard, model, log, unrecorded).items()}
        missing = {key: requests[key] for key, id in ids.items() if id not in recorded}
        refused |= (with_secrets := self._with_secrets(missing))
        missing = {key: request for key, request in missing.items() if key not in with_secrets}
        if missing:
            began = time.perf_counter()
            answers = dict(zip(missing, sample(model, missing), strict=True))
            seconds = (time.perf_counter() - began) / len(missing)
            answers |= self._with_secrets(answers)
            refused |= {key: answer for key, answer in answers.items() if isinstance(answer, RefusedCall)}
            sampled = {key: answer for key, answer in answers.items() if isinstance(answer, Sampled)}
            calls = self._calls(shard, model, requests, sampled, seconds)
            for key in sampled:
                if (size := len(msgspec.json.encode(calls[key]))) > EVENT_LIMIT:
                    del calls[key]
                    refused[key] = RefusedCall(
                        "flooded", f"a call's completions are {size:,} bytes, at most {EVENT_LIMIT:,}: ask for less"
                    )
            if calls and log.record(list(calls.values())):
                return self.record(
                    shard, model, log, requests, sample
                )  # another executor was first, and may have other completions
            recorded |= {ids[key]: call for key, call in calls.items()}
            self._say_repeated(model, list(calls.values()))
        return {key: refused.get(key) or recorded[id] for key, id in ids.items()}

    def _past_calls(
        self, shard: RolloutShard, model: str, log: CallLog, requests: Mapping[CallKey, SampleRequest]
    ) -> dict[CallKey, ModelCalled]:
        """What a fork's past recorded of calls that asked this model this very thing."""
        keys = {
            codec.event_id(run, ModelCalled, request, *key): key
            for request, run in shard.past_requests.items()
            for key in requests
        }
        read_request = request_reader(self.blobs)
        return {
            keys[id]: call
            for id, call in (log.find(list(keys)) if keys else {}).items()
            if call.model == model and read_request(call) == requests[keys[id]]
        }

    def sample(self, model: str, requests: Mapping[CallKey, SampleRequest]) -> list[Sampled | RefusedCall]:
        """The policy's completions of each request.

        It refuses a list as a whole, so that each is then asked for by itself.
        """
        try:
            return list(self.policy.sample(model, list(requests.values())))
        except UserError as wrong:
            raise_if_hosts(wrong)
            if len(requests) == 1:
                return [RefusedCall("refused", str(wrong)[:REASON_LIMIT])]
        return [answer for key, request in requests.items() for answer in self.sample(model, {key: request})]

    def _with_secrets(
        self, calls: Mapping[CallKey, SampleRequest | Sampled | RefusedCall]
    ) -> dict[CallKey, RefusedCall]:
        """The refusals of the calls of which this part holds a known secret."""
        parts = {key: msgspec.json.encode(part) for key, part in calls.items()}
        if not self.scanner.finds(b"\n".join(parts.values())):  # all at once, which is quicker
            return {}
        found = [key for key, part in parts.items() if self.scanner.finds(part)]
        return dict.fromkeys(found, RefusedCall("refused", "what was asked or answered holds a known secret"))

    def _calls(
        self,
        shard: RolloutShard,
        model: str,
        requests: Mapping[CallKey, SampleRequest],
        sampled: Mapping[CallKey, Sampled],
        seconds: float,
    ) -> dict[CallKey, ModelCalled]:
        """What is to be recorded of sampled calls; their requests are written into one blob, in order."""
        if not sampled:
            return {}
        body = self.blobs.put(msgspec.json.encode([requests[key] for key in sampled]))
        if self._shard != shard.id:
            self._shard, self._completions, self._said = shard.id, defaultdict(dict), False
        return {
            key: ModelCalled(
                request=shard.id,
                item=key.item,
                ordinal=key.ordinal,
                provider="embedded",
                model=model,
                adapter=shard.adapter,
                body=body,
                index=index,
                sampling_seed=requests[key].seed,
                temperature=requests[key].temperature,
                texts=completions.texts,
                tokens=completions.tokens,
                logprobs=completions.logprobs,
                prompt_tokens=completions.prompt_tokens,
                completion_tokens=sum(map(len, completions.tokens)),
                micro_usd=0,
                seconds=seconds,
                sampling=requests[key].narrowing,
                cut=completions.cut,
                repeated=self._repeated(model, requests[key], completions),
            )
            for index, (key, completions) in enumerate(sampled.items())
        }

    def _repeated(self, model: str, request: SampleRequest, sampled: Sampled) -> int:
        """How many completions are another's of the same shard and prompt, against all chance; those of other seeds
        count, since the same seed gives the same.
        """
        if not request.temperature or request.narrowing:  # how likely an answer is there is not recorded
            return 0
        asked = msgspec.json.encode([model, msgspec.structs.replace(request, seed=0, n=0)])
        by_seed = self._completions[asked]
        by_seed[request.seed] = sampled.tokens
        before = [tokens for seed, each in by_seed.items() if seed != request.seed for tokens in each]
        return repeated(sampled, before, request.temperature)

    def _say_repeated(self, model: str, calls: Sequence[ModelCalled]) -> None:
        """Log, once for a shard, that the policy gives the same again and again; the run goes on."""
        count = sum(call.repeated for call in calls)
        if count and not self._said:
            self._said = True
            logger.warning(
                "The policy %.12s gave %d completions again, token by token, for other seeds: chance would not. See "
                "that its server draws each completion by a seed of its own, and keeps no cache of them.",
                model,
                count,
            )


def repeated(sampled: Sampled, before: Sequence[tuple[int, ...]], temperature: float) -> int:
    """How many of these completions say token by token what an earlier one said, of this call or `before`, where less
    than `CHANCE` would have it so.

    Of N completions drawn apart, m are equal to one of probability p with a chance of at most C(N - 1, m - 1) p^(m-1).
    The temperature is above 0, and p the most that it can be at that temperature.
    """
    counts, fresh = Counter(before), Counter(sampled.tokens)
    counts.update(fresh)
    others, total = sum(counts.values()) - 1, 0
    logp = {
        tokens: sum(most_likely(each, temperature) for each in logprobs)
        for tokens, logprobs in zip(sampled.tokens, sampled.logprobs, strict=True)
    }
    for tokens, count in fresh.items():
        equal = counts[tokens] - 1
        ways = math.lgamma(others + 1) - math.lgamma(equal + 1) - math.lgamma(others - equal + 1)
        if equal and ways + equal * logp[tokens] < math.log(CHANCE):
            total += count - (count == counts[tokens])  # the first of all is no repetition
    return total


def most_likely(logprob: float, temperature: float) -> float:
    """The most that a token's log-probability can be at a temperature, from the one at temperature 1, in nats.

    p^(1/T) / (p^(1/T) + sum p_j^(1/T)) is largest where the other tokens' sum is least: above temperature 1 where one
    token has all of 1 - p, and below where all of the vocabulary share it evenly.
    """
    if logprob >= 0:
        return 0.0
    spread = min(0.0, 1 - 1 / temperature) * math.log(LARGEST_VOCABULARY)
    odds = (math.log(-math.expm1(logprob)) - logprob) / temperature + spread
    return -max(odds, 0.0) - math.log1p(math.exp(-abs(odds)))


class ShardCalls:
    """The calls that one shard makes, from any thread, and what became of each.

    `tokens` are those that an attempt may read and write by `model.complete`; what it may spend over a bridge is the
    bridge's to know.
    """

    def __init__(self, shard: RolloutShard, log: CallLog, recorder: CallRecorder, tokens: int) -> None:
        self.shard = shard
        self._log, self._recorder = log, recorder
        self._limit, self._spent = tokens * shard.attempts, Counter[str]()
        """Tokens that all attempts at an item may take together, and have taken, since they share their calls."""
        self._results: dict[CallKey, str | RefusedCall] = {}
        """The id of the recorded call, or why there is none."""
        self._bridge_uses: dict[RolloutKey, list[tuple[int, int]]] = defaultdict(list)
        """The ordinal and the completion of each call over the bridge, in order."""

    def answer(self, calls: Sequence[ScaffoldCall]) -> list[tuple[str, ...] | RefusedCall]:
        """A text for each attempt, or the refusal, of each call by `model.complete`."""
        requests = {
            CallKey(call.item, call.ordinal): self._request(
                CallKey(call.item, call.ordinal),
                call.prompt,
                call.choices,
                call.bias,
                call.plain,
                self.shard.attempts,
                self.shard.max_tokens,
            )
            for call in calls
        }
        with self._recorder.lock:
            first = requests.keys() - self._results.keys()
            answers = self._record(self.shard.model, requests, self._sample_within_budget)
            for key in first:
                if isinstance(made := answers[key], ModelCalled):
                    self._spent[key.item] += made.prompt_tokens + made.completion_tokens
        results = [answers[CallKey(call.item, call.ordinal)] for call in calls]
        return [answer if isinstance(answer, RefusedCall) else answer.texts for answer in results]

    def _sample_within_budget(
        self, model: str, requests: Mapping[CallKey, SampleRequest]
    ) -> list[Sampled | RefusedCall]:
        """The completions of the calls that their items can pay, each at the most that it may read and write.

        What is recorded comes not here: it is released again, whatever else was asked meanwhile.
        """
        reserved = self._spent.copy()
        payable: dict[CallKey, SampleRequest] = {}
        for key, request in requests.items():
            most = len(request.prompt.encode()) + request.n * request.max_tokens
            if reserved[key.item] + most <= self._limit:
                reserved[key.item] += most
                payable[key] = request
        sampled = dict(zip(payable, self._recorder.sample(model, payable), strict=True)) if payable else {}
        spent = RefusedCall("flooded", f"the {self._limit:,} tokens of the item's attempts are spent")
        return [sampled.get(key, spent) for key in requests]

    def answer_bridge(self, item: str, attempt: int, call: BridgeCall) -> BridgeAnswer:
        """The completions or vectors of a call over a bridge; raises `UsageError` for a refused one, whose attempt has
        then failed.
        """
        keys = [CallKey(item, bridge_ordinal(attempt, call, index)) for index, _ in enumerate(call.prompts)]
        if call.kind == "embedding":
            bytes_read = sum(len(text.encode()) for text in call.prompts)
            request = SampleRequest(prompt=call.body.decode(), n=0, temperature=0.0)
            with self._recorder.lock:
                self._record_or_raise(
                    EMBEDDINGS, {keys[0]: request}, lambda model, requests: [Sampled((), (), (), bytes_read)]
                )
            vectors = tuple(hashed_ngrams(text, call.dimensions) for text in call.prompts)
            return BridgeAnswer(vectors=vectors, prompt_tokens=bytes_read)
        requests = {
            key: self._request(key, prompt, call.choices, call.bias, False, call.n, call.max_tokens)
            for key, prompt in zip(keys, call.prompts, strict=True)
        }
        with self._recorder.lock:
            self._bridge_uses[RolloutKey(item, attempt)] += [
                (key.ordinal, completion) for key in keys for completion in range(call.n)
            ]
            calls = self._record_or_raise(self.shard.model, requests, self._recorder.sample)
        return BridgeAnswer(
            samples=tuple(
                Sampled(
                    recorded_call.texts,
                    recorded_call.tokens,
                    recorded_call.logprobs,
                    recorded_call.prompt_tokens,
                    recorded_call.cut,
                )
                for recorded_call in calls
            )
        )

    def result(self, outcome: AttemptOutcome) -> AttemptResult:
        """What came of an attempt, with the calls that it used.

        One that used a refused call has failed, whatever it answered.
        """
        uses = [*outcome.uses, *self._bridge_uses.get(RolloutKey(outcome.item, outcome.attempt), ())]
        used = [(self._results.get(CallKey(outcome.item, ordinal)), completion) for ordinal, completion in uses]
        refused = next((call for call, _ in used if isinstance(call, RefusedCall)), None)
        if refused:
            return AttemptResult(outcome.item, outcome.attempt, kind=refused.kind, reason=refused.reason)
        if outcome.kind:
            return AttemptResult(outcome.item, outcome.attempt, kind=outcome.kind, reason=outcome.reason)
        recorded = tuple(CallUse(call, completion) for call, completion in used if isinstance(call, str))
        return AttemptResult(outcome.item, outcome.attempt, outcome.answer, recorded, outcome.seconds)

    def _request(
        self,
        key: CallKey,
        prompt: str,
        choices: tuple[str, ...],
        bias: tuple[float, ...],
        plain: bool,
        n: int,
        max_tokens: int,
    ) -> SampleRequest:
        return SampleRequest(
            prompt=prompt,
            hint=self.shard.hints.get(key.item, ""),
            choices=choices,
            bias=bias,
            n=n,
            temperature=self.shard.temperature,
            seed=derive_seed(self.shard.seed, *key),
            max_tokens=max_tokens,
            plain=plain,
        )

    def _record(
        self, model: str, requests: Mapping[CallKey, SampleRequest], sample: SampleCalls
    ) -> Mapping[CallKey, ModelCalled | RefusedCall]:
        answers = self._recorder.record(self.shard, model, self._log, requests, sample)
        runs = {**self.shard.past_requests, self.shard.id: self.shard.run}
        self._results |= {
            key: answer
            if isinstance(answer, RefusedCall)
            else codec.event_id(runs[answer.request], ModelCalled, *answer.key())
            for key, answer in answers.items()
        }
        return answers

    def _record_or_raise(
        self, model: str, requests: Mapping[CallKey, SampleRequest], sample: SampleCalls
    ) -> list[ModelCalled]:
        answers = self._record(model, requests, sample)
        for answer in answers.values():
            if isinstance(answer, RefusedCall):
                raise UsageError(answer.reason)
        return [answer for answer in answers.values() if isinstance(answer, ModelCalled)]


def bridge_ordinal(attempt: int, call: BridgeCall, index: int) -> int:
    """The ordinal of a call over a bridge, for the prompt at an index in it: 48 bits, beyond those that count the other
    calls.

    It follows from what is asked and how often, not from when: a scaffold's threads arrive in any order.
    """
    return (1 << 48) + int(derive(attempt, call.key, call.occurrence, index)[:12], 16)
