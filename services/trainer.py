"""Trains adapters from sealed batches of recorded rollouts. It knows no algorithm by name."""

import asyncio
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from algorithms.learning.batch import Diverged, Mismatch, NothingToLearn, Vote
from events.codec import Event
from events.errors import CheckFailed, TryAgain, Unavailable, UsageError, UserError
from events.fact import Fact, NotFinite
from events.judgement import LabelEstimated
from events.kinds import BackEnd, WeightUpdateFailure
from events.weights import AdapterPublished, OptimizerStepApplied, TrainingBatchSealed, WeightUpdateFailed
from runtime.blobs.directory import Blobs
from runtime.log.lookup import Attempted, attempts
from runtime.log.worker import answer, work
from runtime.policies.interface import SampleRequest
from runtime.policies.training import Sources, TrainingAttempt, TrainingCall, TrainingOrder, train
from runtime.run.decide import batch_digest
from runtime.run.loading import Loaded
from services.host.context import Context
from services.host.settings import accelerate_config, trainer_back_end
from tasks.contract import Example, visible_train

Played = Mapping[str, Sequence[Attempted]]
"""The attempts of each request."""


async def serve(context: Context) -> None:
    """Train on one batch after the other."""
    known: dict[str, list[Attempted]] = {}  # the rounds of the update under way, which later rounds train on again

    async def perform(events: list[Event]) -> Sequence[Event]:
        nonlocal known
        outputs: list[Event] = []
        for event in events:
            sealed = event.data
            assert isinstance(sealed, TrainingBatchSealed)
            past = await context.past(event.run)
            known = {request: known.get(request) or await attempts(context.log, event.run, request, past) for request in sealed.requests}
            started = await context.started(event.run)

            def load(run: str = event.run) -> Loaded:
                return context.wait_for(context.load(run))

            by = trainer_back_end(), accelerate_config()
            facts = await asyncio.to_thread(update, context.blobs, context.work, known, sealed, started.base_model, load, *by)
            outputs += [answer(fact, event, "trainer") for fact in facts]
        return outputs

    await work(context.log, perform, source="trainer", scanner=context.scanner)


def update(
    blobs: Blobs,
    work_folder: Path,
    played: Played,
    sealed: TrainingBatchSealed,
    base_model: str,
    load: Callable[[], Loaded],
    back_end: BackEnd = "native",
    accelerate: Path | None = None,
) -> list[Fact]:
    """One round of training: its steps and its adapter, or why there is none. The same batch gives the same adapter, to the byte.

    `load` gives the run's task, and is called only where the algorithm asks for labels or copies.
    """
    try:
        batch = sealed_attempts(blobs, played, sealed)
    except CheckFailed as wrong:
        return [_failed(sealed, "batch_differs", wrong)]
    work_folder.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=work_folder))
    try:
        order = TrainingOrder(
            base=blobs.unpack(base_model, work_folder / base_model),
            parent=sealed.parent_adapter,
            parent_folder=blobs.unpack(sealed.parent_adapter, work_folder / sealed.parent_adapter) if sealed.parent_adapter else None,
            state=_written(blobs, sealed.parent_state, room) if sealed.parent_state else None,
            algorithm=sealed.algorithm,
            hyper=sealed.hyper,
            seed=sealed.training_seed,
            back_end=back_end,
            accelerate=accelerate,
            about={"events": f"training_batch_sealed and adapter_published of generation {sealed.generation}, round {sealed.round}"},
        )
        done = train(order, batch, sources(load, sealed.training_seed), room / "adapter", room / "left")
        place = {"generation": sealed.generation, "round": sealed.round, "parent_adapter": sealed.parent_adapter, "batch": sealed.digest}
        steps: list[Fact] = [
            OptimizerStepApplied(**place, step=number, **msgspec.structs.asdict(step))  # type: ignore[arg-type]
            for number, step in enumerate(done.steps)
        ]
        published = AdapterPublished(
            **place,  # type: ignore[arg-type]
            adapter=blobs.put_folder(room / "adapter"),
            base_model=base_model,
            algorithm=sealed.algorithm,
            canary=done.canary,
            trained_on=done.trained_on,
            left_out=done.left_out,
            back_end=done.back_end,
            processes=done.processes,
            state=blobs.put((room / "left").read_bytes()),
        )
        return [*_elected(sealed, done.votes), *steps, published]
    except (Diverged, NotFinite) as wrong:
        return [_failed(sealed, "diverged", wrong)]
    except NothingToLearn as wrong:
        return [*_elected(sealed, wrong.votes), _failed(sealed, "nothing_to_learn", wrong)]
    except Mismatch as wrong:
        return [_failed(sealed, "logprobs_differ", wrong)]
    except UsageError as wrong:
        return [_failed(sealed, "refused", wrong)]
    except (TryAgain, Unavailable):
        raise  # no room or no broker for the moment: the batch is handed out again
    except UserError as wrong:
        return [_failed(sealed, "adapter_unusable", wrong)]
    except Exception as wrong:  # whatever it is, it would come again with the same batch
        return [_failed(sealed, "crashed", wrong)]
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sealed_attempts(blobs: Blobs, played: Played, sealed: TrainingBatchSealed) -> list[TrainingAttempt]:
    """The batch as recorded; raises `CheckFailed` unless it is the batch that was sealed."""
    scored = [(attempt, attempt.reward) for request in sealed.requests for attempt in played[request] if attempt.reward is not None]
    digest = batch_digest([(attempt.id, reward) for attempt, reward in scored])
    if digest != sealed.digest:
        raise CheckFailed(
            f"The recorded batch has digest {digest[:12]} over {len(scored)} trajectories, "
            f"sealed was {sealed.digest[:12]} over {sealed.trajectories}."
        )
    bodies: dict[str, list[SampleRequest]] = {}

    def asked(body: str, index: int) -> SampleRequest:
        if body not in bodies:
            bodies[body] = msgspec.json.decode(blobs.get(body), type=list[SampleRequest])
        return bodies[body][index]

    return [
        TrainingAttempt(
            id=attempt.id,
            group=f"{attempt.recorded.request} {attempt.recorded.item}",
            item=attempt.recorded.item,
            adapter=attempt.recorded.adapter,
            answer=attempt.recorded.answer,
            reward=reward,
            calls=tuple(
                TrainingCall(asked(call.body, call.index), call.tokens[use.completion], call.logprobs[use.completion])
                for use, call in zip(attempt.recorded.calls, attempt.calls, strict=True)
            ),
            hinted=attempt.recorded.purpose == "hint",
        )
        for attempt, reward in scored
    ]


def sources(load: Callable[[], Loaded], seed: int) -> Sources:
    """The true answers of train, and the task's own copies of items; the task is loaded when it is first asked for."""
    loaded = functools.cache(load)

    @functools.cache
    def train() -> dict[str, Example]:
        return {example.id: example for example in loaded().public.train}

    def label(item: str) -> str:
        return train()[item].label

    def copies(items: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        task, public = loaded().task, loaded().public
        return {item: task.copies(train()[item].prompt, visible_train(public, train()[item].fold), seed) for item in items}

    return Sources(label, copies)


def _elected(sealed: TrainingBatchSealed, votes: Sequence[Vote]) -> list[Fact]:
    return [
        LabelEstimated(
            generation=sealed.generation,
            round=sealed.round,
            batch=sealed.digest,
            request=vote.group.partition(" ")[0],
            item=vote.item,
            answer=vote.answer,
            votes=vote.votes,
            answers=vote.answers,
        )
        for vote in votes
    ]


def _written(blobs: Blobs, digest: str, room: Path) -> Path:
    path = room / "state"
    path.write_bytes(blobs.get(digest))
    return path


def _failed(sealed: TrainingBatchSealed, kind: WeightUpdateFailure, wrong: Exception) -> WeightUpdateFailed:
    return WeightUpdateFailed(
        generation=sealed.generation, round=sealed.round, batch=sealed.digest, kind=kind, reason=str(wrong) or type(wrong).__name__
    )
