"""Writes a recorded run as logs of Inspect (`.eval`, version 2), which `inspect view` and `read_eval_log` open.

An evaluation of Inspect is one candidate on one kind of work: a file for each generation, purpose and round, a sample
for each attempt, an epoch for each attempt at one item. The files are zips of JSON as Inspect writes them, made without
Inspect; its reader takes members that are deflated. Every id and time follows from the log, so the same run gives the
same bytes.

Format: inspect_ai.log.EvalLog of inspect_ai 0.3.285, and `inspect_ai/log/_recorders/eval.py` for the members of a file.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import msgspec

from events.fact import derive
from events.gold import GOLD, VERIFIER, PairMeasured
from events.judgement import TrajectoryScored
from events.rollouts import ModelCalled
from events.time import rfc3339
from replay.exports.attempts import (
    ExportedAttempt,
    ExportedCall,
    candidate_levers,
    exported_attempts,
    gold_of_attempts,
    prompts,
)
from replay.exports.target import new_folder
from replay.history import History
from runtime.log.port import readable
from runtime.policies.interface import SampleRequest

VERSION = 2
"""The version of the format."""
_TIME = (1980, 1, 1, 0, 0, 0)
"""The time of every member: zips hold one, and the log's own stands in the JSON."""
_encoder = msgspec.json.Encoder(order="sorted")


class EvalKey(NamedTuple):
    """What one file holds: a generation's attempts of one purpose and round."""

    generation: int
    purpose: str
    round: int

    @property
    def words(self) -> str:
        """As in a file's name; a round is named where there is more than one by nature."""
        many = self.purpose in ("train", "hint", "recheck")
        return f"generation-{self.generation:03}-{self.purpose}{f'-{self.round}' if many else ''}"


class InspectExport(msgspec.Struct, kw_only=True):
    """What was written: the files' names and the number of samples."""

    version: int = 1
    run: str
    folder: str
    files: list[str]
    samples: int


class _Eval(NamedTuple):
    """One file's content, as JSON: its header and its samples."""

    header: dict[str, Any]
    samples: list[dict[str, Any]]


def write_inspect(history: History, folder: Path, *, gold: bool = False) -> InspectExport:
    """Write a run's attempts as logs of Inspect into a new folder; with `gold`, the auditor's scores too.

    Raises `UsageError` for a folder that holds something.
    """
    groups: dict[EvalKey, list[ExportedAttempt]] = {}
    for attempt in exported_attempts(history):
        requested = attempt.requested
        groups.setdefault(EvalKey(requested.generation, requested.purpose, requested.round), []).append(attempt)
    gold_scores = gold_of_attempts(history) if gold else {}
    asked, levers = prompts(history), candidate_levers(history)
    names, count = [], 0
    with new_folder(folder) as temporary:

        def write(words: str, content: _Eval) -> None:
            nonlocal count
            created = content.header["eval"]["created"][:19].replace(":", "-")
            name = f"{created}_{history.run}-{words}_{content.header['eval']['eval_id'][:12]}.eval"
            _write_zip(temporary / name, content)
            names.append(name)
            count += len(content.samples)

        for key in sorted(groups):
            write(key.words, _of_attempts(history, key, groups[key], asked, levers, gold_scores))
        for number, content in enumerate(_of_pairs(history) if gold else ()):
            write(f"test-pair-{number:03}", content)
    return InspectExport(run=history.run, folder=str(folder), files=names, samples=count)


def _of_attempts(
    history: History,
    key: EvalKey,
    attempts: Sequence[ExportedAttempt],
    asked: Callable[[ModelCalled], SampleRequest],
    levers: dict[int, str],
    gold_scores: dict[str, float],
) -> _Eval:
    epochs: dict[str, int] = {}
    samples = []
    for attempt in attempts:
        epochs[attempt.recorded.item] = epoch = epochs.get(attempt.recorded.item, 0) + 1
        samples.append(_sample(attempt, epoch, asked, gold_scores.get(attempt.id)))
    requested = attempts[0].requested
    metadata = {
        "evolog_run": history.run,
        "generation": key.generation,
        "lever": levers.get(key.generation, ""),
        "purpose": key.purpose,
        "round": key.round,
        "scaffold": requested.scaffold,
        "adapter": requested.adapter,
    }
    began, ended = min(attempt.time for attempt in attempts), max(attempt.time for attempt in attempts)
    header = _header(
        history,
        words=key.words,
        split=requested.split,
        epochs=max(epochs.values()),
        items=sorted(epochs),
        scaffold=requested.scaffold,
        adapter=requested.adapter,
        temperature=requested.temperature,
        metadata=metadata,
        began=began,
        ended=ended,
        samples=samples,
    )
    return _Eval(header, samples)


def _header(
    history: History,
    *,
    words: str,
    split: str,
    epochs: int,
    items: Sequence[str],
    scaffold: str,
    adapter: str,
    temperature: float | None,
    metadata: dict[str, Any],
    began: int,
    ended: int,
    samples: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    started = history.started
    usage = _total([sample["model_usage"] for sample in samples])
    task = Path(started.task).name
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": derive(history.run, "inspect", words),
            "run_id": derive(history.run, "inspect"),
            "created": _time(began),
            "task": f"{task}/{words}",
            "task_id": derive(history.run, "inspect", words, "task"),
            "task_version": 0,
            "task_display_name": f"{task}: {words.replace('-', ' ')}",
            "task_args": {"seed": started.seed, "verifier": started.verifier},
            "solver": f"scaffold {scaffold[:12]}",
            "dataset": {"name": f"{task}/{split}", "samples": len(items), "sample_ids": list(items), "shuffled": False},
            "model": f"{started.policy}@{adapter[:12]}" if adapter else started.policy,
            "model_args": {"base_model": started.base_model, "adapter": adapter},
            "model_generate_config": {} if temperature is None else {"temperature": temperature},
            "config": {"epochs": epochs},
            "packages": {},
            "metadata": metadata,
            "tags": ["evolog", split],
        },
        "plan": {"name": "plan", "steps": [{"solver": f"scaffold {scaffold[:12]}", "params": {}}], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": sum(sample.get("error") is None for sample in samples),
            "scores": list(_scores(samples)),
        },
        "stats": {"started_at": _time(began), "completed_at": _time(ended), "model_usage": usage},
    }


def _sample(
    attempt: ExportedAttempt, epoch: int, asked: Callable[[ModelCalled], SampleRequest], gold: float | None
) -> dict[str, Any]:
    recorded, requested = attempt.recorded, attempt.requested
    exchanges = [(call, asked(call.called)) for call in attempt.calls]
    messages: list[dict[str, Any]] = []
    for call, request in exchanges:
        messages += [_user(call, request), _assistant(call)]
    began = attempt.time - int(attempt.seconds * 1e9)
    sample: dict[str, Any] = {
        "id": recorded.item,
        "epoch": epoch,
        "input": exchanges[0][1].prompt if exchanges else f"item {recorded.item}: the policy was not called",
        "target": "",
        "messages": messages,
        "output": _output(exchanges[-1][0]) if exchanges else {"model": "", "choices": [], "completion": ""},
        "scores": _sample_scores(attempt, gold),
        "metadata": {
            "attempt": recorded.attempt,
            "request": attempt.request,
            "sequence": attempt.sequence,
            "generation": requested.generation,
            "purpose": requested.purpose,
            "round": requested.round,
            "refill": requested.refill,
            "fold": requested.fold,
        },
        "store": {},
        "events": [_model_event(call, request) for call, request in exchanges],
        "model_usage": _total([{call.called.model: _usage(call)} for call, _ in exchanges]),
        "started_at": _time(began),
        "completed_at": _time(attempt.time),
        "total_time": attempt.seconds,
        "working_time": attempt.seconds,
        "uuid": attempt.id,
        "attachments": {},
    }
    if attempt.failure:
        sample["error"] = {"message": attempt.failure, "traceback": "", "traceback_ansi": ""}
    return sample


def _sample_scores(attempt: ExportedAttempt, gold: float | None) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    if isinstance(judgement := attempt.judgement, TrajectoryScored):
        scores[VERIFIER] = {
            "value": judgement.reward,
            "answer": attempt.answer,
            "explanation": judgement.details or judgement.outcome,
            "metadata": {"outcome": judgement.outcome, "verifier": judgement.verifier},
        }
    if gold is not None:
        scores[GOLD] = {"value": gold, "answer": attempt.answer, "explanation": "", "metadata": {}}
    return scores


def _of_pairs(history: History) -> Iterator[_Eval]:
    """The auditor's measurements on test: a file for each scaffold with an adapter, a score for each measure."""
    pairs: dict[tuple[str, str], dict[str, PairMeasured]] = {}
    times: dict[tuple[str, str], list[int]] = {}
    for stored in history.gold:
        for event in readable([stored]):
            if isinstance(event.data, PairMeasured):
                pair = event.data.scaffold, event.data.adapter
                pairs.setdefault(pair, {})[event.data.measure] = event.data
                times.setdefault(pair, []).append(stored.time)
    for number, (pair, measures) in enumerate(pairs.items()):
        items = sorted({item for measured in measures.values() for item in measured.scores})
        epochs = max((len(scores) for one in measures.values() for scores in one.scores.values()), default=0)
        samples = [
            _test_sample(history, pair, item, epoch, measures, max(times[pair]))
            for item in items
            for epoch in range(1, epochs + 1)
            if any(epoch <= len(one.scores.get(item, ())) for one in measures.values())
        ]
        header = _header(
            history,
            words=f"test-pair-{number:03}",
            split="test",
            epochs=epochs,
            items=items,
            scaffold=pair[0],
            adapter=pair[1],
            temperature=None,
            metadata={"evolog_run": history.run, "scaffold": pair[0], "adapter": pair[1], "measured_by": "auditor"},
            began=min(times[pair]),
            ended=max(times[pair]),
            samples=samples,
        )
        yield _Eval(header, samples)


def _test_sample(
    history: History, pair: tuple[str, str], item: str, epoch: int, measures: dict[str, PairMeasured], time: int
) -> dict[str, Any]:
    scores = {
        name: {"value": measured.scores[item][epoch - 1], "explanation": "", "metadata": {}}
        for name, measured in sorted(measures.items())
        if epoch <= len(measured.scores.get(item, ()))
    }
    return {
        "id": item,
        "epoch": epoch,
        "input": f"item {item} of test, answered for the auditor",
        "target": "",
        "messages": [],
        "output": {"model": _model(history.started.base_model, pair[1]), "choices": [], "completion": ""},
        "scores": scores,
        "metadata": {"purpose": "test"},
        "store": {},
        "events": [],
        "model_usage": {},
        "completed_at": _time(time),
        "uuid": derive(history.run, "inspect", *pair, item, epoch),
        "attachments": {},
    }


def _scores(samples: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The mean of each score with its standard error, over the samples that have it."""
    for name in dict.fromkeys(name for sample in samples for name in sample["scores"]):
        values = [float(sample["scores"][name]["value"]) for sample in samples if name in sample["scores"]]
        error = stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
        yield {
            "name": name,
            "scorer": name,
            "scored_samples": len(values),
            "unscored_samples": len(samples) - len(values),
            "params": {},
            "metrics": {
                "mean": {"name": "mean", "value": fmean(values), "params": {}},
                "stderr": {"name": "stderr", "value": error, "params": {}},
            },
        }


def _user(call: ExportedCall, request: SampleRequest) -> dict[str, Any]:
    text = f"{request.prompt}\n{request.hint}" if request.hint else request.prompt
    if request.choices:
        text += "\n\n[one of: " + " | ".join(request.choices) + "]"
    return {"id": f"{call.id}-u", "role": "user", "content": text}


def _assistant(call: ExportedCall) -> dict[str, Any]:
    model = call.called.model
    return {"id": f"{call.id}-{call.completion}", "role": "assistant", "content": call.text, "model": model}


def _output(call: ExportedCall) -> dict[str, Any]:
    return {
        "model": call.called.model,
        "choices": [{"message": _assistant(call), "stop_reason": "max_tokens" if call.cut else "stop"}],
        "completion": call.text,
        "usage": _usage(call),
        "time": call.called.seconds,
    }


def _usage(call: ExportedCall) -> dict[str, int]:
    """The tokens of the completion that the attempt was given, with the prompt's."""
    tokens = call.called.tokens
    written = len(tokens[call.completion]) if call.completion < len(tokens) else 0
    read = call.called.prompt_tokens
    return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}


def _model_event(call: ExportedCall, request: SampleRequest) -> dict[str, Any]:
    called = call.called
    return {
        "event": "model",
        "uuid": f"{call.id}-{call.completion}-e",
        "timestamp": _time(call.time - int(called.seconds * 1e9)),
        "working_start": 0.0,
        "completed": _time(call.time),
        "working_time": called.seconds,
        "model": called.model,
        "input": [_user(call, request)],
        "tools": [],
        "tool_choice": "none",
        "config": {"temperature": called.temperature, "max_tokens": request.max_tokens},
        "output": _output(call),
        "metadata": {
            "model_called": call.id,
            "completion": call.completion,
            "sampling_seed": str(called.sampling_seed),
        },
    }


def _total(usages: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for usage in usages:
        for model, counts in usage.items():
            mine = total.setdefault(model, dict.fromkeys(counts, 0))
            for name, number in counts.items():
                mine[name] += number
    return total


def _model(base_model: str, adapter: str) -> str:
    """As `model_called` names it."""
    return f"{base_model}@{adapter}" if adapter else base_model


def _time(nanoseconds: int) -> str:
    return rfc3339(nanoseconds)[:26] + "+00:00"


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    kept = ("id", "epoch", "target", "metadata", "scores", "model_usage", "started_at", "completed_at", "total_time")
    summary = {name: sample[name] for name in kept if name in sample}
    summary |= {"input": sample["input"][:1000], "uuid": sample["uuid"], "completed": True}
    summary["message_count"] = len(sample["messages"])
    if error := sample.get("error"):
        summary["error"] = error["message"]
    return summary


def _write_zip(path: Path, content: _Eval) -> None:
    header = content.header
    start = {"version": VERSION, "eval": header["eval"], "plan": header["plan"]}
    with zipfile.ZipFile(path, "w") as file:

        def member(name: str, value: object) -> None:
            info = zipfile.ZipInfo(name, _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, _encoder.encode(value))

        member("_journal/start.json", start)
        for sample in content.samples:
            member(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", sample)
        member("summaries.json", [_summary(sample) for sample in content.samples])
        member("header.json", header)
