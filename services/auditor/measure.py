"""Reads gold and measures a run by it: how each pair of a scaffold and an adapter does on test, as it is and perturbed.

A pair answers each item of test once, at temperature 0. Its answers are scored by the run's verifier, by the gold
verifier, and by the task's extra metrics. Of a perturbed test, the run's verifier alone scores the answers. References
to compare with are measured too.
"""

import asyncio
import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from events import codec
from events.choice import FeedbackRequested, ParentSelected
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound, hosts_own, raise_if_hosts
from events.fact import Fact, derive
from events.gold import (
    CANARY,
    CEILING,
    CHANGED,
    EXTRA,
    PERTURBED,
    REFERENCES,
    UNSCORED,
    VERIFIER,
    GoldFailed,
    GoldJudgeCalled,
    GoldModelCalled,
    PairMeasured,
    ReferenceMeasured,
)
from events.gold import GOLD as GOLD_MEASURE
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import ModelCalled
from events.run import RunStarted
from events.subjects import GOLD, subject
from replay.audit.ancestry import Moved, ancestors, evaluations, moved
from replay.audit.pair import PairKey
from runtime.blobs.directory import Blobs
from runtime.effects.scoring import AnswerScorer, Failed
from runtime.log.lookup import events_of_types, facts_by_id
from runtime.log.port import Log
from runtime.log.worker import now, retry_until_available
from runtime.policies.client import model_name
from runtime.rollouts.calls import CallLog
from runtime.rollouts.names import item_names
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import AttemptResult, RolloutShard
from runtime.run.fork import comparable_from
from runtime.run.loading import LoadedRun
from runtime.run.requests import shard_width
from runtime.run.state import draw_seed
from services.auditor.perturbed import PerturbedTest, packed
from services.auditor.shards import dev_sizes, disguised_shards
from services.host.context import Context
from services.host.judge_session import open_judge
from tasks.contract import EvaluationSet, Item, Public
from tasks.loading import Task

logger = logging.getLogger("evolog")

T = TypeVar("T")


AskJudgement = Callable[[str, int, str, int], str]
"""The judge model's answer: from what is judged (an item and the digest of its answer, or that of a whole submission),
the question's place in that judgement, the prompt, and the most tokens.
"""


class Score(NamedTuple):
    """One way to score answers."""

    function: Callable[..., Any]
    """From an item, an answer and a label (None: there is none) to a score. Where `whole` is set, from all items, their
    answers by id and their labels by id to the scores by id.
    """
    whole: bool = False


class AnswerSheet(NamedTuple):
    """Answers by item, without the attempts that failed, and the blob that holds them."""

    answers: dict[str, str | None]
    blob: str


class AttemptSheet(NamedTuple):
    """Several attempts at each item: the answers of each attempt by item, without what failed, and the blob that holds
    them.
    """

    attempts: Sequence[Mapping[str, str | None]]
    blob: str


class AuditHost:
    """What all audits of a process share: the logs, gold's blobs, runners, a scorer, and the turn of a task's own code.

    Runners work side by side, and of a task's own code one piece runs at a time. A thread cannot be stopped: work whose
    caller was cancelled has its runner, or holds up the task's code, until it ends.
    """

    def __init__(
        self, context: Context, gold: Log, blobs: Blobs, scorer: AnswerScorer, runners: Sequence[RolloutRunner]
    ) -> None:
        self.context, self.gold, self.blobs, self.scorer = context, gold, blobs, scorer
        self._task_code = asyncio.Lock()
        self._idle: asyncio.Queue[RolloutRunner] = asyncio.Queue()
        for runner in runners:
            self._idle.put_nowait(runner)

    async def with_runner(self, work: Callable[[RolloutRunner], T]) -> T:
        """The result of work in a thread, which begins as soon as a runner is idle."""
        runner = await self._idle.get()
        return await _in_thread(functools.partial(work, runner), lambda: self._idle.put_nowait(runner))

    async def with_task_code(self, work: Callable[[], T]) -> T:
        """The result of work in a thread that calls a task's own code, which begins once no other does."""
        await self._task_code.acquire()
        return await _in_thread(work, self._task_code.release)

    async def record(self, event: Event, facts: Sequence[Fact], log: Log | None = None) -> None:
        """Append the facts of which an event is the cause, where they are not recorded yet; on GOLD, or on
        another log.
        """
        await self.context.record(self.events_of(event, facts), log or self.gold)

    def events_of(self, cause: Event, facts: Sequence[Fact]) -> list[Event]:
        """The auditor's facts as events that this one is the cause of."""
        return [codec.event(fact, run=cause.run, source="auditor", cause=cause.id, time=now()) for fact in facts]


async def _in_thread(work: Callable[[], T], release: Callable[[], object]) -> T:
    """The result of work in a thread; `release` is called when it has ended, which may be after its caller was
    cancelled.
    """

    def ended(working: asyncio.Future[T]) -> None:
        if not working.cancelled():
            working.exception()  # or asyncio would complain of it where nobody waits
        release()

    working = asyncio.ensure_future(asyncio.to_thread(work))
    working.add_done_callback(ended)
    return await asyncio.shield(working)


class RunAudit:
    """The audit of one run for one event. A method that returns facts leaves it to the caller to record them."""

    def __init__(
        self,
        host: AuditHost,
        event: Event,
        loaded: LoadedRun,
        labels: Mapping[str, str],
        start: PairKey = PairKey("", ""),
    ) -> None:
        self.host, self.event, self.loaded, self.labels = host, event, loaded, labels
        self.run, self.start = event.run, start

    def ask_judge(self, measure: str) -> AskJudgement | None:
        """What asks the judge model about answers under a measure, for threads; None where the task has none.

        Raises `NotHere` where the model cannot be asked from here.
        """
        if not self.loaded.task.judge_model:
            return None
        judge = open_judge(
            self.host.context, self.event, self.loaded, "auditor", GoldJudgeCalled, self.host.gold, self.host.blobs
        )
        return lambda what, number, prompt, most: judge.ask(f"{measure} {what}", number, prompt, most)

    async def record(self, facts: Sequence[Fact]) -> None:
        """Append to GOLD what is not recorded yet."""
        await self.host.record(self.event, facts)

    async def record_each(self, works: Iterable[Coroutine[None, None, Sequence[Fact]]]) -> None:
        """Do all works side by side.

        The facts of each are recorded after those of the works before it: GOLD has one order.
        """
        tasks = [asyncio.create_task(work) for work in works]
        try:
            for task in tasks:
                await self.record(await task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def measure(self, pair: PairKey) -> Sequence[Fact]:
        """The scores of a pair on test, or why there are none; nothing where they are recorded already."""
        if await self.is_recorded(PairMeasured, *pair, VERIFIER):
            return []
        scores = {VERIFIER: reward_of(self.loaded.task), GOLD_MEASURE: gold_of(self.loaded.task)} | _extra_metrics(
            self.loaded
        )
        return await self._scored(pair, self._test, await self._answers(pair, self._test, VERIFIER), scores)

    async def measured(self, pair: PairKey) -> PairMeasured | None:
        """What the run's verifier says of a pair's answers to test, if it is recorded."""
        id = codec.event_id(self.run, PairMeasured, *pair, VERIFIER)
        return (await facts_by_id(self.host.gold, self.run, PairMeasured, [id])).get(id)

    async def references(self) -> Sequence[Fact]:
        """The scores on test of answers that need no skill (canaries), and the most to expect; nothing where they are
        recorded already.
        """
        if await events_of_types(self.host.gold, self.run, [ReferenceMeasured]):  # all of a run's are appended at once
            return []
        return await self.host.with_task_code(
            lambda: _references(self.loaded, self.labels, self.host.scorer, self.ask_judge)
        )

    async def perturb(self, pairs: Iterable[PairKey]) -> None:
        """Record what the run's verifier says of pairs' answers to perturbed tests; `PERTURBED_ITEMS` of each
        perturbation at most.
        """
        if not (distinct := dict.fromkeys(pairs)):
            return
        try:
            perturbations = await self.host.with_task_code(self.loaded.task.perturbations)
        except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
            raise_if_hosts(wrong)
            await self.record([GoldFailed(cell=f"{PERTURBED}all", split="test", reason=str(wrong))])
            return
        tests: list[PerturbedTest] = []
        for name, perturbation in perturbations.items():
            try:
                tests.append(await self._perturbed(name, (PERTURBED if perturbation.preserves else CHANGED) + name))
            except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
                raise_if_hosts(wrong)
                await self.record([GoldFailed(cell=f"{PERTURBED}{name}", split="test", reason=str(wrong))])
        counted = [test for test in tests if test.changes_nothing(self._test)]
        plays = packed([test for test in tests if test not in counted], self.loaded.started.seed)
        await self.record_each(
            [
                *(self._counted(pair, test) for pair in distinct for test in counted),
                *(self._perturbed_scores(pair, play) for pair in distinct for play in plays),
            ]
        )

    async def collect_answers(self, request: str, pair: PairKey, model: str, split: str, public: Public) -> AnswerSheet:
        """The answers of a pair to a split, one attempt each at temperature 0; `request` is what its calls are recorded
        as.

        They are played in shards that look like dev's, side by side.
        """
        started = self.loaded.started
        asked = [item.id for item in (public.dev if split == "dev" else public.test)]
        draw = f"{draw_seed(started)} {request} {split}"

        def shuffle(items: Sequence[str]) -> list[str]:
            return list(item_names(public.digests, f"{draw} shards", items))

        parts = disguised_shards(asked, started.items.dev, dev_sizes(started, staged=pair != self.start), shuffle)
        shards = [
            self._shard(f"{request}-{number}", pair, model, draw, items, attempts=1, temperature=0.0)
            for number, items in enumerate(parts)
        ]
        (given,) = await self._play(shards, public, attempts=1)
        answers = {item: given[item] for item in asked if item in given}
        return AnswerSheet(answers, await self._put({"answers": answers}))

    async def collect_attempts(self, request: str, pair: PairKey, model: str, attempts: int) -> AttemptSheet:
        """The answers of a pair to test, several attempts each at temperature 1.

        They are played in shards as large as the run's own, side by side.
        """
        started, test = self.loaded.started, [item.id for item in self.loaded.public.test]
        draw, size = f"{draw_seed(started)} {request} test", shard_width(started, attempts)
        shards = [
            self._shard(f"{request}-{first}", pair, model, draw, test[first : first + size], attempts, temperature=1.0)
            for first in range(0, len(test), size)
        ]
        answers = await self._play(shards, self.loaded.public, attempts)
        return AttemptSheet(answers, await self._put({"attempts": answers}))

    async def _play(self, shards: Sequence[RolloutShard], public: Public, attempts: int) -> list[dict[str, str | None]]:
        """The answers of each attempt by item, without what failed."""
        answers: list[dict[str, str | None]] = [{} for _ in range(attempts)]
        log = self._call_log()
        for results in await asyncio.gather(
            *(self.host.with_runner(functools.partial(_run, shard, public, log)) for shard in shards)
        ):
            for result in results:
                if not result.kind:
                    answers[result.attempt][result.item] = result.answer
        return answers

    def _call_log(self) -> CallLog:
        """Calls of the policy on GOLD, found and recorded in the way that an executor does it: a scaffold can time
        that.
        """
        context, gold = self.host.context, self.host.gold

        async def find(ids: Sequence[str]) -> dict[str, ModelCalled]:
            recorded = await retry_until_available(lambda: facts_by_id(gold, self.run, GoldModelCalled, ids))
            return {id: fact.call for id, fact in recorded.items()}

        def record(calls: Sequence[ModelCalled]) -> bool:
            facts = [
                GoldModelCalled(request=call.request, item=call.item, ordinal=call.ordinal, call=call) for call in calls
            ]
            return context.wait_for(context.record(self.host.events_of(self.event, facts), gold))

        return CallLog(lambda ids: context.wait_for(find(ids)), record)

    async def _put(self, sheet: Mapping[str, object]) -> str:
        payload = msgspec.json.encode(sheet, order="deterministic")
        return await asyncio.to_thread(self.host.blobs.put, payload)

    def _shard(
        self,
        request: str,
        pair: PairKey,
        model: str,
        draw: str,
        items: Sequence[str],
        attempts: int,
        temperature: float,
    ) -> RolloutShard:
        started = self.loaded.started
        return RolloutShard(
            run=self.run,
            id=request,
            scaffold=pair.scaffold,
            adapter=pair.adapter,
            model=model,
            items=tuple(items),
            attempts=attempts,
            temperature=temperature,
            seed=started.seed,
            draw=draw,
            max_tokens=started.max_tokens,
            sandbox=started.sandbox,
            shared_state=started.shared_state,
        )

    async def is_recorded(self, fact: type[Fact], *key: str | int) -> bool:
        """Whether a fact with this key stands on GOLD."""
        return bool(await self.host.gold.last([subject(GOLD, self.run, codec.event_id(self.run, fact, *key), "*")]))

    @property
    def _test(self) -> EvaluationSet:
        return EvaluationSet(self.loaded.public.labels, self.loaded.public.test)

    async def _perturbed(self, name: str, measure: str) -> PerturbedTest:
        task, seed = self.loaded.task, self.loaded.started.seed
        questions = await self.host.with_task_code(lambda: task.perturbed(name, self._test, self.labels, seed))
        return PerturbedTest(name, measure, questions)

    async def _counted(self, pair: PairKey, test: PerturbedTest) -> Sequence[Fact]:
        """The scores that a pair has on test already, of the items that a perturbation leaves; none without them."""
        plain = await self.measured(pair)
        if plain is None or await self.is_recorded(PairMeasured, *pair, test.measure):
            return []
        scores = {item.id: plain.scores[item.id] for item in test.questions.items if item.id in plain.scores}
        return [
            PairMeasured(
                scaffold=pair.scaffold,
                adapter=pair.adapter,
                measure=test.measure,
                scores=scores,
                failed=0,
                blob=plain.blob,
            )
        ]

    async def _perturbed_scores(self, pair: PairKey, tests: Sequence[PerturbedTest]) -> Sequence[Fact]:
        """The scores of a pair on perturbed tests that are asked together, or why there are none."""
        due = [test for test in tests if not await self.is_recorded(PairMeasured, *pair, test.measure)]
        if not due:
            return []
        together = EvaluationSet(
            tests[0].questions.labels, tuple(item for test in tests for item in test.questions.items)
        )
        try:
            sheet = await self._answers(pair, together, " ".join(test.measure for test in tests))
            return [fact for test in due for fact in await self._scored_part(pair, test, sheet)]
        except (Misconfigured, CheckFailed, NotFound) as wrong:  # the task's own code
            raise_if_hosts(wrong)
            return [GoldFailed(cell=f"{PERTURBED}{test.name}", split="test", reason=str(wrong)) for test in due]

    async def _scored_part(self, pair: PairKey, test: PerturbedTest, sheet: AnswerSheet) -> Sequence[Fact]:
        asked = [item.id for item in test.questions.items]
        answers = {item: sheet.answers[item] for item in asked if item in sheet.answers}
        scores = {test.measure: reward_of(self.loaded.task)}
        return await self._scored(pair, test.questions, sheet._replace(answers=answers), scores)

    async def _answers(self, pair: PairKey, questions: EvaluationSet, measure: str) -> AnswerSheet:
        public = msgspec.structs.replace(self.loaded.public, labels=questions.labels, test=questions.items)
        model = model_name(self.loaded.started.base_model, pair.adapter)
        return await self.collect_answers(f"audit-{derive(*pair, measure)}", pair, model, "test", public)

    async def _scored(
        self, pair: PairKey, questions: EvaluationSet, sheet: AnswerSheet, scores: Mapping[str, Score]
    ) -> Sequence[Fact]:
        return await self.host.with_task_code(
            lambda: score_pair(self.labels, pair, questions, sheet, scores, self.host.scorer, self.ask_judge)
        )


class AuditedLine(NamedTuple):
    """An accepted candidate with all that it was made from."""

    start: CandidateEvaluated
    candidates: Sequence[CandidateEvaluated]
    """Its ancestors and it, by generation."""
    due: Sequence[CandidateEvaluated]
    """Those to be measured with it: its ancestors that were only kept, and it."""


async def ancestry_of(context: Context, run: str, generation: int) -> AuditedLine | None:
    """What the candidate that was accepted in a generation was made from; None where its facts cannot be read.

    Of a fork whose scores cannot be compared with those before it, the candidates since then.
    """
    kinds: list[type[Fact]] = [RunStarted, CandidateAccepted, CandidateEvaluated, ParentSelected, FeedbackRequested]
    facts = [event.data for event in await events_of_types(context.log, run, kinds, await context.past(run))]
    facts = facts[comparable_from(facts) :]
    accepted = {fact.candidate for fact in facts if isinstance(fact, CandidateAccepted)}
    evaluated = [one for one in evaluations(facts) if one.generation <= generation]
    last = next((one for one in reversed(evaluated) if one.candidate in accepted), None)
    if last is None:
        return None
    ids = ancestors(evaluated, last.candidate)
    line = [one for one in evaluated if one.candidate in ids]
    start = next(one for one in evaluated if one.candidate in accepted)
    return AuditedLine(start, line, [one for one in line if one is last or one.candidate not in accepted])


def pairs_to_measure(ancestry: AuditedLine) -> list[PairKey]:
    """The pairs that are measured for an accepted candidate: the start's, its own, and those of its ancestors that were
    only kept.

    Where one of them comes from another lever than its parent, or from both, also its scaffold and its adapter with the
    other part from the start.
    """
    start, by_id = ancestry.start, {one.candidate: one for one in ancestry.candidates}
    pairs = [PairKey(start.scaffold, start.adapter)]
    for one in ancestry.due:
        pairs.append(PairKey(one.scaffold, one.adapter))
        parent = by_id.get(next(iter(one.parents), ""))
        lever = moved(one, by_id)
        switched = lever == "both" or (parent is not None and lever not in ("", _last_moved(parent, by_id)))
        if switched and one.scaffold != start.scaffold and one.adapter != start.adapter:
            pairs += [PairKey(one.scaffold, start.adapter), PairKey(start.scaffold, one.adapter)]
    return pairs


def _last_moved(candidate: CandidateEvaluated, by_id: Mapping[str, CandidateEvaluated]) -> Moved:
    """The lever that made a candidate, or, where nothing was changed, what it repeats."""
    lever = moved(candidate, by_id)
    parent = by_id.get(next(iter(candidate.parents), ""))
    return lever if lever or parent is None else _last_moved(parent, by_id)


def labels_of(loaded: LoadedRun) -> dict[str, str]:
    """The true labels of train, dev and test, by item id; raises `NotHere` where the data are not on this host."""
    try:
        return {**loaded.task.labels(loaded.started.seed), **loaded.task.gold(loaded.started.seed)}
    except NotFound:
        with hosts_own():
            raise


def read_answers(blobs: Blobs, blob: str) -> dict[str, str | None]:
    """The answers in the blob of an `AnswerSheet`."""
    answers: dict[str, str | None] = msgspec.json.decode(blobs.get(blob))["answers"]
    return answers


def score_pair(
    labels: Mapping[str, str],
    pair: PairKey,
    questions: EvaluationSet,
    sheet: AnswerSheet,
    scores: Mapping[str, Score],
    scorer: AnswerScorer,
    ask_judge: Callable[[str], AskJudgement | None] = lambda measure: None,
) -> list[Fact]:
    """For each way to score the pair's answers, by measure, a `PairMeasured`, a `GoldFailed`, or both.

    An attempt that failed is scored as no answer is: a verifier's lowest reward may be below 0. What cannot be scored
    has no score under that measure, which is a `GoldFailed`; so it is where more than half of the attempts failed, or
    of the answers cannot be scored.
    """
    asked, failed = len(questions.items), len(questions.items) - len(sheet.answers)
    if 2 * failed > asked or not asked:
        reason = f"{failed} of {asked} attempts of the audit failed"
        return [GoldFailed(cell=unscored_cell(pair, measure), split="test", reason=reason) for measure in scores]
    answers = {item.id: sheet.answers.get(item.id) for item in questions.items}
    facts: list[Fact] = []
    for measure, score in scores.items():
        results = score_answers(score, questions.items, answers, labels, scorer, ask_judge(measure))
        by_item: dict[str, tuple[float, ...]] = {
            id: (result,) for id, result in results.items() if not isinstance(result, Failed)
        }
        if 2 * len(by_item) >= asked:
            facts.append(
                PairMeasured(
                    scaffold=pair.scaffold,
                    adapter=pair.adapter,
                    measure=measure,
                    scores=by_item,
                    failed=failed,
                    blob=sheet.blob,
                )
            )
        if reason := why_unscored(list(results.values())):
            facts.append(GoldFailed(cell=unscored_cell(pair, measure), split="test", reason=reason))
    return facts


def unscored_cell(pair: PairKey, measure: str) -> str:
    """The cell of a `GoldFailed` for a pair's answers that a measure could not score."""
    return f"{UNSCORED}{measure} of {pair.scaffold[:12]}+{pair.adapter[:12]}"


def why_unscored(results: Sequence[float | Failed]) -> str:
    """How many answers could not be scored, and the most frequent reason; empty where all could."""
    reasons = Counter(result.reason for result in results if isinstance(result, Failed))
    if not reasons:
        return ""
    reason, _ = reasons.most_common(1)[0]
    return f"{reasons.total()} of {len(results)} answers could not be scored: {reason}"


def reward_of(task: Task) -> Score:
    """How the run's verifier scores: each answer, or a submission."""
    return Score(task.submission_rewards, whole=True) if task.submissions else Score(task.reward)


def gold_of(task: Task) -> Score:
    """How gold scores: each answer, or a submission."""
    return Score(task.gold_submission, whole=True) if task.gold_judges_submissions else Score(task.gold_score)


def score_answers(
    score: Score,
    items: Sequence[Item],
    answers: Mapping[str, str | None],
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    ask: AskJudgement | None = None,
) -> dict[str, float | Failed]:
    """The score of each answer by item id, or why it has none; `items` are all that were asked."""
    asked = [item.id for item in items if item.id in answers]
    judged = [_digest(answers)] if score.whole else [f"{item} {_digest(answers[item])}" for item in asked]

    def ask_about(call: int, number: int, prompt: str, most: int) -> str:
        assert ask is not None
        return ask(judged[call], number, prompt, most)

    judge = None if ask is None else ask_about
    if score.whole:
        (scored,) = scorer(score.function, [(list(items), answers, labels_among(labels, items))], judge)
        return dict.fromkeys(answers, scored) if isinstance(scored, Failed) else dict(scored)
    calls = [(item, answers[item.id], labels.get(item.id)) for item in items if item.id in answers]
    return dict(zip(asked, scorer(score.function, calls, judge), strict=True))


def _digest(answers: object) -> str:
    return hashlib.sha256(msgspec.json.encode(answers, order="deterministic")).hexdigest()[:16]


def labels_among(labels: Mapping[str, str], items: Sequence[Item]) -> dict[str, str]:
    """The labels of these items alone."""
    return {item.id: labels[item.id] for item in items if item.id in labels}


def _extra_metrics(loaded: LoadedRun) -> dict[str, Score]:
    try:
        return {EXTRA + name: Score(score) for name, score in loaded.task.extra_metrics().items()}
    except Misconfigured as wrong:
        logger.warning("no extra metric is measured: %s", wrong)
        return {}


def _references(
    loaded: LoadedRun,
    labels: Mapping[str, str],
    scorer: AnswerScorer,
    ask_judge: Callable[[str], AskJudgement | None],
) -> list[Fact]:
    items = [item.id for item in loaded.public.test]
    calls = [(item, labels.get(item.id)) for item in loaded.public.test]
    ask = ask_judge(CANARY)

    def ask_about(call: int, number: int, prompt: str, most: int) -> str:
        assert ask is not None
        return ask(items[call], number, prompt, most)

    canaries = scorer(loaded.task.canaries, calls, ask_about if ask else None)
    ceilings = scorer(loaded.task.ceiling, calls)
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for item, earned, most in zip(items, canaries, ceilings, strict=True):
        for result in (earned, most):
            if isinstance(result, Failed):
                return [GoldFailed(cell=REFERENCES, split="test", reason=result.reason)]
        assert not isinstance(earned, Failed) and not isinstance(most, Failed)
        for name, pair in earned.items():
            for measure, score in zip((VERIFIER, GOLD_MEASURE), pair, strict=True):
                scores.setdefault((CANARY + name, measure), {})[item] = score
        if most is not None:
            scores.setdefault((CEILING, VERIFIER), {})[item] = most
    return [
        ReferenceMeasured(name=name, measure=measure, scores=by_item) for (name, measure), by_item in scores.items()
    ]


def _run(shard: RolloutShard, public: Public, log: CallLog, runner: RolloutRunner) -> list[AttemptResult]:
    return runner.run(shard, public, log)
