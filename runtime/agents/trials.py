"""What an agent may try out before it decides: a scaffold on train items in the sandbox, with outputs, errors and
scores, and a question to the policy.

Each trial is recorded before the agent is shown what came of it, and named by what was tried. So one that is tried
again, as in a conversation that goes on after a crash, is found and not made again. Its rollouts and tokens count in
the run's budget (`TrialFinished`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec

from events.choice import TrialFinished
from events.fact import Fact, derive, derive_seed
from runtime.agents.changes import Base, Changes, Edits, Files, Removed
from runtime.agents.context import ShownAttempt, describe_fully
from runtime.agents.session import RESULT_LIMIT, AgentSession, UnfitRequest, arguments_of, clipped
from runtime.policies.interface import SampleRequest
from runtime.status import waiting

MOST_ROLLOUTS = 32
"""Attempts of one trial."""
ITEMS = 8
"""Items of a trial that names none."""
COMPLETIONS = 16
"""Completions of one question to the policy."""
PROMPT_LIMIT = 50_000
"""Characters of one question to the policy."""


class TryScaffold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Run a changed scaffold on train items in the sandbox, with the real policy, and read outputs, errors and scores.
    It changes nothing: end with propose_scaffold, whose `base` may be the name of a trial. Its rollouts are taken from
    what is left to you.
    """

    files: Files = []
    edits: Edits = []
    remove: Removed = []
    base: Base = ""
    items: Annotated[list[str], msgspec.Meta(description="Ids of train items; empty: some are drawn.")] = []
    attempts: Annotated[int, msgspec.Meta(ge=1, le=8, description="Attempts at each item.")] = 1


class AskPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask the policy directly, as `model.complete` would, and read its completions with their log-probabilities."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=PROMPT_LIMIT)]
    choices: Annotated[list[str], msgspec.Meta(description="The completions that are allowed; empty: any.")] = []
    bias: Annotated[list[float], msgspec.Meta(description="Added to the logits of the choices, one for each.")] = []
    n: Annotated[int, msgspec.Meta(ge=1, le=COMPLETIONS, description="Completions.")] = 4
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    plain: Annotated[bool, msgspec.Meta(description="Read the prompt as a text that goes on, not as a turn.")] = False


class TrialResult(NamedTuple):
    """What came of a trial's rollouts: the attempts, and what the policy read and wrote for them."""

    attempts: Sequence[ShownAttempt]
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Answers(NamedTuple):
    """The policy's completions of one question, each with the log-probability of each of its tokens."""

    texts: Sequence[str]
    logprobs: Sequence[Sequence[float]]
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Workbench(NamedTuple):
    """Where an agent's trials are made."""

    run: Callable[[str, Sequence[str], int, int], TrialResult]
    """Plays the scaffold of a digest on these train items, so many attempts at each, with a seed."""
    ask: Callable[[SampleRequest], Answers]
    """Asks the policy; raises `UnfitRequest` for what it refuses."""
    items: Sequence[str]
    """The ids of the train items that may be played."""
    adapter: str
    max_tokens: int
    rollouts_left: int | None
    """How many rollouts the trials may take in all; None without a limit."""


class Trials:
    """The trials of one conversation. `record` appends a fact, and gives the one that stood there already, if one
    did.
    """

    def __init__(
        self,
        session: AgentSession,
        changes: Changes,
        check: Callable[[Mapping[str, str]], None],
        workbench: Workbench,
        record: Callable[[Fact], Fact | None],
    ) -> None:
        self._session, self._changes, self._check = session, changes, check
        self._workbench, self._record = workbench, record
        self._finished = session.trials
        for trial in self._finished.values():
            self._remember(trial)

    def try_scaffold(self, arguments: str) -> str:
        """The tool: what came of a scaffold on train items."""
        wanted = arguments_of(TryScaffold, arguments)
        files = self._session.scanner.redacted(
            self._changes.apply(wanted.base, wanted.files, wanted.edits, wanted.remove)
        )
        self._check(files)
        items = self._items(wanted.items, wanted.attempts)
        scaffold = self._session.blobs.put_tree({path: text.encode() for path, text in files.items()})
        name = _name("scaffold", scaffold, wanted.attempts, *items)
        if known := self._finished.get(name):
            return self._text(known)
        self._require_left(rollouts := len(items) * wanted.attempts)
        seed = derive_seed(self._session.seed, "trial", self._session.generation, name)
        with waiting(self._session.waits, f"a trial of a scaffold: {rollouts} attempts"):
            result = self._workbench.run(scaffold, items, wanted.attempts, seed)
        rewards = [attempt.reward for attempt in result.attempts if attempt.reward is not None]
        mean = sum(rewards) / len(rewards) if rewards else None
        scored = "none could be scored" if mean is None else f"mean reward {mean:.4f} of {len(rewards)} scored"
        told = "\n\n".join(describe_fully(attempt) for attempt in _worst_first(result.attempts))
        text = (
            f"{name}: {rollouts} attempts at {len(items)} train items, {scored}, {result.seconds:.1f} s.\n"
            f"To propose it as it is: propose_scaffold with base {name!r} and no files.\n\n{told}"
        )
        return self._finish(
            name,
            text,
            scaffold=scaffold,
            rollouts=rollouts,
            mean_reward=mean,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            seconds=result.seconds,
        )

    def ask_policy(self, arguments: str) -> str:
        """The tool: the policy's completions of one prompt."""
        wanted = arguments_of(AskPolicy, arguments)
        if wanted.bias and len(wanted.bias) != len(wanted.choices):
            raise UnfitRequest(f"There are {len(wanted.bias)} biases for {len(wanted.choices)} choices.")
        name = _name("question", self._workbench.adapter, msgspec.json.encode(wanted).decode())
        if known := self._finished.get(name):
            return self._text(known)
        request = SampleRequest(
            prompt=wanted.prompt,
            choices=tuple(wanted.choices),
            bias=tuple(wanted.bias),
            n=wanted.n,
            temperature=wanted.temperature,
            seed=derive_seed(self._session.seed, "trial", self._session.generation, name),
            max_tokens=self._workbench.max_tokens,
            plain=wanted.plain,
        )
        answers = self._workbench.ask(request)
        lines = [
            f"{text!r}: log-probability {sum(each):.3f}, {len(each)} tokens"
            for text, each in zip(answers.texts, answers.logprobs, strict=True)
        ]
        return self._finish(
            name,
            f"{len(lines)} completions, {answers.prompt_tokens} tokens read:\n" + "\n".join(lines),
            scaffold="",
            rollouts=0,
            mean_reward=None,
            prompt_tokens=answers.prompt_tokens,
            completion_tokens=answers.completion_tokens,
            seconds=answers.seconds,
        )

    def _items(self, wanted: Sequence[str], attempts: int) -> tuple[str, ...]:
        known = set(self._workbench.items)
        if unknown := [item for item in wanted if item not in known]:
            raise UnfitRequest(f"There is no train item {unknown[0][:80]!r}; query the table items for their ids.")
        items = tuple(dict.fromkeys(wanted))
        if not items:
            count = min(ITEMS, max(1, MOST_ROLLOUTS // attempts), len(known))
            draw = {item: derive("trial", self._session.seed, self._session.generation, item) for item in known}
            items = tuple(sorted(known, key=lambda item: draw[item])[:count])
        if len(items) * attempts > MOST_ROLLOUTS:
            raise UnfitRequest(
                f"{len(items)} items with {attempts} attempts each are {len(items) * attempts} rollouts; a trial has "
                f"at most {MOST_ROLLOUTS}."
            )
        return items

    def _require_left(self, rollouts: int) -> None:
        limit = self._workbench.rollouts_left
        left = None if limit is None else limit - sum(trial.rollouts for trial in self._finished.values())
        if left is not None and rollouts > left:
            raise UnfitRequest(
                f"The trial would take {rollouts} rollouts, and the budget leaves {max(0, left)} for trials: try fewer "
                "items, or end."
            )

    def _finish(
        self,
        name: str,
        text: str,
        *,
        scaffold: str,
        rollouts: int,
        mean_reward: float | None,
        prompt_tokens: int,
        completion_tokens: int,
        seconds: float,
    ) -> str:
        session = self._session
        fact = TrialFinished(
            generation=session.generation,
            trial=name,
            agent=session.agent,
            scaffold=scaffold,
            adapter=self._workbench.adapter,
            rollouts=rollouts,
            mean_reward=mean_reward,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            micro_usd=0,
            seconds=seconds,
            result=session.blobs.put(session.scanner.redact(clipped(text, RESULT_LIMIT)).encode()),
        )
        before = self._record(fact)
        finished = before if isinstance(before, TrialFinished) else fact
        self._finished[name] = finished
        self._remember(finished)
        return self._text(finished)

    def _remember(self, trial: TrialFinished) -> None:
        if trial.scaffold:
            self._changes.add(trial.trial, trial.scaffold)

    def _text(self, trial: TrialFinished) -> str:
        return self._session.blobs.get(trial.result).decode(errors="replace")


def _name(*parts: str | int) -> str:
    return f"trial-{derive(*parts)[:8]}"


def _worst_first(attempts: Sequence[ShownAttempt]) -> list[ShownAttempt]:
    return sorted(attempts, key=lambda attempt: (attempt.reward is not None, attempt.reward or 0.0))
