"""One training round, whatever the policy and the algorithm: from recorded attempts to a peft folder and the state for
the next round.

`train` does it in this process, or starts several processes by an accelerate configuration and waits for them. These
share a folder: the task, the result, and the failure of the first that failed are files in it.
"""

import gc
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from algorithms.learning import algorithm as find_algorithm
from algorithms.learning.batch import (
    Algorithm,
    Diverged,
    MergedTurns,
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
ANY_PROMPT = "canary"
"""The prompt of a canary where those of the batch leave no room for an answer outside their plain text."""
ROOT = Path(__file__).parents[2]
SPLIT = "FSDP"
"""The way of accelerate in which the processes split the model."""
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


class Encoder(Protocol):
    """What makes tokens of prompts and answers."""

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...] | None:
        """The tokens of a prompt, of a plain one without a chat template's.

        None for a policy whose prompts are no token sequences, so that no turn can continue another.
        """

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The tokens of an answer, its end included; empty where the policy cannot give that answer."""

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The token of each of these answers, where a request offers no others."""

    @property
    def positions(self) -> int | None:
        """The most tokens that a prompt and what follows it may have; None where there is no such limit."""


class Trainee(Trainable, Encoder, Protocol):
    """A policy in training: what a training round needs of a base model with an adapter, whatever its kind."""

    @property
    def name(self) -> str:
        """The name by which an adapter's config refers to the base."""

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""

    def save(self, out: Path, card: str) -> None:
        """Write an ordinary peft folder, with `card` as its README.md."""


class TrainingCall(msgspec.Struct, frozen=True):
    """One call of the policy within an attempt: the request, and the tokens of the completion that the attempt got."""

    request: SampleRequest
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cut: bool = False
    """Whether the completion ended because it reached its limit."""

    @property
    def fill(self) -> float:
        """The share of the most tokens that it took; 1 where it was cut."""
        return 1.0 if self.cut else len(self.tokens) / max(1, self.request.max_tokens)


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
    hint: Callable[[str], str] = lambda item: ""
    """The text that shows the true answer of a train item after its prompt; empty where none is known."""


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
    """The back end that is asked for; a model or algorithm that trl cannot train is trained natively, and so is a model
    that processes split.
    """
    private: bool = False
    """Whether no prompt may be published: canaries then ask for the digests of prompts."""
    accelerate: Path | None = None
    """An accelerate configuration, by which the gradient work is launched: trl's, or the native one if the
    configuration splits the model (`splits_model`). None: it is done in this process.
    """


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
    masked_tokens: int = 0


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

    The same arguments give the same bytes (on one kind of machine). Raises NothingToLearn, Mismatch, Diverged,
    or a UserError for an algorithm or hyper-parameter that there is not, or a base, adapter or state that does not fit.
    """
    try:
        algorithm = find_algorithm(order.algorithm)
    except KeyError as wrong:
        raise UsageError(str(wrong.args[0])) from wrong
    split = order.accelerate and kind_of(order.base) != text_scorer.KIND and splits_model(order.accelerate)
    model = None if split else open_trainee(order.base, order.parent_folder, order.seed, algorithm.critic)
    rollouts = rollouts_from(attempts, algorithm, sources, model or open_encoder(order.base))
    if not rollouts:
        raise NothingToLearn(
            f"None of {len(attempts)} attempts sampled anything from the policy: they asked it nothing, or at "
            "temperature 0, where the most probable tokens are no sample."
        )
    back_end = back_end_for(order.back_end, model, algorithm, rollouts) if model else "native"
    if order.accelerate and (back_end == "trl" or not model):
        del model  # the processes of the launch need its memory
        gc.collect()
        torch.cuda.empty_cache()
        trained = train_in_processes(order.accelerate, LaunchTask(order, tuple(rollouts)), out, state_out)
        if trained.canary:
            return trained
        model = open_trainee(order.base, out, order.seed, algorithm.critic)
    else:
        assert model
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
    fitting = (
        prompt for prompt in dict.fromkeys(r.prompt for r in rollouts) if _fits(model, prompt, False, CANARY_TOKENS)
    )
    for asked in list(itertools.islice(fitting, CANARIES)) or [ANY_PROMPT]:
        prompt = hashlib.sha256(asked.encode()).hexdigest() if private else asked
        if isinstance(model, TokenScorer):
            tokens = recorded_tokens.get(asked, rollouts[0].tokens[:1])
            yield Canary(prompt, tuple(model.score(prompt, tokens)), tokens)
        else:
            yield Canary(prompt, tuple(model.log_probs(prompt)))


def back_end_for(wanted: BackEnd, model: Trainee, algorithm: Algorithm, rollouts: Sequence[Rollout]) -> BackEnd:
    """The back end to use: the one that is wanted, or the native one, since trl has no critic, knows no choices and
    trains causal language models only.
    """
    if wanted == "native" or any(rollout.choices for rollout in rollouts):
        return "native"
    # not at the top: a language model's class comes with transformers and peft, in several seconds
    from algorithms.models.causal_lm import CausalTrainee

    return "native" if algorithm.critic or not isinstance(model, CausalTrainee) else wanted


def run_update(
    order: TrainingOrder, back_end: BackEnd, model: Trainable, algorithm: Algorithm, rollouts: Sequence[Rollout]
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
    return TrainingResult(
        result.steps,
        (),
        result.trained_on,
        result.left_out,
        result.votes,
        back_end,
        masked_tokens=result.masked_tokens,
    )


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
    settings = _read_yaml(config)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    flags = ["--mixed_precision", "no"]  # the model's own, as in one process
    on_cpu = settings["distributed_type"] == "MULTI_CPU" or bool(settings.get("use_cpu"))
    if on_cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if settings["distributed_type"] in ("MULTI_CPU", SPLIT):
        # accelerate's word for torchrun: without it, several processes of a CPU are left to mpirun
        flags.append("--multi_gpu")
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
    last = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()[-OUTPUT_LINES:]
    ended = [f"accelerate launch with {config} ended with code {code}:", *last]
    try:
        raise_failure(folder)
    except RuntimeError as wrong:  # such as that of a process whose partner was killed, as the launcher's output says
        raise RuntimeError("\n".join([str(wrong), *ended])) from None
    if code:
        (folder / "room").write_bytes(
            bytes(1 << 16)
        )  # fails where a process could not write its failure for want of it
        raise RuntimeError("\n".join(ended))


def splits_model(config: Path) -> bool:
    """Whether the processes of an accelerate configuration hold a part of the model each, and not the whole."""
    return bool(_read_yaml(config)["distributed_type"] == SPLIT)


def _read_yaml(path: Path) -> Any:
    return importlib.import_module("yaml").safe_load(path.read_bytes())


def open_encoder(base: Path) -> Encoder:
    """What makes tokens for the causal language model of a base folder, read without weights where they may be many.

    Raises as `open_trainee` does.
    """
    if kind_of(base) == HF:
        from runtime.policies import hf

        return hf.HFTokenizer.load(base)
    from algorithms.models import tiny_lm

    return tiny_lm.load(base)


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
    attempts: Sequence[TrainingAttempt], algorithm: Algorithm, sources: Sources, model: Encoder
) -> list[Rollout]:
    """The attempts as rollouts, which carry what the algorithm needs and nothing else: no reward for one that needs
    none.

    Raises UsageError for an attempt that was not sampled from the whole distribution.
    """
    if "copies" in algorithm.needs:
        return _copies(attempts, sources, model)
    rollouts: list[Rollout] = []
    for attempt in attempts:
        if attempt.hinted and "hints" not in algorithm.needs:
            continue
        _require_whole(attempt)
        for sequence in _sequences(attempt, model):
            request = attempt.calls[sequence.first].request
            real: tuple[int, ...] = ()
            hint = ""
            if {"labels", "teacher"} & algorithm.needs:
                label = sources.label(attempt.item)
                if label and (label in request.choices or not request.choices):
                    real = _answer_tokens(model, request, label) if "labels" in algorithm.needs else ()
                    hint = sources.hint(attempt.item) if "teacher" in algorithm.needs else ""
                    if hint and not _fits(model, request.prompt + hint, request.plain, len(sequence.tokens)):
                        hint = ""
            rollouts.append(
                Rollout(
                    group=attempt.group,
                    item=attempt.item,
                    attempt=attempt.id,
                    prompt=request.prompt,
                    choices=request.choices,
                    bias=request.bias,
                    tokens=sequence.tokens,
                    logprobs=sequence.logprobs,
                    mask=sequence.mask,
                    reward=attempt.reward if "rewards" in algorithm.needs else float("nan"),
                    answer=attempt.answer or "",
                    real=real,
                    hint=hint,
                    adapter=attempt.adapter,
                    own=not attempt.hinted,
                    temperature=sequence.temperature,
                    cut=sequence.cut,
                    fill=max(call.fill for call in attempt.calls),
                    plain=request.plain,
                )
            )
    return rollouts


def _answer_tokens(model: Encoder, request: SampleRequest, answer: str) -> tuple[int, ...]:
    """The tokens of an answer to a request, which is one of its choices if it has any."""
    if not request.choices:
        return model.encode_completion(answer)
    return (model.encode_choices(request.choices, request.plain)[request.choices.index(answer)],)


def _fits(model: Encoder, prompt: str, plain: bool, tokens: int) -> bool:
    """Whether the model has positions for a prompt and so many tokens after it."""
    try:
        read = model.encode(prompt, plain)
    except UsageError:  # the prompt alone is too long
        return False
    return read is None or model.positions is None or len(read) + tokens <= model.positions


def _require_whole(attempt: TrainingAttempt) -> None:
    """Raise UsageError for an attempt some of whose tokens are of another distribution than training computes."""
    for call in attempt.calls:
        if call.request.narrowing:
            name, value = next(iter(call.request.narrowing.items()))
            raise UsageError(
                f"An attempt at item {attempt.item} was sampled with {name} {value:g}, and training computes the whole "
                "distribution, with a temperature alone; have the policy server sample without it."
            )


def _sequences(attempt: TrainingAttempt, model: Encoder) -> list[MergedTurns]:
    """The sequences in which something was sampled; turns that continue each other are one."""
    prompts = [model.encode(call.request.prompt, call.request.plain) for call in attempt.calls]
    turns = [
        PolicyTurn(p or (), call.tokens, call.logprobs, call.request.temperature, call.cut)
        for p, call in zip(prompts, attempt.calls, strict=True)
    ]
    if any(prompt is None for prompt in prompts) or any(call.request.choices for call in attempt.calls):
        merged = [msgspec.structs.replace(merge([turn])[0], first=index) for index, turn in enumerate(turns)]
    else:
        merged = merge(turns)
    return [sequence for sequence in merged if any(sequence.mask)]


def _copies(attempts: Sequence[TrainingAttempt], sources: Sources, model: Encoder) -> list[Rollout]:
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
