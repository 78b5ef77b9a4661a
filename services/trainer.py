"""Trains adapters from sealed batches of recorded rollouts. It knows no algorithm by name."""

import asyncio
import importlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from algorithms.learning.batch import Diverged, NothingToLearn, Rollout
from events.codec import Event
from events.errors import CheckFailed, TryAgain, Unavailable, UserError
from events.fact import Fact, NotFinite
from events.weights import AdapterPublished, Canary, OptimizerStepApplied, TrainingBatchSealed, WeightUpdateFailed
from runtime.blobs import Blobs
from runtime.lookup import Attempted, attempts
from runtime.policies.bases import train
from runtime.policies.interface import SampleRequest
from runtime.run_decider import batch_digest
from runtime.worker import answer, work
from services.context import Context

Played = Mapping[str, Sequence[Attempted]]
"""The attempts of each request."""


async def serve(context: Context) -> None:
    """Train on one batch after the other."""
    known: dict[str, list[Attempted]] = {}  # the rounds of the update under way, which later rounds train on again
    loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "runtime.policies.text_scorer_torch"))

    async def perform(events: list[Event]) -> Sequence[Event]:
        nonlocal known
        outputs: list[Event] = []
        for event in events:
            sealed = event.data
            assert isinstance(sealed, TrainingBatchSealed)
            known = {request: known.get(request) or await attempts(context.log, event.run, request) for request in sealed.requests}
            started = await context.started(event.run)
            await loading
            facts = await asyncio.to_thread(update, context.blobs, context.work, known, sealed, started.base_model)
            outputs += [answer(fact, event, "trainer") for fact in facts]
        return outputs

    await work(context.log, perform, source="trainer", scanner=context.scanner)


def update(blobs: Blobs, work_folder: Path, played: Played, sealed: TrainingBatchSealed, base_model: str) -> list[Fact]:
    """One round of training: its steps and its adapter, or why there is none. The same batch gives the same adapter, to the byte."""
    work_folder.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(dir=work_folder))
    try:
        rollouts = sealed_rollouts(blobs, played, sealed)
        base = blobs.unpack(base_model, work_folder / base_model)
        parent = blobs.unpack(sealed.parent_adapter, work_folder / sealed.parent_adapter) if sealed.parent_adapter else None
        result = train(base, parent, rollouts, sealed.algorithm, sealed.hyper, sealed.training_seed, out)
        steps: list[Fact] = [
            OptimizerStepApplied(
                generation=sealed.generation,
                round=sealed.round,
                parent_adapter=sealed.parent_adapter,
                batch=sealed.digest,
                step=number,
                **msgspec.structs.asdict(step),
            )
            for number, step in enumerate(result.steps)
        ]
        published = AdapterPublished(
            generation=sealed.generation,
            round=sealed.round,
            adapter=blobs.put_folder(out),
            parent_adapter=sealed.parent_adapter,
            base_model=base_model,
            batch=sealed.digest,
            algorithm=sealed.algorithm,
            canary=tuple(Canary(prompt, logprobs) for prompt, logprobs in result.canary),
            trained_on=result.trained_on,
        )
        return [*steps, published]
    except Diverged as wrong:
        return [_failed(sealed, "diverged", wrong)]
    except NotFinite as wrong:
        return [_failed(sealed, "diverged", wrong)]
    except NothingToLearn as wrong:
        return [_failed(sealed, "nothing_to_learn", wrong)]
    except CheckFailed as wrong:
        return [_failed(sealed, "batch_differs", wrong)]
    except (TryAgain, Unavailable):
        raise  # no room or no broker for the moment: the batch is handed out again
    except UserError as wrong:
        return [_failed(sealed, "adapter_unusable", wrong)]
    except Exception as wrong:  # whatever it is, it would come again with the same batch
        return [_failed(sealed, "crashed", wrong)]
    finally:
        shutil.rmtree(out, ignore_errors=True)


def sealed_rollouts(blobs: Blobs, played: Played, sealed: TrainingBatchSealed) -> list[Rollout]:
    """The batch as recorded, one rollout for each use of a model call; raises `CheckFailed` unless it is the batch that was sealed."""
    scored = [(attempt, attempt.reward) for request in sealed.requests for attempt in played[request] if attempt.reward is not None]
    digest = batch_digest([(attempt.id, reward) for attempt, reward in scored])
    if digest != sealed.digest:
        raise CheckFailed(
            f"The recorded batch has digest {digest[:12]} over {len(scored)} trajectories, "
            f"sealed was {sealed.digest[:12]} over {sealed.trajectories}."
        )
    bodies: dict[str, list[SampleRequest]] = {}
    rollouts = []
    for attempt, reward in scored:
        for use, call in zip(attempt.recorded.calls, attempt.calls, strict=True):
            if call.body not in bodies:
                bodies[call.body] = msgspec.json.decode(blobs.get(call.body), type=list[SampleRequest])
            request = bodies[call.body][call.index]
            rollouts.append(
                Rollout(
                    group=f"{call.request} {attempt.recorded.item}",
                    item=attempt.recorded.item,
                    prompt=request.prompt,
                    choices=request.choices,
                    bias=request.bias,
                    token=call.tokens[use.completion][0],
                    logprob=call.logprobs[use.completion][0],
                    reward=reward,
                )
            )
    return rollouts


def _failed(sealed: TrainingBatchSealed, kind: str, wrong: Exception) -> WeightUpdateFailed:
    return WeightUpdateFailed(
        generation=sealed.generation, round=sealed.round, batch=sealed.digest, kind=kind, reason=str(wrong) or type(wrong).__name__
    )
