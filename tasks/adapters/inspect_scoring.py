"""A task that came from Inspect: its items, and how an answer is judged.

The task's folder was made by `inspect_tasks.py`; its modules call the functions below. They need no module of the
user's: solvers and scorers are Inspect's own, made again by their names and parameters. An answer is put in the place
of the model's, the solvers go on from there, as `multiple_choice` does to read it, and the scorer judges.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Misconfigured, NotHere
from tasks.adapters import folder as folders
from tasks.contract import Example, Item, Public, Scored
from tasks.kit import public

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer
    from inspect_ai.solver import Solver, TaskState

OUTCOMES = {
    "right": "the scorer gives 1 or more",
    "partial": "the scorer gives more than 0 and less than 1",
    "wrong": "the scorer gives 0 or less",
    "unparsed": "the item has no answer",
}
MISSING = "inspect_ai is not installed, and this needs it: pip install 'evolog[inspect]'."
ANSWER = "ANSWER: "
"""How `multiple_choice` asks for an answer; a label of such a task begins so."""
MODEL = "evolog/policy"


class Part(msgspec.Struct, frozen=True):
    """A solver or a scorer of Inspect's own."""

    name: str
    parameters: dict[str, Any]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about an Inspect task."""

    name: str
    source: str
    """The module and the task in it, for people."""
    description: str
    solvers: tuple[Part, ...]
    scorer: Part
    choices: tuple[str, ...] = ()
    """The labels, where an answer is a choice among some."""


class Entry(msgspec.Struct, frozen=True):
    """A sample without its target."""

    id: str
    input: str | list[dict[str, str]]
    """A text, or messages with `role` and `content`."""
    prompt: str = ""
    """What the model is asked."""
    choices: list[str] = []
    metadata: dict[str, Any] = {}


Target = str | list[str]
"""What Inspect compares an answer with: one text, or several of which any will do."""


def load(folder: Path, seed: int) -> Public:
    """The task as the loop may see it: labels of train alone."""
    task = _task(folder)
    train, dev, test = list[Example](), list[Item](), list[Item]()
    for entry, split in zip(task.entries, _splits(task, seed), strict=True):
        if split.name == "train":
            label = label_of(task.spec, task.answers[entry.id])
            train.append(Example(entry.id, entry.prompt, label, split.fold, folders.group_of(entry.prompt)))
        elif split.name != "spare":
            (dev if split.name == "dev" else test).append(Item(entry.id, entry.prompt, folders.group_of(entry.prompt)))
    return public(task.spec.name, task.spec.choices, train, dev, test)


def labels(folder: Path, seed: int, *splits: str) -> dict[str, str]:
    """The labels of these splits, by item id."""
    task = _task(folder)
    placed = zip(task.entries, _splits(task, seed), strict=True)
    return {entry.id: label_of(task.spec, task.answers[entry.id]) for entry, split in placed if split.name in splits}


def traces(folder: Path, seed: int) -> list[tuple[str, str]]:
    """What the policy tiny-lm is pre-trained on."""
    train = load(folder, seed).train
    return folders.traces([example.prompt for example in train], [example.label or "" for example in train], seed)


def version(folder: Path) -> str:
    """The verifier's version: the scorer's name, and Inspect's version."""
    try:
        installed = metadata.version("inspect_ai")
    except metadata.PackageNotFoundError:
        installed = "missing"
    return f"{_task(folder).spec.scorer.name}-{installed}"


def score(folder: Path, item: Item, answer: str | None, label: str | None) -> Scored:
    """What the scorer says of an answer; raises NotHere where Inspect is not installed."""
    if answer is None or label is None:
        return Scored(0.0, "unparsed")
    task = _task(folder)
    entry = next(entry for entry in task.entries if entry.id == item.id)
    value = asyncio.run(scored(task.spec, entry, answer, target_of(task.spec, label)))
    return Scored(value, "right" if value >= 1 else "partial" if value > 0 else "wrong")


def label_of(spec: Spec, target: Target) -> str:
    """A target as a label: the answer that `multiple_choice` reads as it, or a text, or a JSON list of texts."""
    if isinstance(target, list):
        return msgspec.json.encode(target).decode()
    return f"{ANSWER}{target}" if spec.scorer.name == "choice" else target


def target_of(spec: Spec, label: str) -> Target:
    """The target of a label."""
    if label.startswith('["'):
        try:
            return msgspec.json.decode(label, type=list[str])
        except msgspec.DecodeError:
            return label
    return label.removeprefix(ANSWER) if spec.scorer.name == "choice" else label


async def scored(spec: Spec, entry: Entry, answer: str, target: Target) -> float:
    """The number that the scorer's judgement of an answer is; raises Misconfigured where it is none."""
    with _needed():
        from inspect_ai.model import ModelOutput
        from inspect_ai.scorer import Target as InspectTarget
        from inspect_ai.scorer import value_to_float

    async def generate(state: "TaskState", *arguments: Any, **settings: Any) -> "TaskState":
        state.output = ModelOutput.from_content(MODEL, answer)
        state.messages.append(state.output.message)
        return state

    state = state_of(entry, target)
    for part in spec.solvers:
        state = await solver_of(part)(state, generate)
    result = await scorer_of(spec.scorer)(state, InspectTarget(target))
    if result is None or not isinstance(result.value, str | int | float | bool):
        raise Misconfigured(f"The scorer {spec.scorer.name} of {spec.source} gave {result!r:.100}; expected one value.")
    return float(value_to_float()(result.value))


async def asked(spec: Spec, entry: Entry) -> list[list[tuple[str, str]]]:
    """The messages of each call of the model that the solvers make for a sample, as (role, text), if each is answered
    with nothing.
    """
    calls: list[list[tuple[str, str]]] = []

    async def generate(state: "TaskState", *arguments: Any, **settings: Any) -> "TaskState":
        calls.append([(message.role, message.text) for message in state.messages])
        return state

    state = state_of(entry, "")
    for part in spec.solvers:
        state = await solver_of(part)(state, generate)
    return calls


def state_of(entry: Entry, target: Target) -> "TaskState":
    """What Inspect's solvers begin with for a sample."""
    with _needed():
        from inspect_ai.model import ChatMessage, ChatMessageUser, ModelName
        from inspect_ai.scorer import Target as InspectTarget
        from inspect_ai.solver import TaskState
        from pydantic import TypeAdapter

    messages: list[ChatMessage] = [ChatMessageUser(content=entry.input)] if isinstance(entry.input, str) else []
    if not isinstance(entry.input, str):
        messages = TypeAdapter(list[ChatMessage]).validate_python(entry.input)
    return TaskState(
        model=ModelName(MODEL),
        sample_id=entry.id,
        epoch=1,
        input=entry.input if isinstance(entry.input, str) else messages,
        messages=messages,
        target=InspectTarget(target),
        choices=entry.choices or None,
        metadata=dict(entry.metadata),
    )


def solver_of(part: Part) -> "Solver":
    """A solver of Inspect's own."""
    with _needed():
        from inspect_ai import solver
    made: Solver = getattr(solver, part.name)(**part.parameters)
    return made


def scorer_of(part: Part) -> "Scorer":
    """A scorer of Inspect's own."""
    with _needed():
        from inspect_ai import scorer
    made: Scorer = getattr(scorer, part.name)(**part.parameters)
    return made


@contextlib.contextmanager
def _needed() -> Iterator[None]:
    """Raise NotHere where Inspect is not installed."""
    try:
        yield
    except ModuleNotFoundError as wrong:
        if (wrong.name or "").partition(".")[0] != "inspect_ai":
            raise
        raise NotHere(MISSING, code=78) from wrong


Contents = folders.Contents[Spec, Entry, Target]


@lru_cache(maxsize=8)
def _task(folder: Path) -> Contents:
    """A task's folder never changes: it is named by its digest."""
    spec, entries = folders.read(folder, "inspect.json", Spec), folders.read(folder, "items.json", list[Entry])
    return Contents(spec, entries, folders.read(folder, "targets.json", dict[str, Target]))


def _splits(task: Contents, seed: int) -> list[folders.Split]:
    """Where each sample lies, by the seed; samples that ask the same stay together."""
    groups = [folders.group_of(entry.prompt) for entry in task.entries]
    return folders.split(groups, seed, folders.DEV_SHARE, folders.TEST_SHARE)


def rendered(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as one prompt, as the bridge has it: a single one of the user's as it is, or a line for each."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "\n".join([*(f"{role}: {text}" for role, text in messages), "assistant:"])
