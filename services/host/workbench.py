"""Where an agent of a run tries something out: its scaffolds play in the sandbox with the run's policy, as an executor
plays them, and its verifier scores what they answer to train items.

Labels are those of train, which agents may read. A verifier that asks a judge model, judges whole submissions or needs
what this host lacks scores nothing here.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from events import codec
from events.errors import UserError, raise_if_hosts
from events.fact import derive
from events.judgement import TrajectoryScored
from events.rollouts import ModelCalled, TrajectoryRecorded
from runtime.agents.context import ShownAttempt
from runtime.agents.session import UnfitRequest
from runtime.agents.trials import Answers, TrialResult, Workbench
from runtime.effects.choose import AttemptReader
from runtime.effects.score import score
from runtime.effects.scoring import ScoringProcess
from runtime.policies.client import model_name
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import RecordedAttempt
from runtime.rollouts.calls import CallLog
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import AttemptResult, RolloutShard
from runtime.run.loading import LoadedRun
from services.host.capabilities import missing_capabilities
from services.host.context import Context
from services.host.runner import open_asking, open_policy, open_runner
from services.host.settings import scoring_limit


@contextlib.contextmanager
def open_workbench(
    context: Context, run: str, generation: int, loaded: LoadedRun, adapter: str, rollouts_left: int | None
) -> Iterator[Workbench]:
    """The workbench of one conversation; for one thread. What it starts ends with it."""
    trials = _Trials(context, run, generation, loaded, adapter)
    try:
        yield Workbench(
            trials.play,
            trials.ask,
            tuple(example.id for example in loaded.public.train),
            adapter,
            loaded.started.max_tokens,
            rollouts_left,
        )
    finally:
        trials.close()


class _Trials:
    """Plays and scores trials; starts what that takes with the first."""

    def __init__(self, context: Context, run: str, generation: int, loaded: LoadedRun, adapter: str) -> None:
        self._context, self._run, self._generation = context, run, generation
        self._loaded, self._adapter = loaded, adapter
        self._model = model_name(loaded.started.base_model, adapter)
        self._runner: RolloutRunner | None = None
        self._scorer: ScoringProcess | None = None

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        if self._scorer is not None:
            self._scorer.close()

    def ask(self, request: SampleRequest) -> Answers:
        """The policy's answers to one question."""
        began = time.monotonic()
        try:
            with contextlib.closing(open_asking(self._context)) as asking:
                (sampled,) = open_policy(self._context, asking).sample(self._model, [request])
        except UserError as wrong:
            raise_if_hosts(wrong)
            raise UnfitRequest(f"The policy refuses that: {wrong}") from wrong
        written = sum(map(len, sampled.tokens))
        seconds = time.monotonic() - began
        return Answers(sampled.texts, sampled.logprobs, sampled.prompt_tokens, written, seconds)

    def play(self, scaffold: str, items: Sequence[str], attempts: int, seed: int) -> TrialResult:
        """The attempts of a scaffold at train items, one fold after the other: its data lacks the fold that it is
        asked. One attempt at an item is made at temperature 0, as dev is; several are made at 1, as the probe is.
        """
        began = time.monotonic()
        if self._runner is None:
            self._runner = open_runner(self._context)
        folds: dict[int, list[str]] = defaultdict(list)
        by_id = {example.id: example for example in self._loaded.public.train}
        for item in items:
            folds[by_id[item].fold].append(item)
        calls: dict[str, ModelCalled] = {}
        shown: list[ShownAttempt] = []
        for fold, of_fold in sorted(folds.items()):
            shard = self._shard(scaffold, of_fold, attempts, fold, seed)

            def record(made: Sequence[ModelCalled], shard: RolloutShard = shard) -> None:
                calls.update({codec.event_id(shard.run, ModelCalled, *call.key()): call for call in made})

            results = self._runner.run(shard, self._loaded.public, CallLog(lambda ids: {}, record))
            shown += self._shown(shard, results, calls)
        read = sum(call.prompt_tokens for call in calls.values())
        written = sum(call.completion_tokens for call in calls.values())
        return TrialResult(shown, read, written, time.monotonic() - began)

    def _shard(self, scaffold: str, items: Sequence[str], attempts: int, fold: int, seed: int) -> RolloutShard:
        started = self._loaded.started
        return RolloutShard(
            run=self._run,
            id=derive("trial", self._run, self._generation, scaffold, seed, fold),
            scaffold=scaffold,
            adapter=self._adapter,
            model=self._model,
            items=tuple(items),
            attempts=attempts,
            fold=fold,
            temperature=0.0 if attempts == 1 else 1.0,
            seed=seed,
            draw=f"trial {seed}",
            max_tokens=started.max_tokens,
            sandbox=started.sandbox,
            shared_state=started.shared_state,
        )

    def _shown(
        self, shard: RolloutShard, results: Sequence[AttemptResult], calls: dict[str, ModelCalled]
    ) -> list[ShownAttempt]:
        """The attempts as an agent reads them, with their rewards where they can be had."""
        recorded = {
            f"{result.item}-{result.attempt}": TrajectoryRecorded(
                request=shard.id,
                item=result.item,
                attempt=result.attempt,
                purpose="probe",
                split="train",
                generation=self._generation,
                scaffold=shard.scaffold,
                adapter=shard.adapter,
                answer=result.answer,
                calls=result.uses,
                seconds=result.seconds,
            )
            for result in results
            if not result.kind
        }
        scores, why = self._scores(recorded)
        reader = AttemptReader(self._context.blobs, self._loaded)
        shown = []
        for result in results:
            id = f"{result.item}-{result.attempt}"
            if result.kind:
                shown.append(reader.unrun(id, result.item, result.attempt, result.kind, result.reason))
                continue
            scored = scores.get(id)
            attempt = RecordedAttempt(
                id,
                recorded[id],
                scored.reward if scored else None,
                scored.outcome if scored else "not scored",
                tuple(calls[use.call] for use in result.uses),
                scored.details if scored else why.get(id, ""),
            )
            shown.append(reader.ran(attempt))
        return shown

    def _scores(self, recorded: dict[str, TrajectoryRecorded]) -> tuple[dict[str, TrajectoryScored], dict[str, str]]:
        """The judgement of each attempt that can be judged here, and of the others why there is none."""
        task = self._loaded.task
        unscored = (
            "trials are not scored, since the verifier asks a judge model"
            if task.judge_model
            else "trials are not scored, since the verifier judges whole submissions"
            if task.submissions
            else "trials are not scored, since this host lacks what the verifier needs"
            if missing_capabilities(task.needs)
            else ""
        )
        if unscored or not recorded:
            return {}, dict.fromkeys(recorded, unscored)
        if self._scorer is None:
            self._scorer = ScoringProcess(scoring_limit())
        labels = {example.id: example.label for example in self._loaded.public.train if example.label is not None}
        facts = score(recorded, self._loaded, labels, self._scorer)
        return (
            {fact.trajectory: fact for fact in facts if isinstance(fact, TrajectoryScored)},
            {fact.trajectory: fact.reason for fact in facts if not isinstance(fact, TrajectoryScored)},
        )
