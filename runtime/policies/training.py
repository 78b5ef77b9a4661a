"""One training round, whatever the policy and the algorithm: from recorded attempts to a peft folder and the state for
the next round.

`train` does it in this process, or starts several processes by an accelerate configuration and waits for them. These
share a folder: the task, the result, and the failure of the first that failed are files in it.
"""

import gc
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from algorithms.learning import algorithm as find_algorithm
from algorithms.learning.batch import (
    Algorithm,
    Diverged,
    Mismatch,
    NothingToLearn,
    PolicyTurn,
    Rollout,
    Step,
    Vote,
    demonstration,
    merge,
)
from algorithms.learning.update import Trainable, TrainingState, UpdateResult, update
from events.errors import (
    CheckFailed,
    Misconfigured,
    NotFound,
    NotHere,
    TryAgain,
    Unavailable,
    UsageError,
    UserError,
)
from events.fact import NotFinite
from events.kinds import BackEnd
from events.weights import Canary
from runtime.policies import text_scorer
from runtime.policies.bases import HF, kind_of
from runtime.policies.interface import SampleRequest, TokenScorer

CANARIES, CANARY_TOKENS = 4, 16
"""Canaries of an adapter, and the tokens of each."""
ROOT = Path(__file__).parents[2]
WORKER_MODULE = "runtime.policies.training_process"
"""The module that each process of a launch runs."""
OUTPUT_LINES = 20
"""The last lines of a launch's output that an error shows, where no process wrote a failure."""
RERAISED: tuple[type[Exception], ...] = (
    *(UserError, UsageError, CheckFailed, NotFound, NotHere, Unavailable, TryAgain, Misconfigured),
    *(Diverged, Mismatch, NotFinite, NothingToLearn),
)
"""Exceptions that `train` raises as they were raised in a process of a launch.

They are recognised by the names of their classes.
"""


class Trainee(Trainable, Protocol):
    """A policy in training: what a training round needs of a base model with an adapter, whatever its kind."""

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""

    def encode(self, prompt: str) -> tuple[int, ...] | None:
        """The tokens of a prompt.

        None for a policy whose prompts are no token sequences, so that no turn can continue another.
        """

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of an answer, its end included; empty where the policy cannot give that answer."""

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""

    def save(self, out: Path, card: str) -> None:
        """Write an ordinary peft folder, with `card` as its README.md."""


class TrainingCall(msgspec.Struct, frozen=True):
    """One call of the policy within an attempt: the request, and the tokens of the completion that the attempt got."""

    request: SampleRequest
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class TrainingAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded attempt, as training reads it: `id` is its trajectory's, and attempts of one `group` are compared
    with each other.
    """

    id: str
    group: str
    item: str
    adapter: str
    answer: str | None
    reward: float
    calls: tuple[TrainingCall, ...]
    hinted: bool = False


class Sources(msgspec.Struct, frozen=True):
    """Functions that give an algorithm more than rewards. One is called only if the algorithm needs what it gives."""

    label: Callable[[str], str]
    """The true answer of a train item; empty where none is known."""
    copies: Callable[[Sequence[str]], dict[str, list[tuple[str, str]]]]
    """(prompt, completion) demonstrations for each of these items."""


class TrainingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A training round's parameters.

    `base` and `parent_folder` are folders; `parent` is the adapter's digest, empty for the base model.
    """

    base: Path
    parent: str
    parent_folder: Path | None
    state: Path | None
    """The state file of the parent's training; None to begin with a fresh optimiser."""
    algorithm: str
    hyper: Mapping[str, float]
    seed: int
    about: Mapping[str, str]
    """Further lines of the adapter's card."""
    back_end: BackEnd = "native"
    """The back end that is asked for; a model or algorithm that trl cannot train is trained natively."""
    private: bool = False
    """Whether no prompt may be published: canaries then ask for the digests of prompts."""
    accelerate: Path | None = None
    """An accelerate configuration, by which trl's gradient work is launched; None: it is done in this process."""


class TrainingResult(msgspec.Struct, frozen=True):
    """The result of a round: the optimiser's steps, the adapter's canaries, and counts of the batch, as in
    `UpdateResult`.
    """

    steps: tuple[Step, ...]
    canary: tuple[Canary, ...]
    trained_on: int
    left_out: int
    votes: tuple[Vote, ...]
    back_end: BackEnd
    """The back end that did the work."""
    processes: int = 1
    """The number of processes that shared it."""


class LaunchTask(msgspec.Struct, frozen=True):
    """The input of each process of a launch."""

    order: TrainingOrder
    rollouts: tuple[Rollout, ...]


class LaunchFailure(msgspec.Struct, frozen=True):
    """The failure of a launch: `kind` is the class of the exception in the process that failed first, `reason` its
    text.
    """

    kind: str
    reason: str
    votes: tuple[Vote, ...] = ()


def train(
    order: TrainingOrder, attempts: Sequence[TrainingAttempt], sources: Sources, out: Path, state_out: Path
) -> TrainingResult:
    """Train one round: write a peft folder at `out`, and at `state_out` the state of the optimiser, the critic and the
    weight of KL.

    The same arguments give the same bytes (one thread, one kind of machine). Raises NothingToLearn, Mismatch, Diverged,
    or a UserError for an algorithm or hyper-parameter that there is not, or a base, adapter or state that does not fit.
    """
    try:
        algorithm = find_algorithm(order.algorithm)
    except KeyError as wrong:
        raise UsageError(str(wrong.args[0])) from wrong
    model = open_trainee(order.base, order.parent_folder, order.seed, algorithm.critic)
    rollouts = rollouts_from(attempts, algorithm, sources, model)
    if not rollouts:
        raise NothingToLearn(f"None of {len(attempts)} attempts asked the policy anything.")
    back_end = back_end_for(order.back_end, model, algorithm)
    if order.accelerate and back_end == "trl":
        del model  # the processes of the launch need its memory
        gc.collect()
        torch.cuda.empty_cache()
        trained = train_in_processes(order.accelerate, LaunchTask(order, tuple(rollouts)), out, state_out)
        model = open_trainee(order.base, out, order.seed, algorithm.critic)
    else:
        result = run_update(order, back_end, model, algorithm, rollouts)
        trained = save_result(order, back_end, model, result, out, state_out)
    canary = tuple(canaries(model, rollouts, private=order.private))
    return msgspec.structs.replace(trained, canary=canary)


def canaries(model: Trainee, rollouts: Sequence[Rollout], *, private: bool = False) -> Iterator[Canary]:
    """Canaries for the first few prompts, or for their SHA-256 where they are private, by which a server shows that it
    has the model's weights.

    They hold the log-probabilities of all first tokens; for a model of a large vocabulary, those of the first recorded
    tokens.
    """
    recorded_tokens = {
        rollout.prompt: rollout.tokens[:-1][:CANARY_TOKENS] or rollout.tokens for rollout in reversed(rollouts)
    }
    for asked in list(dict.fromkeys(rollout.prompt for rollout in rollouts))[:CANARIES]:
        prompt = hashlib.sha256(asked.encode()).hexdigest() if private else asked
        if isinstance(model, TokenScorer):
            yield Canary(prompt, tuple(model.score(prompt, recorded_tokens[asked])), recorded_tokens[asked])
        else:
            yield Canary(prompt, tuple(model.log_probs(prompt)))


def back_end_for(wanted: BackEnd, model: Trainee, algorithm: Algorithm) -> BackEnd:
    """The back end to use: the one that is wanted, or the native one, since trl has no critic and trains causal
    language models only.
    """
    if wanted == "native":  # a language model's class comes with transformers and peft, in several seconds
        return "native"
    from algorithms.models.causal_lm import CausalTrainee

    return "native" if algorithm.critic or not isinstance(model, CausalTrainee) else wanted


def run_update(
    order: TrainingOrder, back_end: BackEnd, model: Trainee, algorithm: Algorithm, rollouts: Sequence[Rollout]
) -> UpdateResult:
    """Do the update by this back end, in this process or shared with the others of its process group; raises as `train`
    does.
    """
    state = load_state(order.state, algorithm.name) if order.state else None
    backend_update: Callable[..., UpdateResult] = update
    if back_end == "trl":
        from runtime.policies import trl_backend

        backend_update = trl_backend.update
    return backend_update(model, algorithm, rollouts, order.hyper, seed=order.seed, parent=order.parent, state=state)


def save_result(
    order: TrainingOrder, back_end: BackEnd, model: Trainee, result: UpdateResult, out: Path, state_out: Path
) -> TrainingResult:
    """Write the peft folder and the state file; returns the result, without canaries."""
    model.save(out, card(order, model, result.trained_on))
    save_state(state_out, result.state, order.algorithm)
    return TrainingResult(result.steps, (), result.trained_on, result.left_out, result.votes, back_end)


def train_in_processes(config: Path, task: LaunchTask, out: Path, state_out: Path) -> TrainingResult:
    """`run_update` and `save_result` in the processes of an accelerate configuration; raises as they and
    `launch` do.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name)
        (folder / "task").write_bytes(msgspec.msgpack.encode(task, enc_hook=str))
        launch(config, folder)
        (folder / "adapter").rename(out)
        (folder / "state").rename(state_out)
        return msgspec.msgpack.decode((folder / "trained").read_bytes(), type=TrainingResult)


def read_task(folder: Path) -> LaunchTask:
    """The task in the folder of a launch."""
    return msgspec.msgpack.decode(
        (folder / "task").read_bytes(), type=LaunchTask, dec_hook=lambda kind, value: kind(value)
    )


def raise_failure(folder: Path) -> None:
    """Raise the failure that a process wrote into the folder of a launch, if one did.

    It is the same exception, or for one that is none of `RERAISED` a RuntimeError that names it.
    """
    if not (folder / "failure").exists():
        return
    failure = msgspec.msgpack.decode((folder / "failure").read_bytes(), type=LaunchFailure)
    if failure.kind == NothingToLearn.__name__:
        raise NothingToLearn(failure.reason, failure.votes)
    for kind in RERAISED:
        if kind.__name__ == failure.kind:
            raise kind(failure.reason)
    raise RuntimeError(f"{failure.kind}: {failure.reason}")


def launch(config: Path, folder: Path, module: str = WORKER_MODULE) -> None:
    """Run `python -m MODULE FOLDER` in as many processes as an accelerate configuration says, until they end.

    `folder` is the one that they share. They end when this process does, since their standard input ends then. Raises
    the failure that one wrote into the folder, or RuntimeError with the last lines of their output.
    """
    kind = importlib.import_module("yaml").safe_load(config.read_bytes())["distributed_type"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    flags = ["--mixed_precision", "no"]  # the model's own, as in one process
    if kind == "MULTI_CPU":
        flags.append(
            "--multi_gpu"
        )  # accelerate's word for torchrun; without it, it leaves several processes of a CPU to mpirun
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        *flags,
        "-m",
        module,
        str(folder),
    ]
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output) as child,
    ):
        code = child.wait()
    raise_failure(folder)
    if code:
        (folder / "room").write_bytes(
            bytes(1 << 16)
        )  # fails where a process could not write its failure for want of it
        last = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()[-OUTPUT_LINES:]
        raise RuntimeError("\n".join([f"accelerate launch with {config} ended with code {code}:", *last]))


def open_trainee(base: Path, parent: Path | None, seed: int, critic: bool) -> Trainee:
    """The policy of a base folder, to be trained from the parent's adapter, or from a fresh one drawn from `seed` where
    it is None.

    Raises NotFound, CheckFailed or Misconfigured for a base or adapter that does not fit.
    """
    kind = kind_of(base)
    if kind == text_scorer.KIND:
        from runtime.policies import text_scorer_torch

        return text_scorer_torch.TextScorerTrainee(base, parent, seed, critic)
    if kind == HF:
        from runtime.policies import hf

        return hf.HFTrainee(hf.HFModel.load(base), parent, seed, critic)
    from algorithms.models import tiny_lm

    return tiny_lm.TinyTrainee(tiny_lm.load(base), parent, seed, critic)


def rollouts_from(
    attempts: Sequence[TrainingAttempt], algorithm: Algorithm, sources: Sources, model: Trainee
) -> list[Rollout]:
    """The attempts as rollouts, which carry what the algorithm needs and nothing else: no reward for one that needs
    none.
    """
    if "copies" in algorithm.needs:
        return _copies(attempts, sources, model)
    rollouts: list[Rollout] = []
    for attempt in attempts:
        if attempt.hinted and "hints" not in algorithm.needs:
            continue
        for first, tokens, logprobs, mask in _sequences(attempt, model):
            request = attempt.calls[first].request
            real: tuple[int, ...] = ()
            if "labels" in algorithm.needs:
                label = sources.label(attempt.item)
                if label and (label in request.choices or not request.choices):
                    real = model.encode_completion(label)
            rollouts.append(
                Rollout(
                    group=attempt.group,
                    item=attempt.item,
                    attempt=attempt.id,
                    prompt=request.prompt,
                    choices=request.choices,
                    bias=request.bias,
                    tokens=tokens,
                    logprobs=logprobs,
                    mask=mask,
                    reward=attempt.reward if "rewards" in algorithm.needs else float("nan"),
                    answer=attempt.answer or "",
                    real=real,
                    adapter=attempt.adapter,
                    own=not attempt.hinted,
                )
            )
    return rollouts


def _sequences(
    attempt: TrainingAttempt, model: Trainee
) -> list[tuple[int, tuple[int, ...], tuple[float, ...], tuple[int, ...]]]:
    """(index of the first call, tokens, log-probabilities, mask) of each sequence; turns that continue each other are
    one.
    """
    prompts = [model.encode(call.request.prompt) for call in attempt.calls]
    turns = [
        PolicyTurn(p, call.tokens, call.logprobs)
        for p, call in zip(prompts, attempt.calls, strict=True)
        if p is not None
    ]
    if len(turns) < len(attempt.calls):
        return [(index, call.tokens, call.logprobs, ()) for index, call in enumerate(attempt.calls) if call.tokens]
    return [
        (sequence.first, sequence.tokens, sequence.logprobs, sequence.mask)
        for sequence in merge(turns)
        if any(sequence.mask)
    ]


def _copies(attempts: Sequence[TrainingAttempt], sources: Sources, model: Trainee) -> list[Rollout]:
    items = list(dict.fromkeys(attempt.item for attempt in attempts))
    rollouts = []
    for item, pairs in sources.copies(items).items():
        for prompt, completion in pairs:
            tokens = model.encode_completion(completion)
            if tokens:
                rollouts.append(demonstration(item, prompt, tokens))
    return rollouts


def card(order: TrainingOrder, model: Trainee, trained_on: int) -> str:
    """The adapter's README.md: front matter as model hubs read it, then where it comes from.

    Equal runs give equal cards.
    """
    hyper = json.dumps(dict(sorted(order.hyper.items())))
    lines = [
        *("---", f"base_model: {model.name}", "library_name: peft", f"tags: [evolog, lora, {order.algorithm}]", "---"),
        f"A LoRA adapter of {model.name}, and of no other base model.",
        "",
        f"- algorithm: {order.algorithm} {hyper}, seed {order.seed}",
        f"- parent adapter: {order.parent or 'none, the base model'}",
        f"- trained on: {trained_on} sequences",
        *(f"- {name}: {value}" for name, value in order.about.items()),
    ]
    return "\n".join(lines) + "\n"


def save_state(path: Path, state: TrainingState, algorithm: str) -> None:
    """Write an update's state for the next one, with the algorithm's name."""
    save_file(dict(sorted(state.items())), path, metadata={"algorithm": algorithm})


def load_state(path: Path, algorithm: str) -> dict[str, torch.Tensor] | None:
    """The state that the previous update wrote; None if it was another algorithm's, whose moments mean something else.

    Raises CheckFailed for a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("algorithm") != algorithm:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as wrong:
        raise CheckFailed(
            f"The training state {path.name} is damaged ({wrong}); order the update without it."
        ) from wrong
