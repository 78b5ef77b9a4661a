"""Training: from a sealed batch of recorded attempts to an adapter, or why there is none.

It knows no algorithm by name.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from algorithms.learning.batch import Diverged, Mismatch, NothingToLearn, Vote
from events.errors import CheckFailed, UsageError, UserError, hosts_own, raise_if_hosts
from events.fact import Fact, NotFinite
from events.judgement import LabelEstimated
from events.kinds import BackEnd, WeightUpdateFailure
from events.weights import AdapterPublished, OptimizerStepApplied, TrainingBatchSealed, WeightUpdateFailed
from runtime.blobs.directory import Blobs
from runtime.policies.training import Sources, TrainingAttempt, TrainingCall, TrainingOrder, train
from runtime.rollouts.attempt import RecordedAttempt, request_reader
from runtime.run.batch import batch_digest
from runtime.run.loading import LoadedRun
from tasks.contract import Example, visible_train

AttemptsByRequest = Mapping[str, Sequence[RecordedAttempt]]
"""The attempts of each request."""


class TrainingHost(NamedTuple):
    """The blobs, folder and back-end that training uses on this host."""

    blobs: Blobs
    work: Path
    """A folder for base models, and for a round's adapters and state until it is over."""
    back_end: BackEnd = "native"
    accelerate: Path | None = None
    """An accelerate configuration, under which the gradient work is launched, as in `TrainingOrder`."""


def train_round(
    host: TrainingHost,
    attempts: AttemptsByRequest,
    sealed: TrainingBatchSealed,
    base_model: str,
    load: Callable[[], LoadedRun],
    *,
    private: bool = False,
) -> list[Fact]:
    """One round of training: its optimiser steps and its adapter, or why there is none.

    No prompt is published where they are `private`.
    The same batch gives the same adapter, to the byte (on one kind of machine). `load` gives the run's task,
    and is called only where the algorithm asks for labels or demonstrations. Raises what is the host's own
    (`raise_if_hosts`), after which the batch is handed out again.
    """
    blobs, work = host.blobs, host.work
    try:
        batch = sealed_attempts(blobs, attempts, sealed)
    except CheckFailed as wrong:
        return [_failed(sealed, "batch_differs", wrong)]
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        with hosts_own():
            base = blobs.unpack(base_model, work / base_model)
            parent = sealed.parent_adapter and blobs.unpack(sealed.parent_adapter, folder / sealed.parent_adapter)
            state = sealed.parent_state and _written(blobs, sealed.parent_state, folder)
        order = TrainingOrder(
            base=base,
            parent=sealed.parent_adapter,
            parent_folder=parent or None,
            state=state or None,
            algorithm=sealed.algorithm,
            hyper=sealed.hyper,
            seed=sealed.training_seed,
            back_end=host.back_end,
            accelerate=host.accelerate,
            private=private,
            about={
                "events": f"training_batch_sealed and adapter_published of generation {sealed.generation}, round "
                f"{sealed.round}"
            },
        )
        result = train(order, batch, sources(load, sealed.training_seed), folder / "adapter", folder / "left")
        common_fields: dict[str, Any] = {
            "generation": sealed.generation,
            "round": sealed.round,
            "parent_adapter": sealed.parent_adapter,
            "batch": sealed.digest,
        }
        steps: list[Fact] = [
            OptimizerStepApplied(**common_fields, step=number, **msgspec.structs.asdict(step))
            for number, step in enumerate(result.steps)
        ]
        published = AdapterPublished(
            **common_fields,
            adapter=blobs.put_folder(folder / "adapter"),
            base_model=base_model,
            algorithm=sealed.algorithm,
            canary=result.canary,
            trained_on=result.trained_on,
            left_out=result.left_out,
            back_end=result.back_end,
            processes=result.processes,
            state=blobs.put((folder / "left").read_bytes()),
            masked_tokens=result.masked_tokens,
            repeated=repeated_completions(attempts, sealed),
        )
        return [*_elected(sealed, result.votes), *steps, published]
    except (Diverged, NotFinite) as wrong:
        return [_failed(sealed, "diverged", wrong)]
    except NothingToLearn as wrong:
        return [*_elected(sealed, wrong.votes), _failed(sealed, "nothing_to_learn", wrong)]
    except Mismatch as wrong:
        return [_failed(sealed, "logprobs_differ", wrong)]
    except UsageError as wrong:
        return [_failed(sealed, "refused", wrong)]
    except Exception as wrong:  # whatever it is, it would come again with the same batch
        raise_if_hosts(wrong, by_words=True)
        return [_failed(sealed, "adapter_unusable" if isinstance(wrong, UserError) else "crashed", wrong)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sealed_attempts(blobs: Blobs, attempts: AttemptsByRequest, sealed: TrainingBatchSealed) -> list[TrainingAttempt]:
    """The scored attempts of a sealed batch, in its order; raises `CheckFailed` unless their digest is the one that was
    sealed.
    """
    scored = [
        (attempt, attempt.reward)
        for request in sealed.requests
        for attempt in attempts[request]
        if attempt.reward is not None
    ]
    digest = batch_digest([(attempt.id, reward) for attempt, reward in scored])
    if digest != sealed.digest:
        raise CheckFailed(
            f"The recorded batch has digest {digest[:12]} over {len(scored)} trajectories, "
            f"sealed was {sealed.digest[:12]} over {sealed.trajectories}."
        )
    read_request = request_reader(blobs)
    return [
        TrainingAttempt(
            id=attempt.id,
            group=f"{attempt.recorded.request} {attempt.recorded.item}",
            item=attempt.recorded.item,
            adapter=attempt.recorded.adapter,
            answer=attempt.recorded.answer,
            reward=reward,
            calls=tuple(
                TrainingCall(
                    read_request(call),
                    call.tokens[use.completion],
                    call.logprobs[use.completion],
                    bool(call.cut) and call.cut[use.completion],
                )
                for use, call in zip(attempt.recorded.calls, attempt.calls, strict=True)
            ),
            hinted=attempt.recorded.purpose == "hint",
        )
        for attempt, reward in scored
    ]


def repeated_completions(attempts: AttemptsByRequest, sealed: TrainingBatchSealed) -> int:
    """How many completions of a sealed batch repeat an earlier one against all chance, each call's counted once."""
    calls = {
        call.key(): call.repeated
        for request in sealed.requests
        for attempt in attempts[request]
        for call in attempt.calls
    }
    return sum(calls.values())


def sources(load: Callable[[], LoadedRun], seed: int) -> Sources:
    """The true answers of train items, their hints, and the task's demonstrations for them; the task is loaded when one
    is first needed.
    """
    loaded = functools.cache(load)

    @functools.cache
    def train() -> dict[str, Example]:
        return {example.id: example for example in loaded().public.train}

    def label(item: str) -> str:
        return train()[item].label or ""

    def copies(items: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        task, public = loaded().task, loaded().public
        return {
            item: task.copies(train()[item].prompt, visible_train(public, train()[item].fold), seed) for item in items
        }

    def hint(item: str) -> str:
        return loaded().task.hint(label(item)) if label(item) else ""

    return Sources(label, copies, hint)


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


def _written(blobs: Blobs, digest: str, folder: Path) -> Path:
    path = folder / "state"
    path.write_bytes(blobs.get(digest))
    return path


def _failed(sealed: TrainingBatchSealed, kind: WeightUpdateFailure, wrong: Exception) -> WeightUpdateFailed:
    return WeightUpdateFailed(
        generation=sealed.generation,
        round=sealed.round,
        batch=sealed.digest,
        kind=kind,
        reason=str(wrong) or type(wrong).__name__,
    )
